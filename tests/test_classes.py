"""Two classes from masks to results: the names are right in every file, and a training tells the two apart."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from monai.utils import set_determinism

from scripts.data.deeplesion.splits import load_records
from scripts.tools.import_set import main as import_set
from scripts.tools.score_predictions import score
from scripts.weights import write_atomically
from support.bundle_runs import run_workflow
from support.fake_truth import save_nifti
from support.packed_bundle import DEMO

# Neither the order of the alphabet nor that of the values of the masks.
CLASSES = ("dark", "bright", "absent")
PATTERNS = ["dark=2", "bright=1", "absent=9"]
HU = {1: 140, 2: -60}
SHAPE, SIDE = (12, 64, 64), 64
SPACING = np.array([2.5, 1.0, 1.0])


def write_case(folder: Path, name: str, seed: int) -> Path:
    """A CT with two bright and two dark upright cylinders of 9 to 13 mm, and its mask, 1 for bright and 2 for dark."""
    rng = np.random.default_rng(seed)
    hu, mask = np.full(SHAPE, 40.0), np.zeros(SHAPE, dtype=np.uint8)
    hu[:, :4] = hu[:, -4:] = hu[..., :4] = hu[..., -4:] = -1000
    places = np.stack(np.indices(SHAPE), axis=-1) * SPACING
    corners = rng.permutation([(20, 20), (20, 44), (44, 20), (44, 44)])
    for number, (y, x) in enumerate(corners):
        value = 1 + number % 2
        middle = (rng.uniform(8, 20), y + rng.uniform(-3, 3), x + rng.uniform(-3, 3))
        far, radius = np.abs(places - middle), rng.uniform(4.5, 6.5)
        inside = (far[..., 0] <= radius) & (np.linalg.norm(far[..., 1:], axis=-1) <= radius)
        hu[inside], mask[inside] = HU[value], value
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    save_nifti(folder / "masks" / f"{name}.nii.gz", mask.T, affine)
    noisy = hu + rng.normal(0, 15, SHAPE)
    return save_nifti(folder / "images" / f"{name}.nii.gz", noisy.T.astype(np.int16), affine)


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    set_determinism(None)


def train(data: Path, output: Path, *overlays: str, **settings: Any) -> Path:
    files = [f"variants/{name}.yaml" for name in ("size_narrow", *overlays, "optimizer_adamw", "own_data")]
    settings |= {"train_scales": [SIDE], "test_scale": SIDE, "network_def#head#anchor_scale": 3, "num_workers": 0}
    run_workflow("training", "train.json", *files, dataset_dir=str(data), output_dir=str(output), **settings)
    return output / "model.pt"


def evaluate(data: Path, weights: Path, output: Path) -> dict[str, Any]:
    few = {"bootstrap_resamples": 5, "gallery_images": 0, "num_workers": 0, "engine": "torch"}
    run_workflow(
        "evaluating", "evaluate.json", dataset_dir=str(data), checkpoint=str(weights), output_dir=str(output), **few
    )
    return json.loads((output / "metrics.json").read_text())


def detect(scan: Path, weights: Path, output: Path, **settings: Any) -> dict[str, Any]:
    settings |= {"engine": "torch", "outputs": "json,csv", "progress": False}
    run_workflow(
        "inferring", "inference.json", input=str(scan), checkpoint=str(weights), output_dir=str(output), **settings
    )
    return json.loads((output / "lesions.json").read_text())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def always(weights: Path, place: int) -> Path:
    """Weights that call every box by the class at a place, from 0."""
    content = torch.load(weights, weights_only=True)
    model, stages = content["model"], "roi_heads.predictor.cls_score.bias"
    wanted = torch.full((len(CLASSES),), -30.0)
    wanted[place] = 30.0
    if stages in model:
        model[stages] = torch.cat([torch.zeros(1), wanted])
    else:
        # Anchor by anchor, of each the classes; from what the network computes comes a little.
        bias = "network.classification_head.cls_logits.bias"
        model[bias] = wanted.repeat(len(model[bias]) // len(CLASSES))
    path = weights.with_name(f"always_{place}.pt")
    write_atomically(content, path)
    return path


@pytest.mark.parametrize("head", [(), ("head_retinanet",)], ids=["two stages", "one stage"])
def test_names_are_those_of_the_truth_in_every_file(tmp_path: Path, head: tuple[str, ...]) -> None:
    scans = [write_case(tmp_path, f"case_{number}", number) for number in range(4)]
    data, images = tmp_path / "set", str(tmp_path / "images")
    import_set(images, str(data), str(tmp_path / "masks"), classes=PATTERNS, split=(0.5, 0.25, 0.25))
    truth = {split: load_records(data, split) for split in ("train", "validation", "test")}
    for records in truth.values():
        for record in records:
            series, _, number = record["file_name"].rpartition("_")
            hu = cv2.imread(str(data / "Images_png" / series / number), cv2.IMREAD_UNCHANGED).astype(int) - 32768
            for (x1, y1, x2, y2), label in zip(*(record["instances"][key] for key in ("boxes", "labels")), strict=True):
                middle = hu[int((y1 + y2) / 2), int((x1 + x2) / 2)]
                assert CLASSES[label - 1] == ("bright" if middle > 40 else "dark")
    weights = train(data, tmp_path / "run", *head, max_epochs=1, train_fraction=0.3)
    stored = torch.load(weights, weights_only=True)
    assert (stored["network"]["num_classes"], stored["info"]["recipe"]["classes"]) == (3, list(CLASSES))
    for place, name in enumerate(CLASSES[:2]):
        metrics = evaluate(data, always(weights, place), tmp_path / "eval")
        labels = Counter(CLASSES[label - 1] for each in truth["test"] for label in each["instances"]["labels"])
        assert {own: numbers["lesions"] for own, numbers in metrics["classes"].items()} == {**labels, "absent": 0}
        assert Counter(row["class"] for row in rows(tmp_path / "eval" / "true_lesions.csv")) == labels
        sure = [row["class"] for row in rows(tmp_path / "eval" / "detections.csv") if float(row["score"]) > 0.5]
        assert set(sure) == {name}
    document = detect(scans[0], always(weights, 1), tmp_path / "found", score_threshold=0.5)
    assert document["model"]["classes"] == list(CLASSES)
    assert {lesion["class"] for lesion in document["lesions"]} == {"bright"}
    assert {row["class"] for row in rows(tmp_path / "found" / "lesions.csv")} == {"bright"}


def test_lesions_of_a_result_are_imported_with_their_class(tmp_path: Path) -> None:
    """As a person corrected them, by the names and in the order of the new set."""
    scan = write_case(tmp_path, "case", 0)
    boxes = {"dark": [10, 10, 2, 20, 20, 6], "bright": [40, 10, 2, 50, 20, 6], "cyst": [40, 40, 2, 50, 50, 6]}
    lesions = [{"box_voxel": box, "class": name} for name, box in boxes.items()]
    review = [{**lesion, "review": {"decision": "accepted"}} for lesion in lesions]
    for file, content in (("lesions.json", lesions), ("lesions_reviewed.json", review)):
        path = tmp_path / file
        path.write_text(json.dumps({"schema_version": "1.4", "input": {"name": scan.name}, "lesions": content}))
        output = tmp_path / f"set_{path.stem}"
        import_set(str(scan), str(output), str(path), classes=["bright", "dark", "cyst=c*"], split=(1, 0, 0))
        assert json.loads((output / "set.json").read_text())["classes"] == ["bright", "dark", "cyst"]
        corners = {
            (label, *box[:2].round().astype(int).tolist())
            for record in load_records(output, "train")
            for box, label in zip(record["instances"]["boxes"], record["instances"]["labels"].tolist(), strict=True)
        }
        assert corners == {(1, 40, 10), (2, 10, 10), (3, 40, 40)}


@pytest.mark.slow
def test_a_training_tells_two_classes_apart(tmp_path: Path) -> None:
    for number in range(12):
        write_case(tmp_path, f"case_{number:02d}", number)
    new = write_case(tmp_path / "new", "new", 100)
    data = tmp_path / "set"
    import_set(
        str(tmp_path / "images"), str(data), str(tmp_path / "masks"), classes=PATTERNS[:2], split=(0.6, 0.1, 0.3)
    )
    start = {"pretrained": str(DEMO), "pretrained_parts": "all", "optimizer#lr": 0.0015}
    weights = train(data, tmp_path / "run", max_epochs=12, **start)
    metrics = evaluate(data, weights, tmp_path / "eval")
    for name in CLASSES[:2]:
        numbers = metrics["classes"][name]
        print(f"{name}: {numbers['lesions']} lesions, at 0.5 {numbers['sensitivity']['0.5']}, AP {numbers['ap50']}")
        # Guessed classes have at most 0.5. From scratch, last digits alone would change it by 0.2.
        assert numbers["ap50"] >= 0.8
    import_set(
        str(tmp_path / "new" / "images"),
        str(tmp_path / "kept"),
        str(tmp_path / "new" / "masks"),
        classes=["bright=1", "dark=2"],
        split=(0, 0, 1),
    )
    detect(new, weights, tmp_path / "found" / "new", score_threshold=0.05)
    score(str(tmp_path / "kept"), str(tmp_path / "found"), str(tmp_path / "scores"), bootstrap_resamples=5)
    scored = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    for name, numbers in scored["classes"].items():
        found = numbers["protocols"]["3D IoU 0.3"]["sensitivity"]["1"]
        print(f"{name}: {numbers['lesions']} lesions of a new scan, found at one false positive: {found}")
        # Called by the names of the other class, both would be two false positives and no hits.
        assert (numbers["lesions"], found) == (2, 1.0)
