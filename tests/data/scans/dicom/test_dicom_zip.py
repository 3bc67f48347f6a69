"""DICOM in zip archives: the same scan as the folder, nothing left behind, nothing written outside."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scripts.data.scans.dicom import dicom_zip
from scripts.data.scans.dicom.dicom_zip import archive_files
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import read_scan
from scripts.data.scans.volume_files.stored_image import log_text
from support.fake_dicom import SERIES, write_ct

HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, to see what is left there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def pack(folder: Path, path: Path, *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Everything below a folder as an archive."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_zip_is_the_same_scan_as_its_folder(tmp_path: Path, scratch: Path, method: int) -> None:
    folder = write_ct(tmp_path / "in" / "deep" / "series", HU)
    (tmp_path / "in" / "readme.txt").write_text("hello")
    path = pack(tmp_path / "in", tmp_path / "scan.zip", method=method)
    (source,) = find_scans(path)
    assert (source.path, source.name, source.series) == (path, "", SERIES)
    reference = read_scan(folder)
    with source.open() as scan:
        np.testing.assert_array_equal(scan.hu, reference.hu)
        np.testing.assert_array_equal(scan.affine, reference.affine)
        assert scan.path == path
        assert [file.read_bytes() for file in scan.files] == [file.read_bytes() for file in reference.files]
    assert os.listdir(scratch) == []


def test_each_series_of_an_archive_is_a_scan(tmp_path: Path, scratch: Path) -> None:
    write_ct(tmp_path / "in" / "a", HU, SeriesDescription="thin / lung")
    write_ct(tmp_path / "in" / "a" / "b", HU[:2], SeriesInstanceUID="5.6", SeriesNumber=7)
    write_ct(tmp_path / "in" / "mr", HU, SeriesInstanceUID="5.7", Modality="MR")
    write_ct(tmp_path / "two", HU, SeriesInstanceUID="5.8", SeriesNumber=8, SeriesDescription="bone")
    for file in (tmp_path / "two").iterdir():
        file.rename(tmp_path / "in" / "a" / f"bone_{file.name}")
    path = pack(tmp_path / "in", tmp_path / "scan.zip")
    assert [source.name for source in find_scans(path)] == [SERIES, "5.8", "5.6"]
    sources = find_scans(path, result_names="place")
    assert [(source.name, source.series) for source in sources] == [
        ("a/3_thin_lung", SERIES),
        ("a/8_bone", "5.8"),
        ("a/b", "5.6"),
    ]
    with sources[1].open() as scan:
        assert any(log_text(note).startswith("Series 5.8 (bone, 4 slices), one of 2") for note in scan.notes)
        assert scan.hu.shape == HU.shape
    (chosen,) = find_scans(path, series="5.6")
    with chosen.open() as scan:
        assert scan.hu.shape == (2, 5, 6)
    assert os.listdir(scratch) == []


def test_damaged_folder_of_an_archive_costs_no_other_series(tmp_path: Path) -> None:
    write_ct(tmp_path / "in" / "good", HU)
    for file in write_ct(tmp_path / "in" / "bad", HU, SeriesInstanceUID="5.6").iterdir():
        file.write_bytes(file.read_bytes()[:140])
    bad, good = find_scans(pack(tmp_path / "in", tmp_path / "scan.zip"), result_names="place")
    assert (bad.name, good.name) == ("bad", "good")
    with good.open() as scan:
        np.testing.assert_array_equal(scan.hu, HU)
    with pytest.raises(OSError, match=r"header of bad.IM0001\.dcm is cut short.*scan\.zip"), bad.open():
        pass


def test_what_an_archive_holds_besides_ct_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ct(tmp_path / "in" / "ct", HU)
    write_ct(tmp_path / "in" / "scout", HU[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "in" / "other").mkdir()
    for name in ("a.txt", "inner.zip", "scan.nii.gz"):
        (tmp_path / "in" / "other" / name).write_bytes(b"anything")
    path = pack(tmp_path / "in", tmp_path / "scan.zip")
    (source,) = find_scans(path)
    assert source.series == SERIES
    assert f"{path}/scout: Left out IM0001.dcm: a localizer." in caplog.messages
    assert any("left out 3 file(s)" in line and "other/inner.zip the first" in line for line in caplog.messages)


def test_series_in_two_folders_of_an_archive_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_ct(tmp_path / "in" / "a", HU)
    (tmp_path / "in" / "b").mkdir()
    for file in sorted(folder.iterdir())[:2]:
        file.rename(tmp_path / "in" / "b" / file.name)
    path = pack(tmp_path / "in", tmp_path / "scan.zip")
    assert len(find_scans(path)) == 2
    (line,) = caplog.messages
    assert line.startswith(f"Series {SERIES} is in several places")
    assert f"{path}/a, {path}/b" in line


def rejected(path: Path) -> str:
    """The message about an archive."""
    (source,) = find_scans(path)
    with pytest.raises((OSError, ValueError)) as caught, source.open():
        pass
    assert type(caught.value) in (OSError, ValueError)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def write_member(name: str, *, link: bool = False) -> Callable[[Path], None]:
    """Writes an archive with one member of this name."""

    def write(path: Path) -> None:
        info = zipfile.ZipInfo("x")
        info.filename = name
        if link:
            info.external_attr = 0o120777 << 16
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(info, b"\0" * 128 + b"DICM")

    return write


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:\\evil.dcm"])
def test_names_that_lead_out_are_rejected(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / "scan.zip"
    path.parent.mkdir()
    write_member(name)(path)
    assert "names inside the archive" in rejected(path)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("folder", ["CT 12:30", "a:b", "Doe: Jane"])
def test_colon_in_a_name_is_part_of_it(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "scan.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in write_ct(tmp_path / "in", HU).iterdir():
            archive.write(file, f"{folder}/{file.name}")
    (source,) = find_scans(path)
    with source.open() as scan:
        np.testing.assert_array_equal(scan.hu, HU)
        assert not any(folder in note for note in scan.notes)


def test_links_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "scan.zip"
    write_member("link.dcm", link=True)(path)
    assert "no DICOM file" in rejected(path)


def test_too_much_is_rejected_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(write_ct(tmp_path / "in", np.zeros((4, 64, 64), dtype=np.int16)), tmp_path / "scan.zip")
    monkeypatch.setattr(dicom_zip, "MAX_FILES", 3)
    assert "at most 3 files" in rejected(path)
    monkeypatch.setattr(dicom_zip, "MAX_FILES", 100)
    monkeypatch.setattr(dicom_zip, "MAX_BYTES", 1000)
    assert "got 4 files of" in rejected(path)
    monkeypatch.setattr(dicom_zip, "MAX_BYTES", 1 << 30)
    monkeypatch.setattr(dicom_zip, "RATIO_FROM_BYTES", 0)
    monkeypatch.setattr(dicom_zip, "MAX_RATIO", 2)
    assert "unpack it by hand" in rejected(path)


def test_no_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(write_ct(tmp_path / "in", HU), tmp_path / "scan.zip")
    monkeypatch.setattr(dicom_zip.shutil, "disk_usage", lambda folder: _Usage())
    assert "MiB of space to unpack" in rejected(path)


class _Usage:
    free = 10


def test_password_is_rejected(tmp_path: Path) -> None:
    path = pack(write_ct(tmp_path / "in", HU), tmp_path / "scan.zip")
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 8] |= 1
    path.write_bytes(content)
    assert "without a password" in rejected(path)


def test_what_is_no_archive_or_damaged_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "scan.zip"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    assert "complete zip archive" in rejected(path)
    pack(write_ct(tmp_path / "in", HU), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "complete zip archive" in rejected(path)
    # One file damaged: its header is still readable, its checksum is not right.
    pack(tmp_path / "in", path, method=zipfile.ZIP_STORED)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"PK\x03\x04", 10) - 3] ^= 0xFF
    path.write_bytes(damaged)
    assert "complete zip archive" in rejected(path)


def test_errors_name_the_archive_and_the_file_in_it(tmp_path: Path, scratch: Path) -> None:
    folder = write_ct(tmp_path / "in" / "series", HU)
    (folder / "IM0002.dcm").unlink()
    message = rejected(pack(tmp_path / "in", tmp_path / "scan.zip"))
    assert "a slice is missing" in message
    assert f"{tmp_path / 'scan.zip'}/series/IM0003.dcm" in message
    assert os.listdir(scratch) == []


def test_archive_without_ct_says_what_it_holds(tmp_path: Path) -> None:
    write_ct(tmp_path / "in" / "a", HU[:2], Modality="MR")
    write_ct(tmp_path / "in" / "b", HU[:1], Modality="PT")
    assert "modality CT, got 2 MR, 1 PT" in rejected(pack(tmp_path / "in", tmp_path / "scan.zip"))


@pytest.mark.parametrize("name", ["inner.zip", "deep/ct.nii.gz"])
def test_archive_with_scans_in_other_forms_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "in" / name).parent.mkdir(parents=True)
    (tmp_path / "in" / name).write_bytes(b"x")
    write_ct(tmp_path / "in" / "a", HU[:2], Modality="MR")
    message = rejected(pack(tmp_path / "in", tmp_path / "scan.zip"))
    assert f"got {name} in {tmp_path / 'scan.zip'}: unpack it and give the folder instead" in message


def test_archive_is_closed_with_its_context(tmp_path: Path) -> None:
    path = pack(write_ct(tmp_path / "in", HU), tmp_path / "scan.zip")
    with archive_files(path) as files:
        (first, *_) = files.values()
        with first() as file:
            assert file.read(132)[128:] == b"DICM"
    with pytest.raises(ValueError, match="closed"):
        first()
