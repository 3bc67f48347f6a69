"""The work behind ``python -m monai.bundle run evaluating_volumes``: detect in every sub-volume, then score in 3D."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from ..data.deeplesion.subvolume_frames import from_edges, from_slab
from ..data.deeplesion.subvolumes import VolumeRecord, read_subvolume
from ..engines.engine import EngineChoice
from ..inference.detections import Lesion, SliceBoxes, link_boxes
from ..inference.volume_detector import VolumeDetector
from ..metrics.bootstrap import Bootstrap
from ..metrics.evaluation_files import VOLUME_LIST, Evaluated, forget_evaluation
from ..metrics.free_response.class_cases import named, names_in_set
from ..metrics.volume.volume_report import write_volume_report
from ..metrics.volume.volume_tables import format_volume_table, official_predictions
from ..networks import Patient
from ..storage.atomic_files import write_json
from ..storage.output_folder import evaluation_lock
from .scan_patient import facts_read
from .trained_weights import Weights
from .volume_predictions import Detections, read_predictions

logger = logging.getLogger(__name__)


@dataclass
class VolumeScorer:
    """Detect lesions in sub-volumes, or take detections from a file, and score them against 3D labels.

    Attributes:
        dataset: Volume records, see `scripts.data.deeplesion.subvolumes`.
        inferer: Scan and network to slice boxes.
        weights: The network.
        output_dir: Folder of the report.
        link: Slice boxes to lesions.
        predictions: Detections to score instead of running a network, see `read_predictions`; None to run it.
        about: What is scored; the part of the label file is added to its name.
        bootstrap: How to resample patients; 1,000 resamples by default.
        progress: Show a progress bar over the sub-volumes.
        engine: Runs the network; PyTorch without it.
    """

    dataset: Sequence[VolumeRecord]
    inferer: VolumeDetector
    weights: Weights
    output_dir: str | Path
    link: Callable[[SliceBoxes], list[Lesion]] = link_boxes
    predictions: str | Path | None = None
    about: Evaluated = Evaluated("sub-volumes")
    bootstrap: Bootstrap | None = None
    progress: bool = True
    engine: EngineChoice | None = None

    def run(self) -> dict[str, Any]:
        """Detect, score and write; ``predictions.json`` is written before anything is scored.

        Returns:
            The content of ``metrics.json``.

        Raises:
            OSError: If there are no weights, a slice cannot be read, or a file cannot be written.
            ValueError: If the weights, a slice, or the file of predictions cannot be used.
            FloatingPointError: If the network gives NaN.
        """
        with evaluation_lock(self.output_dir):
            return self._run(Path(self.output_dir))

    def _run(self, folder: Path) -> dict[str, Any]:
        records = list(self.dataset)
        notices, origin, own = [self.about.notice], {}, folder / VOLUME_LIST
        if self.predictions is None:
            cases = self._detect(records)
            origin = self._origin()
            notices += [self.weights.info.get("notice"), self.weights.recipe_of_file.class_note()]
            forget_evaluation(folder)
            write_json(official_predictions(cases), own)
        else:
            found = read_predictions(self.predictions, [record["id"] for record in records])
            cases = [{**record, **found[record["id"]]} for record in records]
        name = " ".join(filter(None, [self.about.dataset, *(record["part"] for record in records[:1])]))
        notice = " ".join(text for text in notices if text) or None
        about = replace(self.about, dataset=name, notice=notice, origin={**origin, **self.about.origin})
        metrics = write_volume_report(cases, folder, about, bootstrap=self.bootstrap, keep=[self.predictions or own])
        logger.info("Results on %s:\n%s", name, format_volume_table(metrics))
        return metrics

    def _origin(self) -> dict[str, Any]:
        """Which weights, and how what they saw differs from their training."""
        info = self.weights.info
        return {
            "weights": {name: info.get(name) for name in ("name", "path", "sha256")},
            "recipe": self.weights.used(self.inferer).plain(),
            "deviations": self.weights.recipe_of_file.deviations(self.weights.used(self.inferer)),
            **(self.engine.attach(self.weights.load())._asdict() if self.engine is not None else {}),
        }

    def _detect(self, records: Sequence[VolumeRecord]) -> list[dict[str, Any]]:
        network = self.weights.load()
        self.weights.tell(self.inferer)
        if self.engine is not None:
            self.engine.attach(network)
        if "patient" in facts_read(network):
            known = [sum(not math.isnan(record["patient_facts"][at]) for record in records) for at in (0, 1)]
            logger.info(
                "Scores are refined with sex and age: known of %d and %d out of %d sub-volumes.", *known, len(records)
            )
        with tqdm(records, desc="sub-volumes", unit="volume", disable=not self.progress) as bar:
            return [{**record, **self._detect_one(record, network)} for record in bar]

    def _detect_one(self, record: VolumeRecord, network: nn.Module) -> Mapping[str, Any]:
        scan = read_subvolume(record)
        _check_inside(record, scan.hu.shape)
        found = self.inferer(scan, network, **_patient_of(record, network))
        lesions = self.link(found)
        return {**lesion_boxes(found, lesions, record["slice_range"][0]), **self._classes(record, lesions)}

    def _classes(self, record: VolumeRecord, lesions: Sequence[Lesion]) -> dict[str, np.ndarray]:
        """The classes that the network names, in a data set that knows several."""
        called = names_in_set(self.weights.info.get("classes", ()), record["class_names"])
        if called is None:
            return {}
        return {"classes": named(np.array([lesion.label for lesion in lesions], dtype=np.int64), called)}


def lesion_boxes(found: SliceBoxes, lesions: Sequence[Lesion], first: int) -> Detections:
    """Put linked lesions into the volume frame.

    Args:
        found: Slice boxes of the sub-volume.
        lesions: What was linked of them.
        first: Number of the sub-volume's first slice in the series.

    Returns:
        ``boxes`` ``(M, 6)`` on whole slices, ``scores`` ``(M,)``, and ``tracks`` ``(K, 6)``: on each slice of a lesion
        its slice box nearest to it along z.
    """
    edges = np.array([lesion.box for lesion in lesions], dtype=np.float64).reshape(-1, 6)
    boxes = from_edges(edges, first, found.shape[0])
    tracks = [np.zeros((0, 6))]
    for row, (lesion, box) in enumerate(zip(lesions, boxes, strict=True)):
        members = np.asarray(lesion.members)
        slices = np.arange(box[2], box[5] + 1)
        away = np.abs(found.positions[found.slices[members]][None, :] - (slices - first)[:, None])
        nearest = members[away.argmin(axis=1)]
        plane = from_slab(found.boxes[nearest], slices, slices)[:, [0, 1, 3, 4]]
        tracks.append(np.column_stack([np.full(len(slices), row), slices, plane]))
    scores = np.array([lesion.score for lesion in lesions], dtype=np.float64)
    return {"boxes": boxes, "scores": scores, "tracks": np.concatenate(tracks)}


def _patient_of(record: VolumeRecord, network: nn.Module) -> dict[str, Patient]:
    """What a network that reads sex and age is told; where a slice lies in the body is never known of a whole scan."""
    return {"patient": Patient(*record["patient_facts"])} if "patient" in facts_read(network) else {}


def _check_inside(record: VolumeRecord, shape: tuple[int, ...]) -> None:
    """Reject labels that lie wholly outside of the slices: another series, or another size of image."""
    for boxes in (record["true_boxes"], record["key_boxes"]):
        if boxes is None:
            continue
        outside = (boxes[:, 3:5] < 0).any(axis=1) | (boxes[:, 0] >= shape[2]) | (boxes[:, 1] >= shape[1])
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise ValueError(
                f"Expected boxes that overlap their slices of {shape[1]} x {shape[2]} pixels, got "
                f"{boxes[row].tolist()} (first and last pixel and slice) as box {row} in {record['source']}."
            )
