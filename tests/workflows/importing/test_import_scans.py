"""A whole import: what is matched, what is named, what resumes, and what the set holds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.data.deeplesion.patient_facts import facts_of_series
from scripts.data.deeplesion.splits import load_records
from scripts.data.deeplesion.subvolume_labels import read_volume_labels
from scripts.data.importing.lesion_classes import ClassRule
from scripts.data.importing.patient_splits import SplitRule
from scripts.data.importing.set_records import KeyRule
from scripts.data.importing.truth.truth_files import TruthRules
from scripts.data.slabs.slab_reader import SlabReader, read_slice
from scripts.workflows.importing import import_scans as module
from scripts.workflows.importing.import_scans import ImportRules, Sources, import_scans
from scripts.workflows.importing.set_report import write_set_report
from support.fake_truth import (
    BALL,
    SHAPE,
    Ball,
    name_slices_alone,
    write_dicom_case,
    write_lidc,
    write_nifti_case,
    write_rtstruct,
    write_voc,
)

SPLIT = SplitRule((0.5, 0.25, 0.25))


def make_cases(folder: Path, count: int = 4) -> Sources:
    """NIfTI scans with masks, the last one without a lesion."""
    for number in range(count):
        ball = None if number == count - 1 else Ball((-8.2, 40.3, -122.0 + number))
        write_nifti_case(folder, f"case_{number}", ("plain", "flipped", "sagittal", "tilted")[number % 4], ball)
    return Sources(folder / "images", folder / "masks")


def run(sources: Sources, output: Path, **rules: object) -> dict:
    return import_scans(sources, ImportRules(**{"splits": SPLIT, **rules}), output, progress=False)  # type: ignore[arg-type]


def test_masks_become_a_set_that_training_reads(tmp_path: Path) -> None:
    about = run(make_cases(tmp_path), tmp_path / "set")
    assert about["kinds"] == ["mask"]
    splits = [source["split"] for source in about["sources"].values()]
    assert sorted(splits) == [1, 1, 2, 3]
    records = [r for split in ("train", "validation", "test") for r in load_records(tmp_path / "set", split)]
    boxes = [len(record["instances"]["boxes"]) for record in records]
    assert set(boxes) == {0, 1}
    for record in records:
        slab = SlabReader(3)(record)
        assert slab.shape[1:] == record["image_size"]
        for box in record["instances"]["boxes"]:
            x, y = round(float(box[0] + box[2]) / 2), round(float(box[1] + box[3]) / 2)
            assert slab[1, y, x] == pytest.approx(120, abs=1)
            assert slab[1, y, round(float(box[2])) + 2] == pytest.approx(40, abs=1)


def test_an_import_resumes_and_reads_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = make_cases(tmp_path)
    broken = tmp_path / "images" / "case_1.nii.gz"
    good = broken.read_bytes()
    broken.write_bytes(good[:200])
    with pytest.raises(ValueError, match=r"1 could not be used; 3 scan\(s\) are done.*case_1: Expected a complete"):
        run(sources, tmp_path / "set")
    assert not (tmp_path / "set" / "set.json").exists()
    broken.write_bytes(good)
    written: list[str] = []
    real = module.write_scan_slices
    monkeypatch.setattr(module, "write_scan_slices", lambda *args: (written.append(args[1]), real(*args)))
    first = run(sources, tmp_path / "set")
    assert len(written) == 1
    table = (tmp_path / "set" / "DL_info.csv").read_bytes()
    assert run(sources, tmp_path / "set") == first
    assert len(written) == 1
    # Another seed changes the table alone, other key slices or another mask what they shape.
    run(sources, tmp_path / "set", splits=SplitRule((0.5, 0.25, 0.25), seed=3))
    assert len(written) == 1
    assert (tmp_path / "set" / "DL_info.csv").read_bytes() != table
    os.utime(tmp_path / "masks" / "case_0.nii.gz", (1, 1))
    run(sources, tmp_path / "set")
    assert len(written) == 2
    run(sources, tmp_path / "set", keys=KeyRule("widest"))
    assert len(written) == 6


def test_every_unmatched_file_is_named(tmp_path: Path) -> None:
    sources = make_cases(tmp_path)
    (tmp_path / "masks" / "case_0.nii.gz").rename(tmp_path / "masks" / "other.nii.gz")
    with pytest.raises(
        ValueError, match=r"1 scan\(s\) without truth: case_0; 1 truth\(s\) without a scan: .*other.nii.gz"
    ):
        run(sources, tmp_path / "set")
    kept = Sources(sources.images, sources.truth, without_truth="leave_out", lost_truth=True)
    about = run(kept, tmp_path / "set")
    assert len(about["sources"]) == 3
    assert ["belongs to no scan" in line or "without truth" in line for line in about["left_out"]] == [True, True]
    taken = run(
        Sources(sources.images, sources.truth, without_truth="negative", lost_truth=True), tmp_path / "negative"
    )
    assert len(taken["sources"]) == 4


def test_scans_of_another_import_are_not_mixed_in(tmp_path: Path) -> None:
    run(make_cases(tmp_path / "one"), tmp_path / "set")
    write_nifti_case(tmp_path / "two", "new")
    with pytest.raises(ValueError, match=r"holds others: case_0, case_1, case_2, case_3"):
        run(Sources(tmp_path / "two" / "images", tmp_path / "two" / "masks"), tmp_path / "set")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="with other files"):
        run(Sources(tmp_path / "two" / "images", tmp_path / "two" / "masks"), tmp_path / "full")


def test_patients_of_headers_folders_and_tables(tmp_path: Path) -> None:
    for number, patient in enumerate(("A", "B", "A")):
        uid = f"1.2.3.4.{number}"
        write_dicom_case(tmp_path / "ct" / f"s{number}", added_hu=number, PatientID=patient, SeriesInstanceUID=uid)
    about = run(Sources(tmp_path / "ct"), tmp_path / "set")
    assert list(about["sources"]) == ["000001_01_01", "000001_01_02", "000002_01_01"]
    # Names of patients are not written.
    text = (tmp_path / "set" / "set.json").read_text() + (tmp_path / "set" / "scans" / "000001_01_01.json").read_text()
    assert '"A"' not in text
    sources = Sources(tmp_path / "ct")
    assert len({name[:6] for name in run(sources, tmp_path / "folder", patients="folder")["sources"]}) == 3
    table = tmp_path / "patients.csv"
    table.write_text("scan,patient\n1.2.3.4.0,X\n1.2.3.4.1,X\n1.2.3.4.2,X\n")
    assert len({name[:6] for name in run(sources, tmp_path / "table", patients=str(table))["sources"]}) == 1
    table.write_text("scan,patient\n1.2.3.4.0,X\n")
    with pytest.raises(ValueError, match=r"the patient of every scan in .* got none for 1\.2\.3\.4\.1"):
        run(sources, tmp_path / "none", patients=str(table))
    with pytest.raises(ValueError, match="header, folder or a CSV as patients"):
        run(sources, tmp_path / "none", patients="name")


def test_copies_of_a_scan_do_not_end_in_two_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The header's patient and the file's form may differ, the voxels tell."""
    for name, turn in (("P1/a", "plain"), ("P2/b", "flipped"), ("P3/c", "plain")):
        write_nifti_case(tmp_path, name, turn, Ball((-8.2, 40.3, -121.0)) if name == "P3/c" else BALL)
    sources, copy = Sources(tmp_path / "images"), "P2/b has the same voxels as P1/a, of another patient"
    with pytest.raises(ValueError, match=f"different splits, got copies: {copy}. Remove one"):
        run(sources, tmp_path / "set", patients="folder", splits=SplitRule((0.34, 0.33, 0.33)))
    run(sources, tmp_path / "set", patients="folder", splits=SplitRule((1, 0, 0)))
    assert copy in caplog.text
    with pytest.raises(ValueError, match="got copies"):
        run(sources, tmp_path / "set", patients="folder", splits=SplitRule((1, 0, 0), folds=3))
    table = tmp_path / "patients.csv"
    table.write_text("scan,patient\nP1/a,X\nP2/b,X\nP3/c,Y\n")
    run(sources, tmp_path / "set", patients=str(table), splits=SplitRule((0.5, 0.5, 0)))


