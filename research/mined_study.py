"""Whether mined labels help where half of the labels are missing: four trainings of one length, on synthetic images.

    python -m research.mined_study --dataset_dir DIR --output DIR

Run from the repository's root. Half of the training labels of a set are removed at random; key slices without any other
are then no longer in the set, as in DeepLesion, whose key slices have a label. A detector is trained on the rest, and
its confident detections on the same slices are given to a second one, as lesions or as regions to ignore. A training on
all labels shows what was lost. Every run is commands that a user could type, see ``--dry_run``; the same command
resumes.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.study_commands import Places, Run, bundle_words, overlay_file, text_of
from research.study_runs import RunResult, execute
from scripts.boxes import pairwise_iou
from scripts.cli import run_typed
from scripts.data.deeplesion.columns import IGNORED_COLUMN, SPLITS
from scripts.data.deeplesion.splits import load_records
from scripts.data.slabs.slice_store import images_folder
from scripts.storage.atomic_files import replacing, write_json

ARMS = ("half", "half, mined as lesions", "half, mined as ignored", "full")
POINTS = ("0.5", "1", "2", "4")
OVERLAYS = ("size_narrow", "optimizer_adamw", "demo")
_LABELS, _MARKERS = "DL_info.csv", ("synthetic.json", "set.json")
_SAME = 0.5


@dataclass(frozen=True)
class MinedStudy:
    """What the four trainings have in common.

    Attributes:
        places: The whole set, and the folder of the study.
        share: Share of the training labels that is removed.
        mined_score: Lowest score of a detection that is taken.
        epochs: Of the training on all labels; the others make as many steps.
        options: Further options of every training.
    """

    places: Places
    share: float = 0.5
    mined_score: float = 0.9
    epochs: int = 8
    options: Mapping[str, Any] | None = None

    def half(self, seed: int) -> Path:
        """Folder of the set without the labels that a seed removes."""
        return self.places.output / "sets" / f"seed_{seed}"

    def mined(self, seed: int) -> Path:
        """The detections on the slices of that set."""
        return self._folder(ARMS[0], seed) / "mined" / "detections.csv"

    def _folder(self, arm: str, seed: int) -> Path:
        return self.places.output / "runs" / arm.replace(", ", "_").replace(" ", "_") / f"seed_{seed}"

    def run(self, arm: str, seed: int) -> Run:
        """The commands of one of `ARMS`."""
        folder, data = self._folder(arm, seed), self.places.dataset_dir if arm == "full" else self.half(seed)
        whole = _images(self.places.dataset_dir)
        epochs = max(round(self.epochs * whole / _images(data)), 1) if data.is_dir() else self.epochs
        options: dict[str, Any] = {"dataset_dir": data, "output_dir": folder / "training", "seed": seed}
        # One validation at the end, so that all arms choose their weights in the same way.
        options |= {"max_epochs": epochs, "val_interval": epochs}
        if "mined" in arm:
            options |= {"mined": self.mined(seed), "mined_as": arm.rpartition(" ")[2], "mined_score": self.mined_score}
        configs = ["configs/train.json", *map(overlay_file, OVERLAYS)]
        steps = {"training": bundle_words("training", configs, {**options, **(self.options or {})})}
        if arm == ARMS[0]:
            steps["mining"] = self._evaluation(folder, data, "train", "mined")
        steps["evaluating"] = self._evaluation(folder, self.places.dataset_dir, "test", "evaluation")
        needs = self.mined(seed) if "mined" in arm else None
        return Run(arm, folder, steps, seed, needs=needs, made_here=needs is not None)

    def _evaluation(self, folder: Path, data: Path, split: str, name: str) -> tuple[str, ...]:
        options = {"dataset_dir": data, "split": split, "checkpoint": folder / "training" / "model.pt"}
        options |= {"output_dir": folder / name, "gallery_images": 0, "batch_size": 8}
        return bundle_words("evaluating", ["configs/evaluate.json"], options)


def _images(folder: Path) -> int:
    """Training images of a set."""
    with (folder / _LABELS).open(newline="", encoding="utf-8") as file:
        return len({row["File_name"] for row in csv.DictReader(file) if row["Train_Val_Test"] == str(SPLITS["train"])})


def remove_labels(source: Path, target: Path, share: float, seed: int) -> int:
    """Make a set without some of the training labels of another; its images are those of the other.

    Args:
        source: A set with ``DL_info.csv``.
        target: Folder of the new one.
        share: Share of the lesions of the training split that lose their row, above 0 and below 1.
        seed: Which ones; the choice depends on nothing else.

    Returns:
        How many were removed.

    Raises:
        ValueError: If the share cannot be.
        OSError: If the set cannot be read or written.
    """
    if not 0 < share < 1:
        raise ValueError(f"Expected a share of labels to remove above 0 and below 1, got {share!r}.")
    with (source / _LABELS).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header, rows = list(reader.fieldnames or ()), list(reader)
    lesions = [at for at, row in enumerate(rows) if _is_lesion(row)]
    drawn = sorted(lesions, key=lambda at: hashlib.sha256(f"{seed}:{at}".encode()).digest())
    removed = set(drawn[: round(share * len(lesions))])
    target.mkdir(parents=True, exist_ok=True)
    images = images_folder(source)
    for place in (images, *(source / name for name in _MARKERS)):
        link = target / place.name
        if place.exists() and not link.is_symlink():
            link.symlink_to(place.resolve(), target_is_directory=place.is_dir())
    with replacing(target / _LABELS) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for at, row in enumerate(rows) if at not in removed)
    return len(removed)


def _is_lesion(row: Mapping[str, str]) -> bool:
    known = row["Train_Val_Test"] == str(SPLITS["train"]) and bool(row["Bounding_boxes"].strip())
    return known and row.get(IGNORED_COLUMN, "") != "1"


def judge_mined(whole: Path, half: Path, detections: Path, score: float) -> dict[str, int]:
    """What was mined, compared with the labels that were removed.

    Returns:
        ``mined`` boxes without a label in the half set, ``right`` ones among them, which overlap a removed lesion by
        0.5, and the ``removed`` lesions on these slices.
    """
    full = {record["file_name"]: record["instances"]["boxes"] for record in load_records(whole, "train")}
    left = {record["file_name"]: record["instances"]["boxes"] for record in load_records(half, "train")}
    found: dict[str, list[list[float]]] = {name: [] for name in left}
    with detections.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if float(row["score"]) >= score:
                found[row["id"]].append([float(row[name]) for name in ("x1", "y1", "x2", "y2")])
    counts = {"mined": 0, "right": 0, "removed": 0}
    for name, rows in found.items():
        boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
        new = boxes[(pairwise_iou(boxes, left[name]) < _SAME).all(axis=1)]
        overlap = pairwise_iou(new, full[name]) >= _SAME
        counts["mined"] += len(new)
        counts["right"] += int(overlap.any(axis=1).sum())
        counts["removed"] += len(full[name]) - len(left[name])
    return counts


def summary(results: Mapping[str, Sequence[RunResult]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each arm's sensitivities on the test split."""
    found: dict[str, Any] = {}
    for arm, runs in results.items():
        values = {name: [run["metrics"]["sensitivity"][name] for run in runs] for name in POINTS}
        found[arm] = {
            name: {"mean": statistics.mean(each), "sd": statistics.stdev(each) if len(each) > 1 else None}
            for name, each in values.items()
        }
    return found


