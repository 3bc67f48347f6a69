"""What the files of a folder are: slices, copies of them, and what is passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fake_dicom import write_ct
from scripts.data.scan import read_scan

HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


@pytest.mark.parametrize("uid", ["", None])
def test_images_without_a_uid_are_no_copies(tmp_path: Path, uid: str | None) -> None:
    scan = read_scan(write_ct(tmp_path / "series", HU, SOPInstanceUID=uid))
    np.testing.assert_array_equal(scan.hu, HU)
    assert scan.notes == ()


def test_one_uid_for_different_images_is_refused(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "series", HU, SOPInstanceUID="1.2.3")
    with pytest.raises(ValueError, match=r"one SOPInstanceUID for different images: .*IM0001\.dcm and .*IM0002\.dcm"):
        read_scan(folder)
