"""DICOM files as they come: without preamble, coded otherwise than they say, deflated, damaged, and other files."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from scripts.data.scans.dicom import dicom_files
from scripts.data.scans.dicom.dicom_files import ForeignFileError, read_dataset, read_text
from scripts.data.scans.dicom.dicom_headers import NO_DICOM, DamagedHeaderError, look_at
from scripts.data.scans.dicom.dicom_series import read_series
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import read_scan
from support.fake_dicom import write_ct

HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def bare(path: Path, *, implicit: bool) -> bytes:
    """The data set of a file without preamble and meta group."""
    one = pydicom.dcmread(path)
    plain = pydicom.Dataset()
    plain.update({element.tag: element for element in one})
    content = DicomFileLike(io.BytesIO())
    content.is_little_endian, content.is_implicit_VR = True, implicit
    write_dataset(content, plain)
    return content.parent.getvalue()


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_file_without_preamble_is_read(tmp_path: Path, implicit: bool, suffix: str) -> None:
    whole = write_ct(tmp_path / "whole", HU)
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in whole.iterdir():
        (folder / f"{path.stem}{suffix}").write_bytes(bare(path, implicit=implicit))
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.hu, HU)
    np.testing.assert_allclose(scan.affine, read_scan(whole).affine)
    assert scan.notes == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("said", "done"), [(ExplicitVRLittleEndian, True), (ImplicitVRLittleEndian, False)])
def test_data_set_counts_rather_than_what_the_meta_group_says(
    tmp_path: Path, said: pydicom.uid.UID, done: bool
) -> None:
    for path in write_ct(tmp_path, HU).iterdir():
        one = pydicom.dcmread(path)
        one.file_meta.TransferSyntaxUID = said
        head = io.BytesIO()
        pydicom.filewriter.write_file_meta_info(head, one.file_meta)
        path.write_bytes(b"\0" * 128 + b"DICM" + head.getvalue() + bare(path, implicit=done))
    np.testing.assert_array_equal(read_scan(tmp_path).hu, HU)


@pytest.mark.parametrize(
    "content",
    [b"<html>404</html>" * 20, b"not found", b"%PDF-1.7\n" * 40, bytes(range(256)) * 4, b"\x89PNG\r\n\x1a\n" * 20],
)
def test_foreign_file_stops_no_series(tmp_path: Path, content: bytes) -> None:
    write_ct(tmp_path, HU)
    write_ct(tmp_path / "other", HU, SeriesInstanceUID="5.6")
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / f"other_{path.name}")
    (tmp_path / "junk.dcm").write_bytes(content)
    sources = find_scans(tmp_path)
    assert [source.series for source in sources] == ["1.2.3.4", "5.6"]
    for source in sources:
        with source.open() as scan:
            np.testing.assert_array_equal(scan.hu, HU)
            assert any("no DICOM image" in note for note in scan.notes)
            assert not any("junk" in note for note in scan.notes)
    with pytest.raises(ForeignFileError, match=r"something else in .*junk\.dcm"):
        read_dataset(tmp_path / "junk.dcm")


@pytest.mark.parametrize("keep", [0, 60, 131, 400, "Rows"])
def test_damaged_slice_stops_its_series_and_no_other(tmp_path: Path, keep: int | str) -> None:
    write_ct(tmp_path, HU)
    write_ct(tmp_path / "other", HU, SeriesInstanceUID="5.6")
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / f"other_{path.name}")
    cut = tmp_path / "other_IM0004.dcm"
    content = cut.read_bytes()
    cut.write_bytes(content[: keep if isinstance(keep, int) else content.find(b"\x28\0\x10\0US")])
    good, bad = find_scans(tmp_path)
    with good.open() as scan:
        np.testing.assert_array_equal(scan.hu, HU)
    if keep == "Rows":
        # Which series it is of can still be read.
        with pytest.raises(OSError, match=r"header of .*other_IM0004\.dcm is cut short"):
            bad.open()
    else:
        with bad.open() as scan:
            assert any("its header is damaged, it may be a slice of this series" in note for note in scan.notes)
    cut.rename(tmp_path / "other" / cut.name)
    for path in tmp_path.glob("other_*"):
        path.rename(tmp_path / "other" / path.name)
    with pytest.raises(OSError, match=r"other_IM0004\.dcm"):
        read_scan(tmp_path / "other")


def deflated(path: Path, data: bytes) -> None:
    """Replace the data set of a file by deflated bytes."""
    meta = pydicom.dcmread(path).file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(head, meta)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(b"\0" * 128 + b"DICM" + head.getvalue() + packer.compress(data) + packer.flush())


def test_deflated_bomb_is_rejected_before_it_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_ct(tmp_path, HU[:1]).iterdir()
    monkeypatch.setattr(dicom_files, "MAX_INFLATED_BYTES", 1 << 20)
    deflated(path, bare(path, implicit=False))
    np.testing.assert_array_equal(read_scan(tmp_path).hu, HU[:1])
    deflated(path, bare(path, implicit=False) + b"\0" * (1 << 21))
    with pytest.raises(OSError, match=r"could not read the header of .* \(deflated content of more than 1 MiB\)"):
        read_scan(tmp_path)
    deflated(path, b"")
    path.write_bytes(path.read_bytes()[:-2] + b"\xff" * 50)
    with pytest.raises(OSError, match=r"deflated content is damaged"):
        read_scan(tmp_path)


def nested(depth: int) -> bytes:
    """Sequences in sequences, of undefined length, explicit little endian."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return (struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item) * depth


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:200] + nested(5000),
        lambda data: data.replace(b"DS\x08\x00-1024   ", b"DS\x08\x001e99999 ").replace(b"-1024 ", b"9e999 "),
        lambda data: data.replace(b"IS\x02\x003 ", b"IS\x02\x00zz"),
        lambda data: data.replace(b"0.9\\0.7 ", b"1e9999\\1"),
        lambda data: data.replace(b"(\x00\x10\x00US\x02\x00\x05\x00", b"(\x00\x10\x00US\x02\x00\xff\xff"),
        lambda data: data.replace(b"(\x00\x10\x00US\x02\x00\x05\x00", b"(\x00\x10\x00SQ\x00\x00\xff\xff\xff\xff"),
        lambda data: data.replace(b"(\x00\x10\x00US", b"(\x00\x10\x00ZZ"),
        lambda data: data.replace(b"UI", b"SQ"),
        lambda data: data.replace(b"DS", b"US"),
        lambda data: data.replace(b"DS", b"UN"),
        lambda data: data.replace(b"\x02\x00\x00\x00UL\x04\x00", b"\x02\x00\x00\x00UL\x05\x00"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_odd_values_are_rejected_in_one_line_or_do_not_matter(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    for path in write_ct(tmp_path, HU).iterdir():
        path.write_bytes(change(path.read_bytes()))
    for source in find_scans(tmp_path):
        said = None
        try:
            with source.open() as scan:
                shape = scan.hu.shape
        except (OSError, ValueError) as error:
            said = str(error)
        if said is None:
            assert shape == HU.shape
        else:
            assert "\n" not in said
            assert str(tmp_path) in said
            assert len(said) < 1000


def test_what_counts_as_dicom(tmp_path: Path) -> None:
    (path,) = write_ct(tmp_path / "one", HU[:1]).iterdir()
    data = bare(path, implicit=True)
    for name, content, wanted in (
        ("IM1", data, "CT"),
        ("IM2", b"\0" * 128 + b"DICM", "damaged"),
        ("junk", b"\x08\0\x05\0" + b"\xff" * 200, NO_DICOM),
        ("short", data[:100], NO_DICOM),
        ("DICOMDIR", b"\0" * 128 + b"DICM", NO_DICOM),
        ("a.dcm", b"anything", NO_DICOM),
        ("cut.dcm", b"\0" * 100, "damaged"),
        ("b.zip", data, NO_DICOM),
    ):
        (tmp_path / name).write_bytes(content)
        found = look_at(tmp_path / name, partial((tmp_path / name).open, "rb"))
        kind = found.Modality if isinstance(found, pydicom.Dataset) else found
        assert ("damaged" if isinstance(kind, DamagedHeaderError) else kind) == wanted, name


def test_a_text_of_a_header_is_one_line_in_messages_and_notes(tmp_path: Path) -> None:
    header = pydicom.Dataset()
    for tag in ("PhotometricInterpretation", "SeriesDescription", "SeriesInstanceUID", "RescaleType"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            setattr(header, tag, "a\nb\x1b[2J\rc")
        assert read_text(header, tag) == "a b [2J c"
    header.SeriesDescription = "Thorax  1.0  B70f \u00e9"
    assert read_text(header, "SeriesDescription") == "Thorax  1.0  B70f \u00e9"
    (path,) = write_ct(tmp_path / "one", HU[:1], SliceThickness=2.5).iterdir()
    dataset = pydicom.dcmread(path)
    dataset["PhotometricInterpretation"]._value = "a\nb"
    dataset.save_as(path)
    with pytest.raises(ValueError, match=r"^Expected grey values \(MONOCHROME2\), got a b in .*IM0001\.dcm\.$"):
        read_series(tmp_path / "one")


def test_a_slice_takes_the_memory_of_its_file_and_not_of_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "slice.dcm"
    path.write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert dicom_files.read_bytes(path) == b"x" * 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
