"""The study of mined labels: what is removed, what its commands are, and what it writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research import mined_study as module
from research.mined_study import ARMS, MinedStudy, judge_mined, mined_study, remove_labels
from research.study_commands import Places, Run
from scripts.data.deeplesion.splits import load_records
from scripts.data.synthetic import generate


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    generate(folder, "small", seed=3, workers=1, num_train=8, num_validation=1, num_test=2, image_size=64)
    return folder


def rows(folder: Path) -> list[str]:
    with (folder / "DL_info.csv").open(newline="") as file:
        return [",".join(row.values()) for row in csv.DictReader(file)]


def test_half_of_the_training_labels_go_and_nothing_else(dataset: Path, tmp_path: Path) -> None:
    removed = remove_labels(dataset, tmp_path / "a", 0.5, 0)
    whole, left = rows(dataset), rows(tmp_path / "a")
    training = [row for row in whole if row.endswith(",1")]
    assert removed == round(len(training) / 2) == len(whole) - len(left)
    assert [row for row in whole if row in set(left)] == left
    assert [row for row in left if not row.endswith(",1")] == [row for row in whole if not row.endswith(",1")]
    assert remove_labels(dataset, tmp_path / "b", 0.5, 1) == removed
    assert rows(tmp_path / "b") != left
    remove_labels(dataset, tmp_path / "a", 0.5, 0)
    assert rows(tmp_path / "a") == left
    # The images are there.
    assert sum(len(record["instances"]["boxes"]) for record in load_records(tmp_path / "a", "train")) == len(
        [row for row in left if row.endswith(",1")]
    )
    with pytest.raises(ValueError, match="above 0 and below 1, got 1"):
        remove_labels(dataset, tmp_path / "c", 1, 0)


def test_the_arms_differ_in_labels_alone_and_make_as_many_steps(dataset: Path, tmp_path: Path) -> None:
    study = MinedStudy(Places(dataset, tmp_path), epochs=4, options={"num_workers": 0})
    remove_labels(dataset, study.half(0), 0.5, 0)
    runs = {arm: study.run(arm, 0) for arm in ARMS}
    options = {arm: option_words(run.steps["training"]) for arm, run in runs.items()}
    assert list(runs["half"].steps) == ["training", "mining", "evaluating"]
    images = {arm: len(load_records(one["dataset_dir"], "train")) for arm, one in options.items()}
    steps = {arm: images[arm] * int(one["max_epochs"]) for arm, one in options.items()}
    assert max(steps.values()) - min(steps.values()) <= max(images.values()) / 2
    for arm, kind in ((ARMS[1], "lesions"), (ARMS[2], "ignored")):
        assert (options[arm]["mined_as"], options[arm]["mined"]) == (kind, str(study.mined(0)))
        assert runs[arm].needs == study.mined(0)
        same = {"dataset_dir", "max_epochs", "val_interval", "seed", "num_workers", "config_file"}
        assert {name: options[arm][name] for name in same} == {name: options["half"][name] for name in same}
    tests = {option_words(run.steps["evaluating"])["dataset_dir"] for run in runs.values()}
    assert tests == {str(dataset)}


def option_words(words: tuple[str, ...]) -> dict[str, str]:
    return {words[at].removeprefix("--"): words[at + 1] for at in range(len(words)) if words[at].startswith("--")}


def test_mined_boxes_are_compared_with_the_removed_labels(dataset: Path, tmp_path: Path) -> None:
    remove_labels(dataset, tmp_path / "half", 0.5, 0)
    left = {record["file_name"]: record["instances"]["boxes"] for record in load_records(tmp_path / "half", "train")}
    lines, removed = [], 0
    for record in load_records(dataset, "train"):
        name = record["file_name"]
        removed += len(record["instances"]["boxes"]) - len(left[name]) if name in left else 0
        if name in left:
            lines += [[name, *box, 0.95] for box in record["instances"]["boxes"].tolist()]
            lines += [[name, 0, 0, 3, 3, 0.99], [name, 0, 0, 9, 9, 0.2]]
    with (tmp_path / "detections.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "x1", "y1", "x2", "y2", "score"], *lines])
    found = judge_mined(dataset, tmp_path / "half", tmp_path / "detections.csv", 0.9)
    assert found == {"mined": removed + len(left), "right": removed, "removed": removed}


def test_a_table_of_all_arms(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mined_study(str(dataset), str(tmp_path / "out"), seeds=0, dry_run=True)
    assert capsys.readouterr().out.count("-m monai.bundle run training") == 4
    assert not (tmp_path / "out" / "runs").exists()

    def executed(run: Run, places: Places) -> Any:
        if "mining" in run.steps:
            path = run.folder / "mined" / "detections.csv"
            path.parent.mkdir(parents=True)
            path.write_text("id,x1,y1,x2,y2,score\n")
        value = ARMS.index(run.key) / 10 + run.seed / 100
        return {"metrics": {"sensitivity": dict.fromkeys(("0.5", "1", "2", "4"), value)}}

    monkeypatch.setattr(module, "execute", executed)
    mined_study(str(dataset), str(tmp_path / "out"), seeds=[0, 1])
    content = json.loads((tmp_path / "out" / "mined.json").read_text())
    assert content["sensitivity"]["full"]["1"]["mean"] == pytest.approx(0.305)
    assert content["sensitivity"]["half"]["4"]["sd"] == pytest.approx(np.std([0, 0.01], ddof=1))
    assert [counts["mined"] for counts in content["mined"]] == [0, 0]
    assert "| full | 30.5 ± 0.7 |" in (tmp_path / "out" / "mined.md").read_text()


@pytest.mark.slow
def test_a_study_from_end_to_end(dataset: Path, tmp_path: Path) -> None:
    mined_study(str(dataset), str(tmp_path / "out"), seeds=0, epochs=1, mined_score=0.01, num_workers=0, device="cpu")
    content = json.loads((tmp_path / "out" / "mined.json").read_text())
    assert set(content["sensitivity"]) == set(ARMS)
