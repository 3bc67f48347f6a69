"""All folds by one command: what it runs, what it says of it, and what it does not take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from scripts.configuration.quick_checks import options_of
from scripts.configuration.running_config import check_config
from scripts.data.importing.set_tables import write_set
from scripts.tools.sets import train_folds

KEY = {"slice": 3, "boxes": [[3.0, 4.0, 9.0, 12.0]], "classes": ["a"], "doubtful": [False], "window": [-175, 275]}
RECORD = {"shape": [5, 40, 60], "spacing": [0.7, 0.7, 2.5], "keys": [KEY], "lesions": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = {f"00000{n}_01_01": {**RECORD, "patient": f"p{n}"} for n in (1, 2, 3)}
    splits = [{"p1": 1, "p2": 1, "p3": 3}, {"p1": 1, "p2": 2, "p3": 3}, {"p1": 2, "p2": 1, "p3": 3}]
    write_set(tmp_path / "set", records, splits, {"classes": ["a"]})
    return tmp_path / "set"


def sensitivities(*values: float) -> dict[str, Any]:
    return {"sensitivity": dict(zip(("0.5", "1", "2", "4"), values, strict=True))}


def test_every_fold_is_trained_and_scored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str]) -> int:
        commands.append(command)
        if "evaluating" in command:
            output = Path(command[command.index("--output_dir") + 1])
            output.mkdir(parents=True)
            part = 0.5 if output.parent.name == "1" else 0.7
            (output / "metrics.json").write_text(json.dumps(sensitivities(0.1, part, 0.8, 0.9)))
        return 0

    monkeypatch.setattr(train_folds, "run_command", run)
    train_folds.main(str(folder), str(tmp_path / "runs"), max_epochs=3)
    assert [(command[4], command[command.index("--dataset_dir") + 1]) for command in commands] == [
        (workflow, str(folder / "folds" / fold)) for fold in "12" for workflow in ("training", "evaluating")
    ]
    assert commands[0][commands[0].index("--max_epochs") + 1] == "3"
    assert commands[1][commands[1].index("--checkpoint") + 1] == str(tmp_path / "runs" / "1" / "model.pt")
    assert "  1: 60.0 % (50.0, 70.0)" in capsys.readouterr().out
    found = json.loads((tmp_path / "runs" / "folds.json").read_text())
    assert (found["folds"], found["1"]["mean"]) == (2, 0.6)
    assert found["1"]["standard_deviation"] == pytest.approx(0.1414, abs=1e-4)


def test_a_score_has_the_options_of_the_validation_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scored = {"random_window": 128, "device": "cpu", "froc_rule#iou_threshold": 0.3, "froc_rule::name": "0.3"}
    options = {**scored, "max_epochs": 3}
    train, score = train_folds.fold_commands(Path("set/folds/1"), Path("runs/1"), "", options)
    for command, given in ((train, options), (score, scored)):
        words = dict(zip(command[5::2], command[6::2], strict=True))
        assert {name: words.pop(f"--{name}") for name in given} == {name: str(value) for name, value in given.items()}
        assert all(Path(file).is_file() for file in words["--config_file"].strip("[]'").split("', '"))
        assert Path(words["--bundle_root"], "configs").is_dir()
        assert "--max_epochs" not in words
    monkeypatch.chdir(train_folds.BUNDLE)
    inside = [word for command in train_folds.fold_commands(Path("s"), Path("r"), "", {}) for word in command[1:]]
    assert not any(str(train_folds.BUNDLE) in word for word in inside)


@pytest.mark.parametrize("name", ["froc_mulan", "froc_3dce", "froc_mvpnet", "recipe_mulan", "noisy_dropped"])
def test_a_score_has_the_rule_of_the_config_files(name: str) -> None:
    files = [str(train_folds.BUNDLE / "configs" / file) for file in ("train.json", f"variants/{name}.yaml")]
    overlay = ConfigParser.load_config_file(files[1])
    wanted = {option: overlay[option] for option in ("froc_rule", "keep_noisy") if option in overlay}
    options = {"froc_rule#iou_threshold": 0.3, "device": "cpu"}
    _, score = train_folds.fold_commands(Path("set/folds/1"), Path("runs/1"), str(files), options)
    given = options_of(score[5:])
    assert {option: DefaultParseValue(given[option]) for option in wanted} == wanted
    # What the user says comes last: MONAI takes options one by one.
    assert list(given)[-2:] == list(options)
    evaluating = ConfigParser(ConfigParser.load_config_file(given["config_file"]))
    evaluating.update({**wanted, "device": "cpu"})
    check_config(evaluating)
    if "froc_rule" in wanted:
        assert evaluating.get_parsed_content("froc_rule").name == overlay["froc_rule"]["name"]


def test_a_score_has_no_option_of_the_usual_config_files() -> None:
    assert train_folds.scored_settings("") == {}
    assert train_folds.scored_settings(str(train_folds.BUNDLE / "configs" / "train.json")) == {}
    with pytest.raises(OSError, match=r"none\.json"):
        train_folds.scored_settings("none.json")


def test_a_fold_that_fails_ends_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_folds, "run_command", lambda _: 3)
    with pytest.raises(SystemExit, match="Fold 1 ended with exit status 3"):
        train_folds.main(str(folder), str(tmp_path / "runs"))


def test_what_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"options of a training other than dataset_dir, .* got checkpoint"):
        train_folds.main(str(folder), str(tmp_path / "runs"), checkpoint="x")
    with pytest.raises(ValueError, match=r"a set with folds in .* import it with --folds 5"):
        train_folds.main(str(folder / "folds" / "1"), str(tmp_path / "runs"))
    about = json.loads((folder / "folds" / "2" / "set.json").read_text())
    (folder / "folds" / "2" / "set.json").write_text(json.dumps({**about, "splits": ["train", "test"]}))
    with pytest.raises(ValueError, match=r"training and validation in the fold .*2 "):
        train_folds.main(str(folder), str(tmp_path / "runs"))


def test_a_fold_that_is_gone_is_not_left_out_silently(folder: Path, tmp_path: Path) -> None:
    about = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps({**about, "folds": 3}))
    with pytest.raises(ValueError, match=r"Expected the folds 1 to 3 of the set in .*folds, found 1, 2\."):
        train_folds.main(str(folder), str(tmp_path / "runs"))
    (folder / "folds" / "2").rename(folder / "folds" / "3")
    (folder / "set.json").write_text(json.dumps({**about, "folds": 2}))
    with pytest.raises(ValueError, match=r"Expected the folds 1 to 2 of the set in .*folds, found 1, 3\."):
        train_folds.main(str(folder), str(tmp_path / "runs"))


def test_figures_that_are_not_defined_are_left_out_and_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none = {"sensitivity": dict.fromkeys(("0.5", "1", "2", "4"))}
    found = train_folds.summary([sensitivities(0.1, 0.2, 0.3, 0.4), none])
    assert (found["folds"], found["1"]["values"], found["1"]["standard_deviation"]) == (2, [0.2], None)
    assert found["folds_without_lesions"] == [2]
    assert train_folds.summary([none]) == {"folds": 1, "folds_without_lesions": [1]}
    monkeypatch.setattr(train_folds, "run_command", lambda _: 0)
    monkeypatch.setattr(
        train_folds, "read_json", lambda path, _: none if "2" in path.parts else sensitivities(0.1, 0.2, 0.3, 0.4)
    )
    train_folds.main(str(folder), str(tmp_path / "runs"))
    told = capsys.readouterr().out
    assert "Fold 2 has no lesions in its validation images: it is in no mean." in told
    assert "mean over 1 folds" in told
