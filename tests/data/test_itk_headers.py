"""Headers of NRRD and MetaImage files: what they say of spacing and of files beside them."""

from __future__ import annotations

import re
from pathlib import Path

import itk
import numpy as np
import pytest

from scripts.data.itk_headers import data_files, read_header
from scripts.data.scan import read_scan
from scripts.inference.report import hash_files

HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def write(path: Path) -> Path:
    image = itk.image_from_array(HU)
    image.SetSpacing([0.7, 0.9, 2.5])
    itk.imwrite(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_missing_spacing_is_noted(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"scan{suffix}")
    assert read_scan(path).notes == ()
    content = re.sub(
        rb"(?m)^(space|space directions|space origin|kinds|ElementSpacing|ElementSize)\b.*\n", b"", path.read_bytes()
    )
    path.write_bytes(content)
    scan = read_scan(path)
    np.testing.assert_allclose(scan.spacing, 1.0)
    assert scan.notes == ("The header gives no voxel spacing: 1 mm was taken.",)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_other_voxels_make_another_hash(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"scan{suffix}")
    first = read_scan(path)
    assert len(first.files) == 2
    before = hash_files(first.files)
    data = first.files[1]
    data.write_bytes(data.read_bytes()[::-1])
    assert hash_files(read_scan(path).files) != before


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", "ElementDataFile = LIST\n1.raw\n2.raw\n"),
        ("a.mhd", "ElementDataFile = %d.raw 1 2 1\n"),
        ("a.nhdr", "NRRD0004\ndata file: LIST\n1.raw\n2.raw\n"),
        ("a.nhdr", "NRRD0004\ndatafile: %d.raw 1 3 1\n"),
    ],
)
def test_lists_and_patterns_of_data_files_are_followed(tmp_path: Path, name: str, header: str) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.raw").write_bytes(b"x")
    (tmp_path / name).write_text(header)
    found = data_files(read_header(tmp_path / name), tmp_path)
    assert [path.name for path in found] == ["1.raw", "2.raw"]