def test_labels_named_by_the_uids_of_slices(tmp_path: Path) -> None:
    series = write_dicom_case(tmp_path / "ct" / "a")
    write_voc(tmp_path / "voc", series)
    about = run(Sources(tmp_path / "ct", tmp_path / "voc"), tmp_path / "set")
    assert about["kinds"] == ["voc"]
    (tmp_path / "voc" / "1.2.840.1.1.9.xml").write_text("<annotation/>")
    with pytest.raises(ValueError, match=r"1 truth\(s\) name slices of no scan: .*1\.2\.840\.1\.1\.9\.xml"):
        run(Sources(tmp_path / "ct", tmp_path / "voc"), tmp_path / "set")
    kept = run(Sources(tmp_path / "ct", tmp_path / "voc", lost_truth=True), tmp_path / "set")
    assert "belongs to no scan" in kept["left_out"][0]
    record = json.loads((tmp_path / "set" / "scans" / "000001_01_01.json").read_text())
    height = round((np.array(BALL.centre)[2] + 140.0) / 2.5)
    assert record["lesions"][0]["widest"] in (SHAPE[0] - height - 1, SHAPE[0] - height, SHAPE[0] - height + 1)


def test_classes_by_name_and_a_truth_next_to_its_scan(tmp_path: Path) -> None:
    series = write_dicom_case(tmp_path / "P1" / "ct")
    write_lidc(tmp_path / "P1" / "reading.xml", series)
    rules = {"classes": ClassRule.read(["mass", "nodule=nod*"]), "truth": TruthRules()}
    about = run(Sources(tmp_path, tmp_path, match="place"), tmp_path.with_name(tmp_path.name + "_set"), **rules)
    assert about["classes"] == ["mass", "nodule"]
    records = load_records(tmp_path.with_name(tmp_path.name + "_set"), "train", by_class=True)
    assert {int(label) for record in records for label in record["instances"]["labels"]} == {2}


