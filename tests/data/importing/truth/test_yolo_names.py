"""Names of YOLO classes are those of the nearest file, above the labels as well where the layout is that of YOLO."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from scripts.data.importing.truth.truth_files import TruthRules, find_truth
from scripts.data.importing.truth.yolo_names import ClassNames


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_files_that_have_names(tmp_path: Path) -> None:
    labels = tmp_path / "x" / "y"
    path = write(labels / "data.yaml", "names:\n  0: cyst\n  1: node\n")
    assert ClassNames(labels).of(labels) == ({0: "cyst", 1: "node"}, path)
    path.write_text("names: [cyst, node]")
    assert ClassNames(labels).of(labels) == ({0: "cyst", 1: "node"}, path)
    # The same names twice are one list, other ones are not.
    first = write(labels / "classes.txt", "\ufeffcyst\nnode\n")
    assert ClassNames(labels).of(labels) == ({0: "cyst", 1: "node"}, first)
    first.write_text("node\ncyst")
    with pytest.raises(ValueError, match=r"one list of names .* in classes\.txt and data\.yaml: remove one"):
        ClassNames(labels).of(labels)
    first.unlink()
    for text in ("nothing: 1", "names: {.inf: cyst}", "[" * 2000, "names: 3"):
        path.write_text(text)
        with pytest.raises(ValueError, match="'names' of the classes"):
            ClassNames(labels).of(labels)


def test_blanks_are_no_part_of_a_name_and_no_name(tmp_path: Path) -> None:
    path = write(tmp_path / "classes.txt", "cyst \n\n node\n\n")
    assert ClassNames(tmp_path).of(tmp_path) == ({0: "cyst", 2: "node"}, path)


def test_the_nearest_folder_above_counts(tmp_path: Path) -> None:
    write(tmp_path / "classes.txt", "a")
    write(tmp_path / "one/labels/classes.txt", "b")
    names = ClassNames(tmp_path)
    assert names.of(tmp_path / "one/labels/train")[0] == {0: "b"}
    assert names.of(tmp_path / "one")[0] == {0: "a"}


@pytest.mark.parametrize(
    ("yaml", "truth", "labels", "known"),
    [
        ("data.yaml", "labels", "labels/train", True),
        ("data.yaml", "labels/train", "labels/train", True),
        ("data.yaml", "train/labels", "train/labels", True),
        ("data.yml", "boxes", "boxes", True),
        ("data.yaml", "boxes/train", "boxes/train", False),
        ("data.yaml", "labels/train/p1", "labels/train/p1", False),
    ],
)
def test_names_above_the_truth(tmp_path: Path, yaml: str, truth: str, labels: str, known: bool) -> None:
    root = tmp_path / "a" / "set"
    path = write(root / yaml, "train: images\nnames: [cyst]")
    wanted = ({0: "cyst"}, path) if known else ({}, None)
    assert ClassNames(root / truth).of(root / labels) == wanted


def test_above_the_truth_a_file_without_names_is_not_one_of_yolo(tmp_path: Path) -> None:
    write(tmp_path / "set/labels/1.txt", "")
    path = write(tmp_path / "set/data.yaml", "version: 3")
    assert ClassNames(tmp_path / "set/labels").of(tmp_path / "set/labels") == ({}, None)
    path.write_text("names: 3")
    with pytest.raises(ValueError, match=r"'names' of the classes in .*data\.yaml"):
        ClassNames(tmp_path / "set/labels").of(tmp_path / "set/labels")


def test_the_folder_of_the_truth_may_be_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data.yaml", "names: [cyst]")
    (tmp_path / "labels").mkdir()
    monkeypatch.chdir(tmp_path / "labels")
    assert ClassNames(Path(".")).of(Path(".")) == ({0: "cyst"}, tmp_path / "data.yaml")


def test_the_log_says_which_file_named_the_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for name in ("a_1", "a_2"):
        write(tmp_path / f"set/labels/{name}.txt", "1 0.5 0.5 0.1 0.1")
    find_truth(tmp_path / "set/labels", TruthRules())
    (line,) = caplog.messages
    assert line.startswith("2 YOLO file(s) below")
    assert line.endswith("called by their numbers.")
    caplog.clear()
    path = write(tmp_path / "set/data.yaml", "names: [cyst, node]")
    found, left = find_truth(tmp_path / "set/labels", TruthRules())
    assert (left, [truth.companions for truth in found]) == ([], [(path,), (path,)])
    assert caplog.messages == [f"{path} names the classes of 2 YOLO file(s): 0 is cyst, 1 is node."]
