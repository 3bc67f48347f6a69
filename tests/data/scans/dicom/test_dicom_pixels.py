"""Pixels of DICOM slices: bits, padding and rescale as in the header, and rejected if it contradicts itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from scripts.data.scans.scan import read_scan
from scripts.data.scans.volume_files.stored_image import read_itk_pixels
from support.fake_dicom import write_ct

HU = np.random.default_rng(0).integers(-1000, 3000, (1, 8, 10)).astype(np.int16)


def hu_of(folder: Path, stored: np.ndarray, **tags: object) -> np.ndarray:
    """What is read of a slice with these words."""
    order = "<u4" if tags.get("BitsAllocated") == 32 else "<u2"
    return read_scan(write_ct(folder, HU, PixelData=stored[0].astype(np.int64).astype(order).tobytes(), **tags)).hu


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(("stored", "allocated"), [(12, 16), (13, 16), (16, 16), (16, 32), (32, 32)])
def test_bits_are_read_as_the_header_says(tmp_path: Path, signed: int, stored: int, allocated: int) -> None:
    intercept = 500 if signed else -1024
    words = (HU.astype(np.int64) - intercept) & ((1 << stored) - 1)
    words[HU - intercept >= 1 << (stored - signed)] = 0
    wanted = np.where(HU - intercept >= 1 << (stored - signed), intercept, HU)
    if signed and stored == 12:
        wanted = np.where(HU - intercept < -2048, HU, wanted)
        words, wanted = np.clip(HU, -1000, 2000) - intercept & 0xFFF, np.clip(HU, -1000, 2000)
    bits = {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": signed}
    np.testing.assert_array_equal(hu_of(tmp_path, words, RescaleIntercept=intercept, **bits), wanted)


def test_bits_above_the_value_do_not_count(tmp_path: Path) -> None:
    # Overlays were once stored there.
    words = (HU + 1024).astype(np.int64) | 0x8000
    np.testing.assert_array_equal(hu_of(tmp_path, words, BitsStored=12, HighBit=11), HU)


def test_high_bit_15_of_12(tmp_path: Path) -> None:
    words = (HU + 1024).astype(np.int64)
    np.testing.assert_array_equal(hu_of(tmp_path / "up", words << 4, BitsStored=12, HighBit=15), HU)
    with pytest.raises(ValueError, match=r"nothing below the lowest of 12 bits with HighBit 15, got values there in"):
        hu_of(tmp_path / "down", words, BitsStored=12, HighBit=15)


@pytest.mark.parametrize(
    "bits",
    [
        {"BitsStored": 16, "HighBit": 11},
        {"BitsStored": 17},
        {"BitsStored": 0},
        {"HighBit": 16},
        {"BitsAllocated": 24, "BitsStored": 24, "HighBit": 23},
    ],
)
def test_bits_that_contradict_each_other_are_rejected(tmp_path: Path, bits: dict) -> None:
    with pytest.raises(ValueError, match=r"words of 16 or 32 bits, got BitsAllocated \d+, BitsStored \d+ and HighBit"):
        hu_of(tmp_path, HU + 1024, **bits)


def padded(value: int) -> tuple[np.ndarray, np.ndarray]:
    """Words of the slice with padding in its corner, and where that is."""
    words = (HU + 1024).astype(np.int64)
    where = np.zeros(HU.shape, dtype=bool)
    where[0, :3, :4] = True
    words[where] = value
    return words, where


@pytest.mark.parametrize(
    ("tags", "value", "wanted"),
    [
        # Dark padding stays.
        ({"PixelPaddingValue": 0}, 0, -1024),
        # GE's -2000, for unsigned words and for a value outside of the stored bits.
        ({"PixelPaddingValue": 63536}, 63536, -1024),
        ({"PixelPaddingValue": 63536, "BitsStored": 12, "HighBit": 11}, 63536, -1024),
        ({"PixelPaddingValue": 65535}, 65535, -1024),
        ({"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 65535}, 63000, -1024),
        ({"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 60000}, 63000, -1024),
    ],
)
def test_padding_is_air_where_it_would_be_bright(tmp_path: Path, tags: dict, value: int, wanted: int) -> None:
    words, where = padded(value)
    hu = hu_of(tmp_path, words, **tags)
    assert set(hu[where].tolist()) == {wanted}
    np.testing.assert_array_equal(hu[~where], HU[~where])


def test_signed_padding_is_kept_or_cut_to_the_lowest(tmp_path: Path) -> None:
    words, where = padded(-2000)
    signed = {"PixelRepresentation": 1}
    assert set(hu_of(tmp_path / "ge", words, PixelPaddingValue=-2000, **signed)[where].tolist()) == {-3024}
    words, where = padded(-32768)
    assert set(hu_of(tmp_path / "low", words, PixelPaddingValue=-32768, **signed)[where].tolist()) == {-32768}


def test_bright_padding_that_no_tag_names_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Hounsfield units of at most 32767, got 62512 in .*padding that its header"):
        hu_of(tmp_path, padded(63536)[0])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"RescaleSlope": 0}, "a RescaleSlope other than 0"),
        ({"RescaleSlope": [1, 2]}, r"1 number in the DICOM tag RescaleSlope, got \[1"),
        ({"RescaleSlope": "1e300"}, "Hounsfield units of at most 32767, got inf"),
        ({"RescaleType": "US"}, "RescaleType HU"),
        ({"RescaleIntercept": None}, "DICOM tag RescaleIntercept, .* missing"),
        ({"PixelRepresentation": 7}, "PixelRepresentation 0 or 1, got 7"),
    ],
)
def test_invalid_rescale_is_rejected(tmp_path: Path, tags: dict, message: str) -> None:
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        hu_of(tmp_path, HU + 1024, **tags)


def test_each_slice_has_a_rescale_of_its_own(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-500, 1500, (3, 8, 10)).astype(np.int16) * 2
    write_ct(tmp_path, hu)
    for index, (slope, intercept) in enumerate(((1, -1024), (2, -3000), (0.5, -1000)), start=1):
        path = tmp_path / f"IM{index:04d}.dcm"
        one = pydicom.dcmread(path)
        one.RescaleSlope, one.RescaleIntercept = slope, intercept
        one.PixelData = ((hu[3 - index].astype(np.int64) - intercept) / slope).astype("<u2").tobytes()
        one.save_as(path)
    np.testing.assert_array_equal(read_scan(tmp_path).hu, hu)


@pytest.mark.parametrize("slope", [1, 0.3, 0.5, 1.1])
def test_raw_values_are_those_of_itk(tmp_path: Path, slope: float) -> None:
    write_ct(tmp_path, HU, RescaleSlope=slope, RescaleIntercept=-1000.25)
    (path,) = tmp_path.iterdir()
    expected = np.rint(read_itk_pixels(path)[1][..., 0].T).astype(np.int16)
    np.testing.assert_array_equal(read_scan(tmp_path).hu[0], expected)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless]
)
def test_transfer_syntaxes_give_the_same_values(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    (path,) = write_ct(tmp_path, HU).iterdir()
    one = pydicom.dcmread(path)
    if syntax.is_compressed:
        if syntax == JPEGLSLossless:
            pytest.importorskip("jpeg_ls", reason="no encoder for JPEG-LS")
        one.compress(syntax)
        one.save_as(path)
    else:
        plain = pydicom.Dataset()
        plain.update({element.tag: element for element in one})
        plain.file_meta, plain.preamble = one.file_meta, one.preamble
        plain.file_meta.TransferSyntaxUID = syntax
        if not syntax.is_little_endian:
            plain.PixelData = np.frombuffer(plain.PixelData, "<u2").astype(">u2").tobytes()
        pydicom.dcmwrite(path, plain, enforce_file_format=True)
    np.testing.assert_array_equal(read_scan(tmp_path).hu, HU)


def test_more_pixels_than_the_header_says_are_rejected(tmp_path: Path) -> None:
    content = (HU[0] + 1024).astype("<u2").tobytes()
    np.testing.assert_array_equal(read_scan(write_ct(tmp_path / "zeros", HU, PixelData=content + b"\0\0")).hu, HU)
    with pytest.raises(OSError, match=r"Expected 160 bytes of pixels, got 164 in .*IM0001\.dcm: its size"):
        read_scan(write_ct(tmp_path / "more", HU, PixelData=content + b"\1\2\3\4"))