def test_slices_are_the_scan_from_the_head(tmp_path: Path) -> None:
    write_nifti_case(tmp_path, "a")
    run(Sources(tmp_path / "images", tmp_path / "masks"), tmp_path / "set")
    folder = tmp_path / "set" / "Images_png" / "000001_01_01"
    assert len(list(folder.iterdir())) == SHAPE[0]
    bright = [number for number in range(1, SHAPE[0] + 1) if (read_slice(folder / f"{number:03d}.png") == 120).any()]
    record = json.loads((tmp_path / "set" / "scans" / "000001_01_01.json").read_text())
    assert (bright[0], bright[-1]) == tuple(record["lesions"][0]["slices"])


def test_a_word_that_is_not_known(tmp_path: Path) -> None:
    for name in ("without_truth", "kind", "match"):
        with pytest.raises(ValueError, match=f"as {name}, got 'skip'"):
            Sources(tmp_path, **{name: "skip"})


def test_a_label_that_is_to_be_ignored_is_one_everywhere(tmp_path: Path) -> None:
    sources = make_cases(tmp_path, 2)
    path = tmp_path / "masks" / "case_0.nii.gz"
    image: Any = nibabel.load(path)  # type: ignore[attr-defined]
    values = np.asarray(image.dataobj).astype(np.uint8)
    values[:2, :3, :] = 7
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)
    splits = SplitRule((1.0, 0.0, 0.0))
    run(sources, tmp_path / "set", classes=ClassRule.read(None, ["7"]), splits=splits)
    records = load_records(tmp_path / "set", "train")
    regions = [record["instances"]["boxes"][record["instances"]["ignored"]] for record in records]
    marked = [record for record, boxes in zip(records, regions, strict=True) if len(boxes)]
    assert marked
    assert all(len(record["instances"]["boxes"]) == 2 for record in marked)
    assert {tuple((boxes[0, 2:] - boxes[0, :2]).tolist()) for boxes in regions if len(boxes)} == {(2.0, 3.0)}
    volumes = read_volume_labels(tmp_path / "set" / "lesions_3d.json").volumes
    (found,) = [volume.ignored_boxes for volume in volumes if volume.ignored_boxes is not None]
    assert (found[0, 3:5] - found[0, :2] + 1).tolist() == [2, 3]
    page, _ = write_set_report(tmp_path / "set")
    assert "1 region(s) to ignore" in page.read_text()


@pytest.mark.parametrize(
    ("splits", "rules", "message"),
    [
        ("scan,split\ncase_0,train\nother,test\n", {}, "a scan of the import, got 'other' in line 3"),
        ("scan,split\ncase_0,train\n", {}, r"has none for 3, that of scan case_\d the first"),
        (None, {"splits": SplitRule(folds=9)}, "at least 9 patients to train on"),
    ],
)
def test_splits_that_do_not_fit_are_reported_before_a_scan_is_read(
    tmp_path: Path, splits: str | None, rules: dict[str, Any], message: str
) -> None:
    sources = make_cases(tmp_path)
    if splits is not None:
        (tmp_path / "splits.csv").write_text(splits)
        rules = {"splits": SplitRule(file=tmp_path / "splits.csv")}
    with pytest.raises(ValueError, match=message):
        run(sources, tmp_path / "set", **rules)
    assert not (tmp_path / "set" / "scans").exists()


