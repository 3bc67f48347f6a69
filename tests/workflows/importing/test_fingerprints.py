"""Whatever a scan and its truth were read from makes it another one, files that others name included."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.importing.truth.slice_places import SliceRule
from scripts.data.importing.truth.truth_files import TruthRules, find_truth
from scripts.data.importing.truth_matching import ImportScan
from scripts.data.scans.find_scans import find_scans
from scripts.workflows.importing.fingerprints import fingerprint
from scripts.workflows.importing.import_scans import ImportRules

META = (
    "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementSpacing = 1 1 2\nOffset = 0 0 0\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementType = {}\nElementDataFile = a.raw\n"
)
NRRD = (
    "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 6 5 4\n"
    "space directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)\nencoding: raw\ndata file: a.raw\n"
)


def write_scan(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.mhd").write_text(META.format("MET_SHORT"))
    (folder / "a.raw").write_bytes(np.arange(120, dtype="<i2").tobytes())


def write_truth(folder: Path, kind: str) -> Path:
    """Write a truth, and say which other file shapes it."""
    folder.mkdir()
    if kind == "yolo":
        (folder / "a_001.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        (folder / "classes.txt").write_text("tumour\n")
        return folder / "classes.txt"
    if kind == "pair":
        nibabel.save(nibabel.Nifti1Pair(np.zeros((6, 5, 4), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0])), folder / "a.img")
        return folder / "a.img"
    (folder / ("a.mhd" if kind == "meta" else "a.nhdr")).write_text(
        META.format("MET_UCHAR") if kind == "meta" else NRRD
    )
    (folder / "a.raw").write_bytes(bytes(120))
    return folder / "a.raw"


def mark(folder: Path, patient: str | None = None) -> str:
    rules = ImportRules(truth=TruthRules(slices=SliceRule(first=0)))
    (source,) = find_scans(folder / "ct" / "a.mhd")
    truths, _ = find_truth(folder / "truth", rules.truth)
    return fingerprint(ImportScan.of(source, folder / "ct", ""), truths, asdict(rules), patient)


@pytest.mark.parametrize("kind", ["yolo", "meta", "nrrd", "pair"])
def test_files_that_others_name_count(tmp_path: Path, kind: str) -> None:
    write_scan(tmp_path / "ct")
    beside = write_truth(tmp_path / "truth", kind)
    first = mark(tmp_path)
    assert mark(tmp_path) == first
    changes: list[Callable[[], object]] = [
        lambda: beside.write_bytes(beside.read_bytes() + b"x"),
        lambda: os.utime(beside, (1, 1)),
        lambda: os.utime(tmp_path / "ct" / "a.raw", (1, 1)),
    ]
    seen = {first, mark(tmp_path, "A"), mark(tmp_path, "B")}
    for number, change in enumerate(changes, start=4):
        change()
        seen.add(mark(tmp_path))
        assert len(seen) == number


def test_a_file_that_is_named_and_missing(tmp_path: Path) -> None:
    write_scan(tmp_path / "ct")
    write_truth(tmp_path / "truth", "meta").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.mhd"):
        mark(tmp_path)
