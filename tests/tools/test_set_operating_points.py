"""Operating points: thresholds keep to their numbers of false positives, stored as plain values."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scripts.cli import command_line
from scripts.storage.atomic_files import sha256
from scripts.tools.set_operating_points import find_thresholds, operating_points, read_boxes
from scripts.weights import read_tensors, tensors_sha256
from scripts.workflows.trained_weights import Weights
from support.fake_evaluations import evaluation_in


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"model": {"a": torch.ones(2)}, "network": {}, "info": {"inference": {"image_size": 96}}}, path)
    return path


def test_thresholds_keep_to_their_false_positives(tmp_path: Path) -> None:
    folder = evaluation_in(tmp_path / "validation")
    points = find_thresholds(read_boxes(folder))
    with (folder / "detections.csv").open(newline="") as file:
        false = [float(row["score"]) for row in csv.DictReader(file) if row["outcome"] == "false positive"]
    for name in ("0.05", "0.125", "0.5", "1", "2", "4"):
        rate = sum(score >= points[name] for score in false) / 60
        assert float(name) - 0.05 < rate <= float(name)


def test_everything_is_stored_with_the_weights(weights: Path, tmp_path: Path) -> None:
    folder = evaluation_in(tmp_path / "validation")
    before = weights.read_bytes()
    other = tmp_path / "deep" / "other.pt"
    operating_points(str(weights), str(folder), target=str(other), default="0.5", pixel_spacing=1.6)
    assert weights.read_bytes() == before
    info = read_tensors(other)["info"]
    assert info["inference"]["image_size"] == 96
    assert info["inference"]["pixel_spacing"] == 1.6
    assert info["inference"]["score_threshold"] == info["inference"]["operating_points"]["0.5"]
    assert len(info["calibration"]["scores"]) == len(info["calibration"]["probabilities"]) > 1
    summary = json.loads((folder / "operating_points.json").read_text())
    assert summary["fps_per_image"] == info["inference"]["operating_points"]
    assert {"ece", "brier"} <= set(summary["reliability"]["calibrated, patients held out"])
    assert (folder / "reliability.png").is_file()


def test_thresholds_of_tags_are_stored_in_their_order(weights: Path, tmp_path: Path) -> None:
    folder = evaluation_in(tmp_path / "validation")
    path = folder / "metrics.json"
    best = {"lung": 0.7, "nodule": None, "liver": 0.25}
    tags = {"per_tag": {name: {"best_threshold": value} for name, value in best.items()}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "tags": tags}))
    operating_points(str(weights), str(folder))
    # No lesion has the second tag.
    assert read_tensors(weights)["info"]["inference"]["tag_threshold"] == [0.7, 0.5, 0.25]
    summary = json.loads((folder / "operating_points.json").read_text())
    assert summary["tag_threshold"] == {"lung": 0.7, "nodule": 0.5, "liver": 0.25}
    path.write_text(json.dumps({**json.loads(path.read_text()), "tags": {"per_tag": [1]}}))
    with pytest.raises(ValueError, match="Expected numbers of tags of an evaluation"):
        operating_points(str(weights), str(folder))


def test_no_calibration_where_nothing_hits(weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = evaluation_in(tmp_path / "validation")
    table = folder / "detections.csv"
    table.write_text(re.sub(",(hit|duplicate)", ",false positive", table.read_text()))
    operating_points(str(weights), str(folder))
    assert read_tensors(weights)["info"]["calibration"] is None
    assert "without a calibration" in caplog.text


def test_inference_takes_a_point_by_its_name(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Weights(weights)
    points = {"0.5": 0.7, "1": 0.6}
    monkeypatch.setitem(vars(taken), "_described", (None, {"inference": {"operating_points": points}}))
    assert [taken.threshold(point, 0.4) for point in (0.5, "0.5", 1, "1", 1.0, None)] == [0.7, 0.7, 0.6, 0.6, 0.6, 0.4]
    with pytest.raises(ValueError, match=r"one out of 0\.5, 1, got 3"):
        taken.threshold(3, 0.4)
    with pytest.raises(ValueError, match="have none stored"):
        Weights("nowhere.pt").threshold(1, 0.4)


def origin_of(weights: Path, split: str = "validation") -> dict[str, object]:
    content = read_tensors(weights)
    return {"weights": {"path": str(weights), "tensors_sha256": tensors_sha256(content["model"])}, "split": split}


def test_an_evaluation_of_the_same_weights_is_taken_again_and_again(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = evaluation_in(tmp_path / "validation", origin=origin_of(weights))
    before = sha256(weights)
    operating_points(str(weights), str(folder))
    # The file is another one now, and the weights are the same.
    assert sha256(weights) != before
    operating_points(str(weights), str(folder), default="1")
    assert "cannot be checked" not in caplog.text
    assert "split" not in caplog.text


def test_a_default_follows_a_later_evaluation(weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = evaluation_in(tmp_path / "validation")
    operating_points(str(weights), str(folder), default="0.5")
    before = read_tensors(weights)["info"]["inference"]
    path = folder / "detections.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "score": float(row["score"]) / 2} for row in rows)
    operating_points(str(weights), str(folder))
    after = read_tensors(weights)["info"]["inference"]
    assert after["score_threshold"] == after["operating_points"]["0.5"] == before["score_threshold"] / 2
    assert "stays at" not in caplog.text
    content = read_tensors(weights)
    content["info"]["inference"]["score_threshold"] = 0.123
    torch.save(content, weights)
    operating_points(str(weights), str(folder))
    assert read_tensors(weights)["info"]["inference"]["score_threshold"] == 0.123
    assert "stays at 0.123, which is none of the earlier operating points: give --default" in caplog.text


def test_an_evaluation_of_other_weights_is_rejected(weights: Path, tmp_path: Path) -> None:
    folder = evaluation_in(tmp_path / "validation", origin=origin_of(weights))
    other = tmp_path / "other.pt"
    torch.save({"model": {"a": torch.tensor([1.0, 1.5])}, "network": {}, "info": {}}, other)
    before = other.read_bytes()
    with pytest.raises(
        ValueError, match=r"of these weights .*got one of .*model\.pt .*other\.pt, .*metrics\.json"
    ) as caught:
        operating_points(str(other), str(folder))
    assert "\n" not in str(caught.value)
    assert other.read_bytes() == before


def test_an_evaluation_in_windows_is_told(weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for pixels, told in ((None, False), (128, True)):
        origin = {**origin_of(weights), "random_window": pixels}
        operating_points(str(weights), str(evaluation_in(tmp_path / str(pixels), origin=origin)))
        assert ("made in windows of 128 pixels" in caplog.text) == told


def test_another_split_and_an_evaluation_that_does_not_say_are_told(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operating_points(str(weights), str(evaluation_in(tmp_path / "test", origin=origin_of(weights, "test"))))
    assert "Expected an evaluation of the validation split, got one of test" in caplog.text
    assert "cannot be checked" not in caplog.text
    operating_points(str(weights), str(evaluation_in(tmp_path / "old")))
    assert "does not name its weights" in caplog.text


def detections_of(folder: Path, change: Callable[[list[str]], list[str]], counted: int | None = None) -> None:
    path = folder / "detections.csv"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    if counted is not None:
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["counts"]["detections"] = counted
        (folder / "metrics.json").write_text(json.dumps(metrics))


def odd_score(line: str) -> str:
    cells = line.split(",")
    return ",".join([*cells[:6], "nan", *cells[7:]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "detections.csv").unlink(), "found no detections.csv"),
        (lambda folder: (folder / "detections.csv").write_text("id,score\n1,x\n"), "cannot read them"),
        (lambda folder: detections_of(folder, lambda lines: lines[:20]), "Expected the 24 detections .* got 19 in"),
        (lambda folder: detections_of(folder, lambda lines: [*lines, lines[1]]), "Expected the 24 .* got 25 in"),
        (
            lambda folder: detections_of(folder, lambda lines: [lines[0], *(odd_score(line) for line in lines[1:])]),
            "each with a finite score",
        ),
        (lambda folder: detections_of(folder, lambda lines: lines[:1], counted=0), "got none in"),
        (lambda folder: (folder / "metrics.json").write_text("{}"), "cannot read them"),
    ],
)
def test_damaged_evaluations_are_rejected(spoil: object, message: str, weights: Path, tmp_path: Path) -> None:
    folder = evaluation_in(tmp_path / "validation", images=4)
    spoil(folder)  # type: ignore[operator]
    before = weights.read_bytes()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        operating_points(str(weights), str(folder))
    assert weights.read_bytes() == before


def test_command_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["operating_points", "--checkpoint", "nowhere.pt", "--evaluation", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^Error: Expected a weights file, found no file nowhere\.pt"):
        command_line("tools.set_operating_points", "operating_points")
