"""COCO: from a photograph's detections to cases, and the files of an evaluation."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np

from ..boxes import from_coco, to_coco
from ..data.coco.coco_instances import Categories
from ..data.coco.colour_slabs import read_colour
from ..inference.outputs.pictures.photograph_pictures import Named, contact_sheet, draw_photograph
from ..metrics.coco_average_precision import CocoCase, CocoMetrics, coco_average_precision
from ..metrics.evaluation_files import COCO_LIST, METRICS, forget_evaluation
from ..storage.atomic_files import replacing, sha256, write_json
from ..storage.output_folder import evaluation_lock
from .evaluating import FolderReport, WeightsLoader
from .to_cases import to_case

logger = logging.getLogger(__name__)


def to_coco_case(data: dict[str, Any]) -> dict[str, CocoCase]:
    """Bring one photograph's detections to pixels of the original image and its labels to COCO's category ids.

    Args:
        data: A sample with its detections as ``pred`` (``boxes``, ``scores`` and ``labels``), see
            :func:`.to_case`; its ``record`` is one of :mod:`scripts.data.coco.coco_instances`.

    Returns:
        ``case``: see :mod:`scripts.metrics.coco_average_precision`, and ``image``, ``width`` and ``height`` next to it.
    """
    record, case = data["record"], to_case(data)["case"]
    ids, (height, width) = np.array(record["categories"].ids, dtype=np.int64), record["image_size"]
    details: Any = {
        # Padded, so that names sort like numbers.
        "id": f"{record['image_id']:012d}",
        "image_id": record["image_id"],
        "category_ids": ids[np.asarray(data["pred"]["labels"], dtype=np.int64) - 1],
        "truth": record["truth"],
        "height": height,
        "width": width,
    }
    return {"case": CocoCase(**{**case, **details})}


class CocoReport(FolderReport):
    """Writes the files of an evaluation on COCO and logs its figures, when the engine is done.

    ``metrics.json`` holds the six figures and the AP of every category; ``detections.json`` is COCO's results
    format, with its own category ids, as its evaluation server takes it; ``detections.png`` shows some images.

    Args:
        output_dir: Folder of the files.
        metric: The metric that gathered the cases.
        categories: Of the data set, for names.
        weights: Loader of the weights; what they are goes into the report.
        dataset_name: What was evaluated.
        pictures: Images shown, the first ones; 0 for none.
    """

    # Detections are shown from this score on; the files hold them all.
    shown_score = 0.5

    def __init__(
        self,
        output_dir: str | Path,
        metric: CocoMetrics,
        *,
        categories: Categories,
        weights: WeightsLoader | None = None,
        dataset_name: str = "COCO",
        pictures: int = 9,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.lock = evaluation_lock(output_dir)
        self.metric = metric
        self.names = dict(zip(categories.ids, categories.names, strict=True))
        self.weights = weights
        self.dataset_name = dataset_name
        self.pictures = pictures

    def write(self) -> None:
        """Write the files; in several processes the first one does."""
        cases = self.metric.cases
        if idist.get_rank() != 0:
            return
        figures, by_category = coco_average_precision(cases)
        report = {
            "dataset": self.dataset_name,
            "images": len(cases),
            "boxes": int(sum((~case["truth"]["crowd"]).sum() for case in cases)),
            "weights": {**self.weights.info, "sha256": sha256(self.weights.path)} if self.weights is not None else None,
            **(self.weights.recipe if self.weights is not None else {}),
            **{name: None if math.isnan(value) else value for name, value in figures.items()},
            "ap_by_category": {self.names[number]: value for number, value in by_category.items()},
        }
        results = [row for case in cases for row in _results(case)]
        forget_evaluation(self.output_dir)
        write_json(results, self.output_dir / COCO_LIST)
        if self.pictures > 0:
            with replacing(self.output_dir / "detections.png") as part:
                contact_sheet([self._picture(case) for case in cases[: self.pictures]]).save(part, format="PNG")
        write_json(report, self.output_dir / METRICS)
        self.lock.release()
        table = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        logger.info("Results on %s (%d images): %s.", self.dataset_name, len(cases), table)

    def _picture(self, case: CocoCase) -> Any:
        shown = [row for row in range(len(case["scores"])) if case["scores"][row] >= self.shown_score]
        found: list[Named] = [
            (case["boxes"][row].tolist(), f"{self.names[int(case['category_ids'][row])]} {case['scores'][row]:.2f}")
            for row in shown
        ]
        truth: list[Named] = [(box, "") for box in from_coco(case["truth"]["bbox"]).tolist()]
        pixels = read_colour(case["image"], (case["height"], case["width"]))
        return draw_photograph(pixels, found, truth)


def _results(case: CocoCase) -> list[dict[str, Any]]:
    """One image's detections in COCO's results format: x, y, width, height to a hundredth of a pixel."""
    rows = zip(to_coco(case["boxes"]).round(2), case["category_ids"], case["scores"], strict=True)
    return [
        {
            "image_id": case["image_id"],
            "category_id": int(number),
            "bbox": box.tolist(),
            "score": round(float(score), 6),
        }
        for box, number, score in rows
    ]
