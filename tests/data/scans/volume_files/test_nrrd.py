"""NRRD files: the result of ITK for valid ones, with notes on units and doubts; a line for invalid ones."""

from __future__ import annotations

import bz2
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from scripts.data.scans.scan import read_scan
from support.fake_volumes import NRRD_SPACE, ORIGIN, SPACING, body, itk_image, nrrd

RAW = body().astype("<i2").tobytes()
X, Y, Z = body().shape[::-1]
SIZES = f"sizes: {X} {Y} {Z}"


def check_like_itk(path: Path) -> tuple[str, ...]:
    """Compare what is read with ITK; returns the notes."""
    scan = read_scan(path)
    values, affine = itk_image(path)
    np.testing.assert_allclose(scan.affine @ np.linalg.inv(scan.stored_from_canonical), affine, atol=1e-9)
    assert sorted(scan.hu.ravel()) == sorted(values.ravel())
    if not scan.notes:
        np.testing.assert_array_equal(scan.hu, body())
    return scan.notes


@pytest.mark.parametrize(
    "lines",
    [
        NRRD_SPACE,
        ("space: RAS", *NRRD_SPACE[1:]),
        ("space: LAS", *NRRD_SPACE[1:]),
        ("Space: lps", "space directions: (0.7, 0, 0) (0,0.9,0)  (0,0,2.5)", "space origin: (-12, 30,-100)"),
        (
            *NRRD_SPACE,
            "kinds: domain domain domain",
            "# a remark",
            "key:=value",
            "measurement frame: (1,0,0) (0,1,0) (0,0,1)",
        ),
    ],
)
def test_space_is_what_itk_makes_of_it(tmp_path: Path, lines: tuple[str, ...]) -> None:
    scan = read_scan(nrrd(tmp_path / "scan.nrrd", *lines))
    _, affine = itk_image(tmp_path / "scan.nrrd")
    np.testing.assert_allclose(scan.affine @ np.linalg.inv(scan.stored_from_canonical), affine, atol=1e-9)
    assert scan.notes == ()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("spacings: 0.7 0.9 2.5",), ("no orientation", "no origin")),
        (("spacings: 0.7 0.9 2.5", "axis mins: 1 2 3"), ("no orientation",)),
        (("spacings: 0.7 0.9 2.5", "axis mins: 1 2 3", "centers: node node node"), ("no orientation",)),
        ((), ("no voxel spacing", "no orientation", "no origin")),
        (NRRD_SPACE[:2], ("no origin",)),
        (("space dimension: 3", *NRRD_SPACE[1:]), ("its space (without a name) to the patient",)),
        (("space: scanner-xyz", *NRRD_SPACE[1:]), ("its space (scanner-xyz) to the patient",)),
    ],
)
def test_what_a_header_does_not_say_is_noted(tmp_path: Path, lines: tuple[str, ...], told: tuple[str, ...]) -> None:
    notes = check_like_itk(nrrd(tmp_path / "scan.nrrd", *lines))
    assert len(notes) == len(told)
    for note, part in zip(notes, told, strict=True):
        assert part in note


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1000), ("micron", 1000), ("cm", 0.1), ("m", 0.001), ("metre", 0.001), ("mm", 1)]
)
def test_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    x, y, z = (edge * factor for edge in SPACING)
    origin = ",".join(str(edge * factor) for edge in ORIGIN)
    directions = f"space directions: ({x},0,0) (0,{y},0) (0,0,{z})"
    units = f'space units: "{unit}" "{unit}" "{unit}"'
    scan = read_scan(nrrd(tmp_path / "scan.nrrd", NRRD_SPACE[0], directions, f"space origin: ({origin})", units))
    np.testing.assert_allclose(scan.affine[:3, :3], np.diag(SPACING), atol=1e-9)
    np.testing.assert_allclose(scan.affine[:3, 3], ORIGIN, atol=1e-9)
    assert len(scan.notes) == (unit != "mm")
    x, y, z = (edge * factor for edge in SPACING)
    scan = read_scan(nrrd(tmp_path / "scan.nrrd", f"spacings: {x} {y} {z}", units.replace("space units", "units")))
    np.testing.assert_allclose(scan.spacing, SPACING)


@pytest.mark.parametrize(
    ("encoding", "data", "more"),
    [
        ("gz", gzip.compress(RAW), ()),
        ("gzip", gzip.compress(RAW[:100]) + gzip.compress(RAW[100:]), ()),
        ("gz", gzip.compress(b"abcd" + RAW), ("byte skip: 4",)),
        ("bzip2", bz2.compress(RAW), ()),
        ("bz2", bz2.compress(RAW[:100]) + bz2.compress(RAW[100:]), ()),
        ("ascii", " ".join(map(str, body().ravel())).encode(), ()),
        ("hex", RAW.hex().encode() + b"\n", ()),
        ("raw", b"ab" + RAW, ("byte skip: 2",)),
        ("raw", b"abcdef" + RAW, ("byte skip: -1",)),
        ("raw", b"one\ntwo\n" + RAW, ("line skip: 2",)),
    ],
)
def test_every_encoding_gives_the_same_voxels(tmp_path: Path, encoding: str, data: bytes, more: tuple) -> None:
    scan = read_scan(nrrd(tmp_path / "scan.nrrd", *NRRD_SPACE, *more, data=data, encoding=encoding))
    np.testing.assert_array_equal(scan.hu, body())


