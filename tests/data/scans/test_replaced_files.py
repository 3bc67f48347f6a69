"""Scans whose files are replaced between the search and their turn, which may come hours later in a long list.

A result must never mix two scans: the name and the geometry of the one that was found, the pixels of the one that is
there now.
"""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan_source import ScanSource
from scripts.inference.outputs.result_folder import describe_source
from support.fake_dicom import write_ct
from support.fake_enhanced import read_slices, write_enhanced
from support.fake_scans import ball_scan, two_balls


def found_again(source: ScanSource, kept: bool) -> ScanSource:
    """The source as it is in this process, or as another one gets it: without the headers of the search."""
    return source if kept else pickle.loads(pickle.dumps(source))


@pytest.fixture(params=["folder", "zip", "enhanced"])
def place(request: pytest.FixtureRequest) -> str:
    return request.param


def write(place: str, root: Path, number: int, **tags: Any) -> Path:
    """A series of one of two patients; the files have the same names."""
    own = {"PatientID": f"P-{number}", "SeriesInstanceUID": f"1.2.3.{number}"}
    slices = write_ct(root / f"slices_{number}", ball_scan(), **{**own, **tags})
    for index, path in enumerate(sorted(slices.iterdir())):
        one = pydicom.dcmread(path)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}.{index}"
        one.save_as(path)
    target = root / "in"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    if place == "zip":
        shutil.make_archive(str(target / "ct"), "zip", slices)
    elif place == "enhanced":
        write_enhanced(target / "ct.dcm", read_slices(slices))
    else:
        shutil.move(slices, target / "ct")
    shutil.rmtree(slices, ignore_errors=True)
    return target


@pytest.mark.parametrize("kept", [True, False], ids=["headers kept", "headers read again"])
def test_a_scan_of_another_patient_never_takes_the_place_of_the_one_that_was_found(
    place: str, kept: bool, tmp_path: Path
) -> None:
    (source,) = find_scans(write(place, tmp_path, 1))
    write(place, tmp_path, 2, spacing=(0.5, 0.5, 5.0))
    with pytest.raises((OSError, ValueError), match=r"1\.2\.3\.1\b"), found_again(source, kept).open():
        pass


@pytest.mark.parametrize("kept", [True, False], ids=["headers kept", "headers read again"])
def test_files_that_were_written_again_are_the_same_scan(place: str, kept: bool, tmp_path: Path) -> None:
    (source,) = find_scans(write(place, tmp_path, 1))
    write(place, tmp_path, 1)
    with found_again(source, kept).open() as scan:
        assert scan.series == "1.2.3.1"


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("PatientID", "P-2"),
        ("PixelSpacing", [2.0, 2.0]),
        ("RescaleIntercept", -1000),
        ("ImageOrientationPatient", [-1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
    ],
)
def test_an_image_that_was_edited_in_its_place_is_not_read_with_its_old_header(
    tag: str, value: Any, tmp_path: Path
) -> None:
    (source,) = find_scans(write("folder", tmp_path, 1))
    write("folder", tmp_path, 1, **{tag: value})
    with pytest.raises(OSError, match=rf"got another one \({tag} .*replaced in the meantime"), source.open():
        pass


def test_the_hash_of_a_volume_is_that_of_the_voxels_that_were_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"

    def save(hu: np.ndarray) -> str:
        nibabel.Nifti1Image(np.ascontiguousarray(hu.T), np.diag([-1.0, -1.0, 2.5, 1.0])).to_filename(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    before = save(ball_scan())
    (source,) = find_scans(path)
    with source.open() as scan:
        after = save(two_balls())
        assert before != after
        assert describe_source(scan)["sha256"] == before
