"""What the files of a folder are: slices, copies of them, and what is passed over."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.scans.dicom.dicom_headers import folder_files, read_contents
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import read_scan
from scripts.data.scans.volume_files.stored_image import log_text
from support.fake_dicom import write_ct

HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


@pytest.mark.parametrize("uid", ["", None])
def test_images_without_a_uid_are_no_copies(tmp_path: Path, uid: str | None) -> None:
    scan = read_scan(write_ct(tmp_path / "series", HU, SOPInstanceUID=uid))
    np.testing.assert_array_equal(scan.hu, HU)
    assert scan.notes == ()


def test_one_uid_for_different_images_is_rejected(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "series", HU, SOPInstanceUID="1.2.3")
    with pytest.raises(ValueError, match=r"one SOPInstanceUID for different images: .*IM0001\.dcm and .*IM0002\.dcm"):
        read_scan(folder)


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "series", HU)
    (folder / "._IM0001.dcm").write_bytes(b"\0\5\x16\7")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.hu, HU)
    assert scan.notes == ()


def test_link_to_nothing_is_a_slice_that_was_not_fetched(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "series", HU)
    (folder / "IM0001.dcm").unlink()
    (folder / "IM0001.dcm").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"a broken symbolic link at .*IM0001\.dcm"):
        read_scan(folder)


def test_what_cannot_be_read_or_waits_for_a_writer_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_ct(tmp_path / "series", HU)
    (folder / "A").write_bytes(b"x")
    (folder / "notes.txt").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "B")
    opened = Path.open

    def reject(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "A":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    # Not by the file's mode: the user of the tests may read everything.
    monkeypatch.setattr(Path, "open", reject)
    (source,) = find_scans(folder)
    with source.open() as scan:
        np.testing.assert_array_equal(scan.hu, HU)
        assert list(map(log_text, scan.notes)) == ["Left out A: it cannot be read (Permission denied)."]
    assert f"{folder / 'A'}: left out, it cannot be read (Permission denied)." in caplog.text


@pytest.mark.parametrize("name", ["pipe", "pipe.nii", "pipe.mha"])
def test_pipe_is_no_scan(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=r"got something else \(a pipe or a device\) at .*pipe"):
        read_scan(tmp_path / name)


def test_a_series_stays_in_its_process(tmp_path: Path) -> None:
    """Its headers hold open files; who reads a scan in another process finds None and reads them again."""
    (series,) = read_contents(folder_files(write_ct(tmp_path / "ct", HU[:2]))).series
    assert pickle.loads(pickle.dumps([series, series.uid])) == [None, "1.2.3.4"]


def test_a_damaged_tag_before_the_header_that_no_slice_needs(tmp_path: Path) -> None:
    """MediaStorageSOPClassUID with a kind of value that DICOM does not have."""
    folder = write_ct(tmp_path / "series", HU)
    expected = read_scan(folder)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert content.count(b"\x02\x00\x02\x00UI") == 1
        path.write_bytes(content.replace(b"\x02\x00\x02\x00UI", b"\x02\x00\x02\x00ZZ"))
    np.testing.assert_array_equal(read_scan(folder).hu, expected.hu)
