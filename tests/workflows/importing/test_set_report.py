"""The page of a set: one file, every kind of truth drawn, names escaped, a command that is right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from scripts.data.importing.lesion_classes import ClassRule
from scripts.data.importing.patient_splits import SplitRule
from scripts.workflows.importing.import_scans import ImportRules, Sources, import_scans
from scripts.workflows.importing.set_report import write_set_report
from support.fake_truth import BALL, save_nifti, stored_grid, write_nifti_case


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cases")
    write_nifti_case(root, "a<b>")
    write_nifti_case(root, "c", "tilted")
    write_nifti_case(root, "d", ball=None)
    rules = ImportRules(splits=SplitRule((1, 0, 0)))
    import_scans(Sources(root / "images", root / "masks"), rules, root / "set", progress=False)
    return root / "set"


def test_a_page_in_one_file(folder: Path) -> None:
    path, advice = write_set_report(folder)
    page = path.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("Not a medical device. For research use only.") == 1
    assert "a&lt;b&gt;" in page
    assert "<b>" not in re.sub(r"<li><b>", "", page)
    # Slice, close-up and front of two lesions, and slices without one.
    assert page.count("data:image/jpeg") >= 7
    # What readers of the screen need: a main part, a name for every column and picture.
    assert page.count("<main>") == page.count("</main>") == 1
    assert "<th></th>" not in page
    assert page.count("<svg") == page.count("aria-label=")
    assert "Truth: mask" in page
    assert "sheared by 15.0 degrees" in page
    assert "No patient is for validation" in page
    assert "3 scan(s) name no patient" in page
    assert advice[-1].startswith("python -m monai.bundle run training --config_file")
    assert f"--dataset_dir {folder}" in advice[-1]


def test_a_set_without_a_lesion_has_a_page_as_well(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "d", ball=None)
    import_scans(Sources(tmp_path / "images"), ImportRules(), tmp_path / "set", progress=False)
    path, advice = write_set_report(tmp_path / "set")
    assert "No lesion, no advice." in path.read_text(encoding="utf-8")
    assert advice == ["No lesion of the set is of class 'lesion'.", ""]


def test_a_class_without_a_lesion_is_named(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "c")
    rules = ImportRules(classes=ClassRule.read(["tumour=*", "node=LN*"]), splits=SplitRule((1, 0, 0)))
    import_scans(Sources(tmp_path / "images", tmp_path / "masks"), rules, tmp_path / "set", progress=False)
    path, advice = write_set_report(tmp_path / "set")
    assert advice[0] == "No lesion of the set is of class 'node'."
    assert "No lesion of the set is of class &#x27;node&#x27;." in path.read_text(encoding="utf-8")


def test_a_command_to_copy_fits_the_set(tmp_path: Path) -> None:
    folder = tmp_path / "größe 1"
    write_nifti_case(tmp_path, "c")
    write_nifti_case(tmp_path, "d")
    sources = Sources(tmp_path / "images", tmp_path / "masks")
    import_scans(sources, ImportRules(splits=SplitRule((1, 0, 0))), folder, progress=False)
    typed = write_set_report(folder)[1][-1]
    # Some shells read these as patterns outside of quotes.
    assert "anchor_scale" in typed
    assert not set(re.sub(r'"[^"]*"', "", typed)) & {"#", "[", "*"}
    command = shlex.split(typed)
    assert command[command.index("--dataset_dir") + 1] == str(folder)
    assert command[command.index("--output_dir") + 1] == "RUN"
    # There is nothing to train on.
    import_scans(sources, ImportRules(splits=SplitRule((0, 0, 1))), folder, progress=False)
    *_, reason, command = write_set_report(folder)[1]
    assert reason == "Nothing in this set is for training: it is to score weights on."
    assert shlex.split(command)[:5] == ["python", "-m", "scripts", "evaluate", str(folder)]


def test_what_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it has no set\.json"):
        write_set_report(tmp_path)


def test_several_names_that_were_taken_for_lesions_are_told(tmp_path: Path) -> None:
    images = write_nifti_case(tmp_path, "c").parent
    affine, shape = stored_grid("plain")
    values = BALL.inside(affine, shape).astype(np.uint8)
    values[40:44, 10:14, 3:6] = 2
    values[2:4, 2:4, 3:6] = 7
    save_nifti(tmp_path / "masks" / "c.nii.gz", values, affine)
    for name, classes in (("all", None), ("one", ["2"])):
        rules = ImportRules(splits=SplitRule((1, 0, 0)), classes=ClassRule.read(classes, ["7"]))
        import_scans(Sources(images, tmp_path / "masks"), rules, tmp_path / name, progress=False)
    line = "Names in the truth that were all taken for lesions: 1 (1), 2 (1). --classes chooses among them."
    path, told = write_set_report(tmp_path / "all")
    assert line in told
    assert line in path.read_text(encoding="utf-8")
    assert not any("Names in the truth" in text for text in write_set_report(tmp_path / "one")[1])


def test_a_set_without_any_key_slice_says_why(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "c")
    rules = ImportRules(splits=SplitRule((1, 0, 0)), classes=ClassRule.read(["node"]))
    with pytest.raises(ValueError, match=r"Expected a lesion, or a slice .* got neither in 1 .*1 called '1', which"):
        import_scans(Sources(tmp_path / "images", tmp_path / "masks"), rules, tmp_path / "set", progress=False)
    assert not (tmp_path / "set" / "set.json").exists()
