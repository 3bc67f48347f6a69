"""Masks on DICOM images: the pixels whose centres they hold, whichever way the images are stacked."""

from __future__ import annotations

import io
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from scripts.data.scans.scan import read_scan
from scripts.inference.outputs.dicom.structured_report import DicomWriter
from support.fake_dicom import AXIAL, write_ct
from support.fake_results import TAGGED, elliptic, results_of

SHAPE = (9, 30, 34)


@pytest.mark.parametrize(
    ("orientation", "stacking"),
    [
        (AXIAL, (0.0, 0.0, 1.0)),
        ((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        ((0.96, 0.28, 0.0, -0.28, 0.96, 0.0), (0.0, 0.0, 1.0)),
        ((1.0, 0.0, 0.0, 0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
        ((0.0, 1.0, 0.0, 0.0, 0.0, -1.0), (1.0, 0.0, 0.0)),
    ],
)
def test_segment_is_the_ellipse_and_not_its_box(
    tmp_path: Path, orientation: tuple[float, ...], stacking: tuple[float, ...]
) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    scan = read_scan(write_ct(tmp_path, hu, spacing=(0.9, 0.9, 1.0), orientation=orientation, stacking=stacking))
    depth, height, width = scan.hu.shape
    boxes = [(2.0, 3.0, 2.0, width - 4.0, height - 2.0, depth - 2.0)]
    results = results_of(scan, boxes, (0.9,), model=TAGGED, fields=elliptic)
    content = DicomWriter(version="1")(results)["lesions_seg.dcm"]
    segmentation = hd.seg.segread(io.BytesIO(content))
    assert segmentation.ContentLabel == "LESION_MASKS"
    got = set()
    frames = segmentation.pixel_array.reshape(-1, *segmentation.pixel_array.shape[-2:])
    for frame, pixels in zip(segmentation.PerFrameFunctionalGroupsSequence, frames, strict=True):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        got |= places(scan, orientation, position, pixels)
    # Half axes of the mask in pixels of the scan; the same ellipse in every slice of the box.
    x1, y1, z1, x2, y2, z2 = boxes[0]
    half = np.array([x2 - x1, y2 - y1]) / 2 * 0.75 * 27 / 28
    x, y, z = np.meshgrid(np.arange(width), np.arange(height), np.arange(depth), indexing="ij")
    reach = np.hypot((x + 0.5 - (x1 + x2) / 2) / half[0], (y + 0.5 - (y1 + y2) / 2) / half[1])
    flat = (z >= z1) & (z < z2)
    sure, may = (set(zip(*np.nonzero(flat & (reach < limit)), strict=True)) for limit in (0.93, 1.07))
    assert sure <= got <= may
    assert len(sure) > 100


def places(scan, orientation: tuple[float, ...], position: list[float], pixels: np.ndarray) -> set[tuple[int, ...]]:
    """The voxels of the scan at the set pixels of a frame."""
    rows, columns = np.nonzero(pixels)
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    lps = np.array(position, float) + 0.9 * (columns[:, None] * along + rows[:, None] * down)
    inverse = np.linalg.inv(scan.affine)
    return set(map(tuple, np.rint(lps @ inverse[:3, :3].T + inverse[:3, 3]).astype(int).tolist()))