@pytest.mark.parametrize("word", ["1_0", "40000", "-70000", str(1 << 70), "1.5", "x"])
def test_a_voxel_as_text_that_its_type_cannot_hold_is_an_error(tmp_path: Path, word: str) -> None:
    words = [word, *map(str, body().ravel()[1:])]
    path = nrrd(tmp_path / "scan.nrrd", *NRRD_SPACE, data=" ".join(words).encode(), encoding="ascii")
    with pytest.raises(OSError, match=r"undamaged file.*(underscore|int16 cannot hold|invalid literal)"):
        read_scan(path)


@pytest.mark.parametrize("form", ["file", "list", "pattern"])
def test_voxels_in_other_files_are_read_and_named(tmp_path: Path, form: str) -> None:
    (tmp_path / "below").mkdir()
    for k, plane in enumerate(body(), start=1):
        (tmp_path / f"below/s{k:03d}.raw").write_bytes(plane.tobytes())
    (tmp_path / "all.raw").write_bytes(RAW)
    names = [f"below/s{k:03d}.raw" for k in range(1, Z + 1)]
    where = {
        "file": "data file: all.raw",
        "list": "data file: LIST\n" + "\n".join(names),
        "pattern": f"data file: below/s%03d.raw 1 {Z} 1",
    }
    scan = read_scan(nrrd(tmp_path / "scan.nhdr", *NRRD_SPACE, where[form], data=b""))
    np.testing.assert_array_equal(scan.hu, body())
    wanted = ["all.raw"] if form == "file" else names
    assert scan.files == (tmp_path / "scan.nhdr", *(tmp_path / name for name in wanted))


@pytest.mark.parametrize(
    "name",
    [
        "../secret.raw",
        "/dev/urandom",
        "link.raw",
        "pipe",
        "below",
        "LIST\n../secret.raw",
        "../s%d.raw 1 1 1",
        "p%d 1 1 1",
    ],
)
def test_only_regular_files_of_the_folder_are_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "scan"
    (folder / "below").mkdir(parents=True)
    for secret in ("secret.raw", "s1.raw"):
        (tmp_path / secret).write_bytes(RAW)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "p1")
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    path = nrrd(folder / "scan.nhdr", *NRRD_SPACE, f"data file: {name}", data=b"")
    with pytest.raises(
        ValueError, match=r"Expected (the name of a file next to it or below|a regular file|a file in the folder)"
    ):
        read_scan(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("data file: absent.raw",), "names, nothing is at .absent.raw"),
        (("data file: %099d.raw 1 2 1",), "nothing is at .0000"),
        (("data file: LIST",), "names of 1 to 100000 files"),
        (("data file: s%d.raw 1 999999999 1",), "names of 1 to 100000 files"),
        (("foo: 3",), "lines 'field: value' of an NRRD header"),
        (("sizes: 1 1 1",), "each line of the header once, got 'sizes' twice"),
        (("byte skip: -2",), "lines and bytes to skip"),
        (("line skip: 99999999999999999999",), "a whole number|1 whole number"),
        (('space units: "mm" "mm" "parsec"',), "a unit of length"),
        (("space units: mm",), "3 units in quotes"),
        (("space origin: (1,2,nan)",), "numbers as 'space origin'"),
    ],
)
def test_odd_lines_get_a_line(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    keys = [line.split(":")[0] for line in lines]
    space = [line for line in NRRD_SPACE if line.split(":")[0] not in keys]
    with pytest.raises((OSError, ValueError), match=message):
        read_scan(nrrd(tmp_path / "scan.nrrd", *space, *lines))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NRRD0005", "NRRD0009", "begins with 'NRRD0009'"),
        ("type: int16", "type: block", "a type of number"),
        ("type: int16", "type: int17", "a type of number"),
        ("dimension: 3", "dimension: 300000", "volume of 3 dimensions, got 300000"),
        ("dimension: 3", "dimension: 2", "2 whole numbers as 'sizes'"),
        (SIZES, f"sizes: {X} {Y} 100000000", "at most 4 GiB"),
        (SIZES, f"sizes: {X} {Y} {Z + 1}", "cannot hold them"),
        (SIZES, f"sizes: {X} {Y} {Z - 1}", "as the header says"),
        (SIZES, f"sizes: {X} {Y} -{Z}", "volume of 3 dimensions"),
        ("endian: little", "endian: middle", "little or big"),
        ("encoding: raw", "encoding: zrl", "an encoding of raw"),
        ("encoding: raw", "encoding: gz", "Not a gzipped file"),
        ("(0.7,0,0)", "(0.7,0,inf)", "3 numbers as 'space directions'"),
        ("(0.7,0,0)", "none", "volume of 3 dimensions"),
        ("left-posterior-superior", "4D-left", "a space of three dimensions"),
        ("(0.7,0,0)", "(1e-30,0,0)", "voxels of 0.01 to 50 mm"),
        ("(-12,30", "(1e30,30", "within 20000 mm of the origin"),
    ],
)
def test_odd_headers_get_a_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = nrrd(tmp_path / "scan.nrrd", *NRRD_SPACE)
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))
    with pytest.raises((OSError, ValueError), match=message):
        read_scan(path)