def test_sex_and_age_of_the_headers_are_in_the_set(tmp_path: Path) -> None:
    write_dicom_case(tmp_path / "ct" / "a", PatientID="A", PatientSex="F", PatientAge="061Y")
    other = {"PatientID": "B", "SeriesInstanceUID": "1.2.3.9", "PatientSex": "", "PatientBirthDate": ""}
    write_dicom_case(tmp_path / "ct" / "b", added_hu=1, **other)
    run(Sources(tmp_path / "ct"), tmp_path / "set")
    known = facts_of_series(tmp_path / "set" / "DL_info.csv")
    assert known["000001_01_01"] == (0.0, 61.0)
    assert np.isnan(known["000002_01_01"]).all()


def test_a_structure_set_finds_its_scan_by_the_slices_it_names(tmp_path: Path) -> None:
    series = write_dicom_case(tmp_path / "ct" / "a")
    write_dicom_case(tmp_path / "ct" / "b", added_hu=1, SeriesInstanceUID="1.2.3.9")
    name_slices_alone(write_rtstruct(tmp_path / "truth" / "x.dcm", series), series)
    sources = Sources(tmp_path / "ct", tmp_path / "truth", without_truth="negative")
    about = run(sources, tmp_path / "set", splits=SplitRule((1.0, 0.0, 0.0)))
    assert about["kinds"] == ["rtstruct"]
    records = [record_of(tmp_path / "set", one["scan"]) for one in about["sources"].values()]
    assert sorted(len(record["truth_by_uid"]) for record in records) == [0, 1]
    with pytest.raises(ValueError, match="no truth names a slice of it"):
        run(replace(sources, without_truth="reject"), tmp_path / "other")
    name_slices_alone(write_rtstruct(tmp_path / "truth" / "y.dcm", series), series)
    with pytest.raises(ValueError, match=r"one truth for a scan, got .*x\.dcm and .*y\.dcm"):
        run(sources, tmp_path / "third")


def test_a_pattern_without_a_folder_searches_sub_folders_where_the_folder_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = make_cases(tmp_path)
    (tmp_path / "masks").rename(tmp_path / "inner")
    (tmp_path / "masks").mkdir()
    (tmp_path / "inner").rename(tmp_path / "masks" / "inner")
    patterns = Sources(sources.images, sources.truth, image_pattern="*.nii.gz", truth_pattern="*.nii.gz")
    assert len(run(patterns, tmp_path / "set")["sources"]) == 4
    assert "left out" not in caplog.text
    (tmp_path / "masks" / "inner" / "case_0.nii.gz").rename(tmp_path / "masks" / "case_0.nii.gz")
    with pytest.raises(ValueError, match=r"3 scan\(s\) without truth"):
        run(patterns, tmp_path / "other")
    assert '1 of its files are like *.nii.gz. 3 more in its sub-folders are left out; "**/*.nii.gz"' in caplog.text


def record_of(output: Path, scan: str) -> dict[str, Any]:
    (found,) = [
        one for path in (output / "scans").glob("*.json") if (one := json.loads(path.read_text()))["scan"] == scan
    ]
    return found


def test_another_patient_in_the_table_renames_the_series(tmp_path: Path) -> None:
    sources, table = make_cases(tmp_path), tmp_path / "patients.csv"

    def patients_of(output: str, owners: str) -> list[tuple[str, str, int]]:
        table.write_text("scan,patient\n" + "".join(f"case_{n},{owner}\n" for n, owner in enumerate(owners)))
        about = run(sources, tmp_path / output, patients=str(table))["sources"]
        assert sorted(path.name for path in (tmp_path / output / "Images_png").iterdir()) == sorted(about)
        return sorted((one["scan"], series.split("_")[0], one["split"]) for series, one in about.items())

    patients_of("set", "ABCD")
    changed = patients_of("set", "ABCA")
    # As in a set made anew, scans are of one patient where the table says so.
    fresh = patients_of("fresh", "ABCA")
    for found in (changed, fresh):
        assert found[0][1:] == found[3][1:]
        assert len({patient for _, patient, _ in found}) == 3


def test_slices_that_are_gone_or_empty_are_written_again(tmp_path: Path) -> None:
    sources = make_cases(tmp_path)
    run(sources, tmp_path / "set")
    first, *_, last = paths = sorted((tmp_path / "set" / "Images_png" / "000002_01_01").iterdir())
    whole = {path: path.read_bytes() for path in paths}
    first.unlink()
    last.write_bytes(b"")
    paths[3].write_bytes(whole[paths[3]][:-20])
    run(sources, tmp_path / "set")
    assert {path: path.read_bytes() for path in paths} == whole
