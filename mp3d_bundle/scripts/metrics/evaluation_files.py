"""The folder of an evaluation: tables as CSV, the FROC figure, and ``metrics.json`` last; and what it is about."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..storage.atomic_files import write_csv, write_json
from .froc_figure import write_froc_figure

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
GALLERY = "gallery"
# Lists of detections: of volumes, and of COCO.
VOLUME_LIST, COCO_LIST = _LISTS = ("predictions.json", "detections.json")
# All that evaluations of images, of volumes and of COCO write, metrics first.
_WRITTEN = (
    METRICS,
    *(f"{name}.csv" for name in ("sensitivity", "froc", "thresholds", "detections", "true_lesions", "tags")),
    *("froc.png", "coco_results.json", *_LISTS, "detections.png", f"{GALLERY}/index.html"),
)
_PAGES = tuple(f"{GALLERY}/{kind}_[0-9][0-9]*.png" for kind in ("false_positives", "misses", "hits"))

# Header and rows of a CSV file.
Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated.

    Attributes:
        dataset: Name for titles: ``"DeepLesion test"``.
        notice: What every reader of the figures must know, e.g. that the data are synthetic; None for nothing.
        origin: What the detections come from, plain values: ``weights``, ``recipe``, ``split``.
        tag_names: Names of the tags that the detector scores.
        tag_threshold: Scores from which they are named, one number or one for each; None for the weights' own.
    """

    dataset: str
    notice: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    tag_names: Sequence[str] = ()
    tag_threshold: float | Sequence[float] | None = None


def keep_inputs(output_dir: str | Path, *inputs: str | Path) -> None:
    """Reject a folder in which an evaluation would replace what it reads.

    Raises:
        ValueError: If one of the inputs has the place of a file of the evaluation.
    """
    written = {(Path(output_dir) / name).resolve() for name in _WRITTEN}
    for path in inputs:
        if Path(path).resolve() in written:
            raise ValueError(f"Expected another folder than {output_dir}: the evaluation there would replace {path}.")


def forget_evaluation(output_dir: str | Path, keep: Iterable[str | Path] = ()) -> None:
    """Remove an evaluation of any kind, metrics first, before the first file of another one is written.

    Results of two evaluations never stand next to each other. Other files stay, such as those of an inference, and
    lists of detections in a folder without metrics, which may be another program's.

    Args:
        output_dir: The folder; it may not be there.
        keep: Files that stay: what the new evaluation reads, or has written already.

    Raises:
        OSError: If a file cannot be removed.
    """
    folder, kept = Path(output_dir), {Path(path).resolve() for path in keep}
    whole = (folder / METRICS).exists()
    if whole:
        logger.info("Replacing the evaluation in %s.", folder)
    pages = [path for pattern in _PAGES for path in folder.glob(pattern)]
    for path in (*(folder / name for name in _WRITTEN), *pages):
        if path.resolve() not in kept and not (path.name in _LISTS and (not whole or _of_inference(path))):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files, or no folder
        (folder / GALLERY).rmdir()


def _of_inference(path: Path) -> bool:
    """Whether it is the ``detections.json`` of an inference, an object; COCO's results are a list."""
    if path.name != COCO_LIST or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1) == b"{"


def write_evaluation(
    output_dir: str | Path, metrics: Mapping[str, Any], tables: Mapping[str, Table], figure: Figure
) -> None:
    """Write an evaluation, each file whole or not at all. The metrics of an earlier one go first.

    Args:
        output_dir: Folder to write to, made if need be.
        metrics: Content of ``metrics.json``, which is written last: where it is, the other files belong to it.
        tables: CSV files by their name without ending.
        figure: Content of ``froc.png``.

    Raises:
        OSError: If a file cannot be written.
    """
    folder = Path(output_dir)
    (folder / METRICS).unlink(missing_ok=True)
    for name, (header, rows) in tables.items():
        write_csv(header, rows, folder / f"{name}.csv")
    write_froc_figure(figure, folder / "froc.png")
    write_json(metrics, folder / METRICS)
    logger.info("Wrote the evaluation to %s.", folder)
