"""Scans in object stores: found by name, read as on a disk, gone from this machine afterwards."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.remote_scans import hidden_name, list_scans
from support.fake_dicom import write_ct
from support.fake_scans import ball_scan
from support.stores import KINDS, open_bucket, upload


@pytest.fixture(params=KINDS)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from open_bucket(request.param, monkeypatch)


def write_scan(path: Path, hu: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nibabel.Nifti1Pair if path.suffix == ".hdr" else nibabel.Nifti1Image
    nibabel.save(kind(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A volume, a series, the same in an archive, two volumes with their voxels apart, results, and other files."""
    root = tmp_path / "archive"
    write_scan(root / "p1" / "ct.nii.gz", ball_scan(shape=(6, 40, 56)))
    write_scan(root / "p3" / "pair.hdr", ball_scan(shape=(6, 40, 56)))
    series = write_ct(root / "Doe_John" / "series", ball_scan(shape=(6, 40, 56)), SeriesInstanceUID="1.2.9")
    with zipfile.ZipFile(root / "packed.zip", "w") as archive:
        for path in sorted(series.iterdir()):
            archive.write(path, path.name)
    hu = ball_scan(shape=(6, 40, 56)).astype("<i2")
    header = "NDims = 3\nDimSize = 56 40 6\nElementType = MET_SHORT\nElementSpacing = 1 1 2.5\n"
    (root / "p2").mkdir()
    (root / "p2" / "ct.mhd").write_text(f"ObjectType = Image\n{header}ElementDataFile = ct.raw\n")
    (root / "p2" / "ct.raw").write_bytes(hu.tobytes())
    (root / "p1" / "lesions.json").write_text("{}")
    (root / "readme.txt").write_text("not a scan")
    return root


def test_scans_below_a_prefix_are_those_of_a_folder(bucket: str, folder: Path) -> None:
    upload(folder, f"{bucket}/archive")
    url = f"{bucket}/archive"
    local = {source.name: source for source in find_scans(str(folder), result_names="place")}
    remote = {source.name: source for source in find_scans(url, result_names="place")}
    assert set(remote) == set(local) == {"p1/ct", "p2/ct", "p3/pair", "packed", "Doe_John/series"}
    for name, source in remote.items():
        with source.open() as scan, local[name].open() as wanted:
            assert np.array_equal(scan.hu, wanted.hu)
            assert np.array_equal(scan.affine, wanted.affine)
            files = list(scan.files)
            assert files
            assert all(path.is_file() for path in files)
        assert not any(path.exists() for path in files)


def test_names_of_series_say_nothing_of_the_patient(bucket: str, folder: Path) -> None:
    upload(folder, f"{bucket}/archive")
    names = {source.name for source in find_scans([f"{bucket}/archive/"])}
    series, packed = (hidden_name(f"{bucket}/archive/{key}") for key in ("Doe_John/series", "packed.zip"))
    assert names == {"archive/p1/ct", "archive/p2/ct", "archive/p3/pair", series, packed}
    (one,) = find_scans(f"{bucket}/archive/Doe_John/series", series="1.2.9")
    assert (one.name, one.series) == ("", "1.2.9")
    with one.open() as scan:
        assert scan.hu.shape == (6, 40, 56)
    (other,) = find_scans(f"{bucket}/archive/packed.zip", series="1.2.10")
    with pytest.raises(ValueError, match=r"Expected one series in .*packed\.zip, got 1\.2\.9"), other.open():
        pass


def test_a_list_in_a_store_names_objects_and_paths(bucket: str, folder: Path, tmp_path: Path) -> None:
    upload(folder, f"{bucket}/archive")
    local = folder / "p1" / "ct.nii.gz"
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "scans.txt").write_text(
        f"{bucket}/archive/p1/ct.nii.gz\n{local}\n{bucket}/archive/none.nii\n"
    )
    upload(tmp_path / "lists", bucket)
    there, here, missing = find_scans(f"{bucket}/scans.txt")
    with there.open() as one, here.open() as other:
        assert np.array_equal(one.hu, other.hu)
    with pytest.raises(FileNotFoundError, match=f"Expected an object at {bucket}/archive/none.nii, found none"):
        missing.open()


def test_what_cannot_be_read_is_named_by_its_url(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cut.nii.gz").write_bytes(b"cut")
    (tmp_path / "data" / "sub").mkdir()
    (tmp_path / "data" / "sub" / "notes.pdf").write_bytes(b"-")
    upload(tmp_path / "data", f"{bucket}/data")
    (cut,) = find_scans(f"{bucket}/data/cut.nii.gz")
    with pytest.raises((OSError, ValueError), match=rf"{bucket}/data/cut\.nii\.gz") as caught, cut.open():
        pass
    assert "mp3d_objects_" not in str(caught.value)
    (none,) = find_scans(f"{bucket}/data/sub")
    with pytest.raises(ValueError, match=f"Expected a CT at {bucket}/data/sub, got none among 1 objects"):
        none.open()


def test_a_store_that_does_not_answer_stops_no_other_scan() -> None:
    (one,) = list_scans("memory://nowhere/scan.nii", lambda path: pytest.fail("read"))
    with pytest.raises(FileNotFoundError, match=r"memory://nowhere/scan\.nii"):
        one.opener()
