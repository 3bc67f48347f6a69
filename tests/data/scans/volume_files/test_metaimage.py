"""MetaImage files: the result of ITK for valid ones, with notes on units and doubts; a line for invalid ones."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from scripts.data.scans.scan import read_scan
from scripts.data.scans.volume_files.metaimage import metaimage_files
from support.fake_volumes import META_SPACE, ORIGIN, SPACING, body, itk_image, meta

RAW = body().astype("<i2").tobytes()
X, Y, Z = body().shape[::-1]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (META_SPACE, ()),
        ((META_SPACE[0], "Rotation = 0.8 0.6 0 -0.6 0.8 0 0 0 1", "Position = 1 2 3"), ("turned by 36.9 degrees",)),
        ((META_SPACE[0], "Orientation = 0.96 0.28 0 -0.28 0.96 0 0 0 1", "Origin = 1 2 3"), ("turned by 16.3",)),
        (("ElementSize = 0.7 0.9 2.5", *META_SPACE[1:]), ()),
        (("ElementSize = 1 1 1", *META_SPACE), ()),
        (("ElementSpacing : 0.7 0.9 2.5", *META_SPACE[1:], "Comment = a remark", "CenterOfRotation = 5 5 5"), ()),
        (META_SPACE[1:], ("no voxel spacing",)),
        (META_SPACE[::2], ("no orientation",)),
        (META_SPACE[:2], ("no origin",)),
        ((), ("no voxel spacing", "no orientation", "no origin")),
        ((*META_SPACE, "ElementToIntensityFunctionSlope = 2"), ("was not applied, as in ITK",)),
    ],
)
def test_geometry_is_what_itk_makes_of_it(tmp_path: Path, lines: tuple[str, ...], told: tuple[str, ...]) -> None:
    path = meta(tmp_path / "scan.mha", *lines)
    if "36.9" in "".join(told):
        with pytest.raises(ValueError, match=r"turned by 36\.9 degrees"):
            read_scan(path)
        return
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine @ np.linalg.inv(scan.stored_from_canonical), itk_image(path)[1], atol=1e-9)
    np.testing.assert_array_equal(scan.hu, body())
    assert len(scan.notes) == len(told)
    for note, part in zip(scan.notes, told, strict=True):
        assert part in note


@pytest.mark.parametrize(("unit", "factor"), [("um", 1000), ("cm", 0.1), ("m", 0.001), ("mm", 1), ("?", 1)])
def test_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    spacing = " ".join(str(edge * factor) for edge in SPACING)
    origin = " ".join(str(edge * factor) for edge in ORIGIN)
    lines = (f"ElementSpacing = {spacing}", META_SPACE[1], f"Offset = {origin}", f"DistanceUnits = {unit}")
    scan = read_scan(meta(tmp_path / "scan.mha", *lines))
    np.testing.assert_allclose(scan.affine[:3, :3], np.diag(SPACING), atol=1e-9)
    np.testing.assert_allclose(scan.affine[:3, 3], ORIGIN, atol=1e-9)
    assert len(scan.notes) == (factor != 1)


def test_directions_that_are_not_of_length_one_keep_the_spacing(tmp_path: Path) -> None:
    path = meta(tmp_path / "scan.mha", META_SPACE[0], "TransformMatrix = 0.9 0 0 0 0.9 0 0 0 1", META_SPACE[2])
    scan = read_scan(path)
    np.testing.assert_allclose(scan.spacing, SPACING)
    assert scan.notes == (
        "The directions in the header are not of length 1 (0.9 x 0.9 x 1): they were normalised, the spacings are "
        "kept.",
    )


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("MET_SHORT", "<i2"),
        ("MET_INT", "<i4"),
        ("MET_LONG", "<i4"),
        ("MET_LONG_LONG", "<i8"),
        ("MET_FLOAT", "<f4"),
        ("MET_DOUBLE", "<f8"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_and_byte_order_gives_the_same_voxels(tmp_path: Path, kind: str, dtype: str, order: str) -> None:
    lines = (*META_SPACE, *(["ElementByteOrderMSB = True"] if order == ">" else []))
    data = body().astype(dtype.replace("<", order)).tobytes()
    path = meta(tmp_path / "scan.mha", *lines, data=data, kind=kind)
    path.write_bytes(path.read_bytes().replace(b"BinaryDataByteOrderMSB = False\n", b""))
    np.testing.assert_array_equal(read_scan(path).hu, body())


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
def test_compressed_voxels_are_read(tmp_path: Path, pack) -> None:
    data = pack(RAW)
    lines = (*META_SPACE, "CompressedData = True", f"CompressedDataSize = {len(data)}")
    np.testing.assert_array_equal(read_scan(meta(tmp_path / "scan.mha", *lines, data=data)).hu, body())


@pytest.mark.parametrize("form", ["file", "list", "pattern", "skip", "end", "packed"])
def test_voxels_in_other_files_are_read_and_named(tmp_path: Path, form: str) -> None:
    for k, plane in enumerate(body(), start=1):
        (tmp_path / f"s{k:03d}.raw").write_bytes(plane.tobytes())
    data = {"skip": b"abc" + RAW, "end": b"abcd" + RAW, "packed": zlib.compress(RAW)}.get(form, RAW)
    (tmp_path / "all.raw").write_bytes(data)
    names = [f"s{k:03d}.raw" for k in range(1, Z + 1)]
    where = {"list": "LIST\n" + "\n".join(names), "pattern": f"s%03d.raw 1 {Z} 1"}.get(form, "all.raw")
    more = {"skip": "HeaderSize = 3", "end": "HeaderSize = -1", "packed": "CompressedData = True"}.get(form, "Name = x")
    scan = read_scan(meta(tmp_path / "scan.mhd", *META_SPACE, more, where=where, data=b""))
    np.testing.assert_array_equal(scan.hu, body())
    wanted = names if form in ("list", "pattern") else ["all.raw"]
    assert scan.files == (tmp_path / "scan.mhd", *(tmp_path / name for name in wanted))


@pytest.mark.parametrize(
    "name", ["../secret.raw", "/dev/urandom", "link.raw", "pipe", "LIST\n../secret.raw", "p%d 1 1 1"]
)
def test_only_regular_files_of_the_folder_are_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(RAW)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "p1")
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    path = meta(folder / "scan.mhd", *META_SPACE, where=name, data=b"")
    with pytest.raises(ValueError, match=r"Expected (the name of a file next|a regular file|a file in the folder)"):
        read_scan(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NDims = 3", "NDims = 300000", "volume of 3 dimensions, got 300000"),
        ("NDims = 3", "NDims = -1", "volume of 3 dimensions, got -1"),
        ("NDims = 3", "NDims = " + "9" * 5000, "1 whole number as 'NDims'"),
        ("NDims = 3", "NDims = 4", "4 whole numbers as 'DimSize'"),
        (f"DimSize = {X}", "DimSize = 100000000", "at most 4 GiB"),
        (f"DimSize = {X}", f"DimSize = {X + 1}", "cannot hold them"),
        (f"DimSize = {X}", f"DimSize = {X - 1}", "as the header says"),
        (f"DimSize = {X}", "DimSize = 0", "volume of 3 dimensions"),
        ("MET_SHORT", "MET_SHORTS", "a type of number as 'ElementType'"),
        ("ElementSpacing = 0.7", "ElementSpacing = -0.7", "three positive voxel spacings"),
        ("ElementSpacing = 0.7", "ElementSpacing = nan", "3 numbers as 'elementspacing'"),
        ("ElementSpacing = 0.7", "ElementSpacing = 7000", "voxels of 0.01 to 50 mm"),
        ("TransformMatrix = 1", "TransformMatrix = 0", "directions of length 1"),
        ("TransformMatrix = 1", "TransformMatrix = 1 1", "9 numbers as 'TransformMatrix'"),
        ("Offset = -12", "Offset = 1e30", "within 20000 mm of the origin"),
        ("NDims = 3", "NDims = 3\nDistanceUnits = parsec", "a unit of length"),
        ("NDims = 3", "NDims = 3\nElementNumberOfChannels = 3", "one number per voxel, got 3"),
        ("NDims = 3", "NDims = 3\nDimSize = 1 1 1", "each line of the header once, got 'dimsize' twice"),
        ("NDims = 3", "NDims = 3\nCompressedData = True", "could not read"),
        ("NDims = 3", "NDims = 3\nHeaderSize = 12", "no 'HeaderSize'"),
        ("BinaryData = True", "BinaryData = False", "binary voxels"),
        ("ElementDataFile = LOCAL", "ElementDataFile = absent.raw", "names, nothing is at .absent.raw"),
        ("ElementDataFile = LOCAL", "Element", "MetaImage"),
    ],
)
def test_odd_headers_get_a_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = meta(tmp_path / "scan.mha", *META_SPACE)
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))
    with pytest.raises((OSError, ValueError), match=message):
        read_scan(path)


@pytest.mark.parametrize("size", [1, 10**6])
def test_size_of_the_compressed_data_is_held_against_the_file(tmp_path: Path, size: int) -> None:
    lines = (*META_SPACE, "CompressedData = True", f"CompressedDataSize = {size}")
    with pytest.raises(OSError, match=f"Expected {size} bytes of compressed voxels"):
        read_scan(meta(tmp_path / "scan.mha", *lines, data=zlib.compress(RAW)))


def test_two_matrices_have_to_agree(tmp_path: Path) -> None:
    same = META_SPACE[1].replace("TransformMatrix", "Rotation")
    plain = read_scan(meta(tmp_path / "a.mha", *META_SPACE))
    np.testing.assert_array_equal(read_scan(meta(tmp_path / "b.mha", *META_SPACE, same)).affine, plain.affine)
    with pytest.raises(ValueError, match=r"one TransformMatrix, got others as Rotation or Orientation in .*c\.mha"):
        read_scan(meta(tmp_path / "c.mha", *META_SPACE, "Rotation = 0.8 0.6 0 -0.6 0.8 0 0 0 1"))


@pytest.mark.parametrize("key", ["Position", "Origin"])
def test_two_origins_have_to_agree(tmp_path: Path, key: str) -> None:
    same = META_SPACE[2].replace("Offset", key)
    plain = read_scan(meta(tmp_path / "a.mha", *META_SPACE))
    np.testing.assert_array_equal(read_scan(meta(tmp_path / "b.mha", *META_SPACE, same)).affine, plain.affine)
    with pytest.raises(ValueError, match=rf"one Offset, got another as {key} in .*c\.mha"):
        read_scan(meta(tmp_path / "c.mha", *META_SPACE, f"{key} = 1 2 3"))
    # ITK takes the last of the keys that is there.
    with pytest.raises(ValueError, match=r"one Offset, got another as Origin in .*d\.mha"):
        read_scan(meta(tmp_path / "d.mha", *META_SPACE[:2], "Position = 1 2 3", "Origin = 3 2 1"))


def test_files_with_voxels_are_named_without_reading_them(tmp_path: Path) -> None:
    assert metaimage_files(meta(tmp_path / "a.mha", *META_SPACE)) == [tmp_path / "a.mha"]
    (tmp_path / "all.raw").write_bytes(b"")
    assert metaimage_files(meta(tmp_path / "b.mhd", *META_SPACE, where="all.raw")) == [tmp_path / "all.raw"]
