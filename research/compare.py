"""Draw the FROC curves of several evaluations in one figure, next to the paper's points.

    python -m research.compare --output froc.png "nine slices=runs/demo" "one slice=runs/demo_one_slice"

Run from the repository's root. Each evaluation is the folder that ``run evaluating`` wrote.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from scripts.cli import run_typed
from scripts.metrics.froc import FrocCurve
from scripts.metrics.froc_figure import write_froc_figure
from scripts.metrics.image.image_figure import froc_figure
from scripts.metrics.matching import FrocRule
from scripts.storage.safe_json import read_json


def read_evaluation(folder: str | Path) -> tuple[FrocCurve, dict[str, Any]]:
    """Read back the curve and the metrics that an evaluation wrote.

    Args:
        folder: Folder with ``metrics.json`` and ``froc.csv``.

    Returns:
        The FROC curve of the rule that the evaluation names, and the content of ``metrics.json``.

    Raises:
        FileNotFoundError: If one of the two files is not there.
        ValueError: If one of them is invalid.
    """
    folder = Path(folder)
    for name in ("metrics.json", "froc.csv"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"Expected the folder of an evaluation, found no {name} in {folder}.")
    try:
        metrics = read_json(folder / "metrics.json")
        with (folder / "froc.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["curve"] == metrics["rule"]]
        columns = ("fps_per_image", "sensitivity", "score")
        points = np.array([[float(row[column]) for column in columns] for row in rows]).reshape(-1, 3)
        counts = metrics["counts"]
        curve = FrocCurve(
            fps_per_image=points[:, 0],
            sensitivity=points[:, 1],
            scores=points[:, 2],
            num_images=counts["images"],
            num_lesions=counts["lesions"],
            rule=FrocRule(metrics["rule"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise ValueError(f"Expected the files of an evaluation in {folder}, cannot read them: {error!r}.") from error
    return curve, metrics


def compare(*evaluations: str, output: str = "froc.png") -> None:
    """Draw the curves of several evaluations.

    Args:
        evaluations: ``NAME=FOLDER`` each, in the order of the legend.
        output: PNG to write.

    Raises:
        ValueError: If the list is empty, one is not of that form, or they are of different data sets.
        FileNotFoundError: If an evaluation is not there.
    """
    if not evaluations or not all("=" in text for text in evaluations):
        raise ValueError(f"Expected evaluations as 'NAME=FOLDER', got {list(evaluations)}.")
    pairs = [text.split("=", 1) for text in evaluations]
    read = {name: read_evaluation(folder) for name, folder in pairs}
    data = {
        (metrics["dataset"], metrics["counts"]["images"], metrics["counts"]["lesions"]) for _, metrics in read.values()
    }
    if len(data) > 1:
        raise ValueError(f"Expected evaluations of one data set, got {sorted(data)} (name, images, lesions).")
    notices = [metrics["notice"] for _, metrics in read.values() if metrics["notice"]]
    figure = froc_figure(
        {name: curve for name, (curve, _) in read.items()},
        dataset_name=next(iter(data))[0],
        notice=notices[0] if notices else None,
        intervals={name: metrics["sensitivity_interval"] for name, (_, metrics) in read.items()},
    )
    write_froc_figure(figure, Path(output))
    print(f"Wrote {output}.")


if __name__ == "__main__":
    run_typed(compare)