def format_summary(content: Mapping[str, Any]) -> str:
    """The summary as a table in Markdown, in percent."""
    lines = [
        "| training labels | " + " | ".join(f"at {name}" for name in POINTS) + " |",
        "| --- | " + "--- | " * len(POINTS),
    ]
    for arm, points in content.items():
        cells = [
            f"{100 * p['mean']:.1f}" + ("" if p["sd"] is None else f" ± {100 * p['sd']:.1f}") for p in points.values()
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(line.rstrip() for line in lines)


def mined_study(
    dataset_dir: str,
    output: str,
    *,
    seeds: Sequence[int] | int = (0, 1, 2),
    share: float = 0.5,
    mined_score: float = 0.9,
    epochs: int = 8,
    dry_run: bool = False,
    **options: Any,
) -> None:
    """Train on half of the labels, on these with mined ones as lesions or as regions to ignore, and on all labels.

    Args:
        dataset_dir: A set in DeepLesion's format: synthetic, as nothing of a real one can be removed that is complete.
        output: Folder of the runs, of mined.json and of mined.md.
        seeds: Of the trainings and of which labels are removed.
        share: Share of the training labels that is removed.
        mined_score: Lowest score of a detection that is taken.
        epochs: Of the training on all labels; the others make as many steps.
        dry_run: Print the commands and do nothing but the sets without labels.
        options: Further options of every training.

    Raises:
        ValueError: If a number cannot be.
        OSError: If the set cannot be read or the output not written.
        RunFailed: If a command fails.
    """
    numbers = [seeds] if isinstance(seeds, int) else list(seeds)
    places = Places(Path(os.path.abspath(dataset_dir)), Path(os.path.abspath(output)))
    study = MinedStudy(places, share, mined_score, epochs, options)
    results: dict[str, list[RunResult]] = {arm: [] for arm in ARMS}
    judged = []
    for seed in numbers:
        removed = remove_labels(places.dataset_dir, study.half(seed), share, seed)
        print(f"Seed {seed}: {removed} labels removed, in {study.half(seed)}.", flush=True)
        for arm in ARMS:
            run = study.run(arm, seed)
            if dry_run:
                print("\n".join(text_of(words) for words in run.steps.values()))
            else:
                results[arm].append(execute(run, places))
        if not dry_run:
            judged.append(judge_mined(places.dataset_dir, study.half(seed), study.mined(seed), mined_score))
    if dry_run:
        return
    content = summary(results)
    rules = {"share": share, "mined_score": mined_score, "epochs": epochs, "seeds": numbers}
    write_json({**rules, "sensitivity": content, "mined": judged}, places.output / "mined.json")
    text = format_summary(content)
    (places.output / "mined.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    for seed, counts in zip(numbers, judged, strict=True):
        print(f"Seed {seed}: {counts['mined']} boxes mined, {counts['right']} of them of {counts['removed']} removed.")


def main() -> None:
    """Command line: an error about the input ends in one line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_typed(mined_study)


if __name__ == "__main__":
    main()
