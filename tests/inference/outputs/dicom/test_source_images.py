"""The position of a box on the images of its scan, also if the images are tilted against the scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.scans.scan import Scan, read_scan
from scripts.inference.outputs.dicom.source_images import SourceSlice, cut, nearest, read_sources
from support.fake_dicom import write_ct

HU = np.full((6, 20, 30), -100, dtype=np.int16)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return read_scan(write_ct(tmp_path_factory.mktemp("series"), HU))


def test_box_in_slices_cuts_exactly_these(scan: Scan) -> None:
    slices = read_sources(scan.files)
    found = cut(scan, np.array([2.5, 3.0, 1.0, 7.25, 9.0, 4.0]), slices)
    assert [rectangle.index for rectangle in found] == [1, 2, 3]
    for rectangle in found:
        np.testing.assert_allclose(rectangle.edges, [2.5, 3.0, 7.25, 9.0], atol=1e-6)
        # The first pixel's centre is at the origin of the image, its edge half a pixel before.
        np.testing.assert_allclose(rectangle.corners[0], [-12 + 2 * 0.7, 30 + 2.5 * 0.9, -100 + 2.5 * rectangle.index])
        np.testing.assert_array_equal(rectangle.corners[0], rectangle.corners[4])


def test_box_between_planes_goes_to_the_nearest(scan: Scan) -> None:
    slices = read_sources(scan.files)
    (rectangle,) = cut(scan, np.array([2.0, 3.0, 2.6, 7.0, 9.0, 2.9]), slices)
    assert rectangle.index == 2
    np.testing.assert_allclose(rectangle.edges, [2, 3, 7, 9], atol=1e-6)


@pytest.mark.parametrize(("low", "high", "wanted"), [(0.5, 2.5, [0, 1]), (1.5, 1.5 + 1e-9, [1])])
def test_lower_face_belongs_to_a_box_and_the_upper_does_not(scan: Scan, low, high, wanted) -> None:
    found = cut(scan, np.array([2.0, 3.0, low, 7.0, 9.0, high]), read_sources(scan.files))
    assert [rectangle.index for rectangle in found] == wanted


def test_tilted_images_are_cut_where_they_pass_through_the_box(scan: Scan) -> None:
    # The same patient on images leaning 30 degrees: further back is further up.
    slope = np.radians(30.0)
    along = [1.0, 0.0, 0.0, 0.0, float(np.cos(slope)), float(np.sin(slope))]
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = np.array(along[:3]) * 0.7, np.array(along[3:]) * 0.9
    matrix[:3, 2] = np.cross(along[:3], along[3:])
    matrix[:3, 3] = (-12.0, 30.0, -100.0)
    leaning = [SourceSlice(pydicom.Dataset(), matrix)]
    box = np.array([5.0, 4.0, 1.0, 10.0, 12.0, 3.0])
    (rectangle,) = cut(scan, box, leaning)
    low, high = scan.boxes_to_lps(box[None])[0].reshape(2, 3)
    np.testing.assert_allclose(rectangle.corners.min(axis=0)[0], low[0], atol=1e-6)
    np.testing.assert_allclose(rectangle.corners.max(axis=0)[0], high[0], atol=1e-6)
    # In the plane z = -100 + (y - 30) tan(slope), as far as it runs inside the box.
    y = rectangle.corners[:, 1]
    np.testing.assert_allclose(rectangle.corners[:, 2], -100 + (y - 30) * np.tan(slope), atol=1e-6)
    first = max(low[1], 30 + (low[2] + 100) / np.tan(slope))
    last = min(high[1], 30 + (high[2] + 100) / np.tan(slope))
    np.testing.assert_allclose([y.min(), y.max()], [first, last], atol=1e-6)


def test_point_belongs_to_the_image_it_is_nearest_to(scan: Scan) -> None:
    slices = read_sources(scan.files)
    assert nearest(slices, (0.0, 0.0, -100 + 2.5 * 3 + 1.2)) == 3
    assert nearest(slices, (0.0, 0.0, 500.0)) == 5


def test_missing_attribute_is_named(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "series", HU, StudyInstanceUID=None)
    with pytest.raises(ValueError, match=r"StudyInstanceUID, which results need to refer to .*IM0006\.dcm"):
        read_sources(sorted(folder.iterdir())[::-1])
