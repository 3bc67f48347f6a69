"""The command: counts at thresholds are those of a hand-made case, in two and three dimensions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from scripts.data.importing.set_tables import write_set
from scripts.storage import safe_json
from scripts.tools import score_predictions
from scripts.tools.score_predictions import score

LESION = {"class": "lesion", "form": "outline", "box": [3.0, 4.0, 9.0, 12.0], "slices": [5, 8]}
KEY = {"boxes": [[3.0, 4.0, 9.0, 12.0]], "classes": ["lesion"], "doubtful": [False], "window": [-175, 275]}
CLEAR = {"boxes": [], "classes": [], "doubtful": [], "window": [-175, 275]}
RECORD = {
    "patient": "p",
    "shape": [20, 40, 60],
    "spacing": [0.7, 0.7, 2.5],
    "keys": [{"slice": 6, **KEY}, {"slice": 15, **CLEAR}],
    "lesions": [LESION],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = {"000001_01_01": RECORD, "000002_01_01": {**RECORD, "patient": "q"}}
    write_set(tmp_path / "set", records, [{"p": 3, "q": 3}], {"classes": ["lesion"]})
    return tmp_path


def counts(path: Path, **row: str) -> dict[str, str]:
    with path.open(newline="") as file:
        return next(found for found in csv.DictReader(file) if all(found[name] == value for name, value in row.items()))


def test_slices(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["1_01_01_006.png,3,4,9,12,0.9", "1_01_01_015.png,3,4,9,12,0.6", "2_01_01_006.png,3,4,9,12,0.3"]
    (folder / "p.csv").write_text("image,x1,y1,x2,y2,score\n" + "".join(f"00000{row}\n" for row in rows))
    score(str(folder / "set"), str(folder / "p.csv"), str(folder / "out"), bootstrap_resamples=10)
    assert "4 images, 2 patients, 2 lesions, 3 detections" in capsys.readouterr().out
    at = counts(folder / "out" / "thresholds.csv", threshold="0.5")
    assert [at[name] for name in list(at)[1:4]] == ["1", "1", "1"]
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert metrics["split"] == "test"
    # The box on the slice without a lesion is a false positive.
    assert metrics["counts"]["images_without_lesions"] == 2
    assert metrics["sensitivity"]["0.5"] == 1.0
    # So the figure has no points of the paper.
    assert "not DeepLesion" in metrics["notice"]
    score(str(folder / "set"), str(folder / "p.csv"), str(folder / "mulan"), rule="MULAN", bootstrap_resamples=10)
    assert json.loads((folder / "mulan" / "metrics.json").read_text())["rule"] == "MULAN"


def test_volumes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hit, miss = [3, 4, 5, 8, 11, 8, 0.9], [20, 20, 1, 30, 30, 3, 0.6]
    content = {"000001_01_01_001-020": [hit, miss], "000002_01_01_001-020": []}
    (folder / "p.json").write_text(json.dumps(content))
    score(str(folder / "set"), str(folder / "p.json"), str(folder / "out"), bootstrap_resamples=10)
    assert "2 volumes, 2 patients, 2 detected lesions" in capsys.readouterr().out
    at = counts(folder / "out" / "thresholds.csv", protocol="3D IoU 0.5", threshold="0.5")
    assert (at["found"], at["missed"], at["false_positives"], at["sensitivity"]) == ("1", "1", "1", "0.5")


def test_metrics_of_an_earlier_evaluation_do_not_stay_with_counts_of_a_later_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "p.json").write_text(json.dumps({"000001_01_01_001-020": [], "000002_01_01_001-020": []}))
    (folder / "out").mkdir()
    (folder / "out" / "metrics.json").write_text("{}")
    monkeypatch.setattr(score_predictions, "write_volume_report", Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        score(str(folder / "set"), str(folder / "p.json"), str(folder / "out"), bootstrap_resamples=10)
    assert [path.name for path in (folder / "out").glob("*.*")] == ["thresholds.csv"]


@pytest.mark.parametrize("option", [{"category": "node"}, {"rule": "MULAN"}, {"rule": "MP3D"}])
def test_options_of_slices_are_rejected_in_volumes(folder: Path, option: dict[str, Any]) -> None:
    (folder / "p.json").write_text(json.dumps({"000001_01_01_001-020": [], "000002_01_01_001-020": []}))
    ((name, value),) = option.items()
    with pytest.raises(
        ValueError, match=rf"Expected --{name} with detections on slices alone, got --{name} {value} .*p\.json"
    ):
        score(str(folder / "set"), str(folder / "p.json"), str(folder / "out"), bootstrap_resamples=10, **option)


@pytest.mark.parametrize(
    "content",
    [[{"image_id": "000001_01_01_006.png", "bbox": [3, 4, 6, 8], "score": 0.9}],
     {"000001_01_01_001-020": [], "000002_01_01_001-020": []}],
)  # fmt: skip
def test_a_file_of_detections_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch, content: object) -> None:
    (folder / "p.json").write_text(json.dumps(content))
    read: list[bytes] = []
    monkeypatch.setattr(safe_json, "parse_json", lambda data: read.append(data) or json.loads(data))
    score(str(folder / "set"), str(folder / "p.json"), str(folder / "out"), bootstrap_resamples=10)
    assert read.count((folder / "p.json").read_bytes()) == 1


@pytest.mark.parametrize("name", ["detections.csv", "predictions.json", "metrics.json"])
@pytest.mark.parametrize("link", [False, True])
def test_detections_that_the_results_would_replace_are_kept(folder: Path, name: str, link: bool) -> None:
    (folder / "out").mkdir()
    (folder / "out" / name).write_text("image,x1,y1,x2,y2,score\n")
    (folder / "link").symlink_to(folder / "out")
    predictions = folder / ("link" if link else "out") / name
    with pytest.raises(ValueError, match=rf"another folder than .*out: .* would replace .*{name}"):
        score(str(folder / "set"), str(predictions), str(folder / "out"))
    assert [path.name for path in (folder / "out").iterdir()] == [name]


def test_mistakes_end_in_a_line(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        score(str(folder / "set"), str(folder / "none.json"), str(folder / "out"))
    (folder / "p.csv").write_text("image,x1,y1,x2,y2,score\n")
    with pytest.raises(ValueError, match="one of the rules MP3D, MULAN, 3DCE, MVP-Net, got 'COCO'"):
        score(str(folder / "set"), str(folder / "p.csv"), str(folder / "out"), rule="COCO")
