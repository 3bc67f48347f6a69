"""A lesion at a known place of a series with a tilted gantry: every output has its box where it is in the patient."""

from __future__ import annotations

import io
import json
from typing import NamedTuple

import numpy as np
import pydicom
import pytest

from scripts.data.scans.scan import read_scan
from scripts.inference.detections import ScanResult
from scripts.inference.outputs.slicer_nodes import slicer_markups
from support.fake_dicom import write_ct
from support.fake_results import results_of

pytest.importorskip("highdicom")
from highdicom import seg, sr

from scripts.inference.outputs.dicom.presentation_state import PresentationWriter
from scripts.inference.outputs.dicom.structured_report import DicomWriter

TILT = np.radians(20.0)
ORIGIN, SPACING, SHAPE = np.array([-12.0, 30.0, -100.0]), (0.7, 0.9, 2.5), (9, 40, 30)
# Half of the box in mm, along rows, columns and the normal of the slices.
HALF = np.array([4.1, 5.2, 6.0])


class Tilted(NamedTuple):
    """A box on a tilted series.

    Attributes:
        axes: ``(3, 3)`` directions of rows, columns and the normal of the slices, as columns.
        middle: ``(3,)`` of the box, LPS mm.
        result: Its results.
        away: By the UID of an image, the middle seen from its first pixel, mm along ``axes``.
    """

    axes: np.ndarray
    middle: np.ndarray
    result: ScanResult
    away: dict[str, np.ndarray]

    @property
    def cut(self) -> set[str]:
        """The images whose planes the box meets."""
        return {uid for uid, (_, _, height) in self.away.items() if abs(height) < HALF[2]}


@pytest.fixture(scope="module", params=["table", "upright"])
def tilted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tilted:
    """The slices lean and the table moves along z, or the slices are upright and their stack leans."""
    leaning = request.param == "table"
    row, column = np.array([1.0, 0.0, 0.0]), np.array([0.0, np.cos(TILT), np.sin(TILT)] if leaning else [0.0, 1.0, 0.0])
    stacking = np.array([0.0, 0.0, 1.0] if leaning else [0.0, np.tan(TILT), 1.0])
    axes = np.column_stack([row, column, np.cross(row, column)])
    hu = np.full(SHAPE, 40, dtype=np.int16)
    hu[:, :2] = -1000
    place = {"origin": ORIGIN.tolist(), "orientation": [*row, *column], "stacking": stacking.tolist()}
    scan = read_scan(write_ct(tmp_path_factory.mktemp("series"), hu, spacing=SPACING, **place))
    middle = ORIGIN + axes @ [9.1, 17.3, 0.0] + 4.2 * SPACING[2] * stacking
    edges, sides = np.linalg.inv(scan.affine)[:3] @ [*middle, 1.0] + 0.5, HALF / scan.spacing
    result = results_of(scan, [[*(edges - sides), *(edges + sides)]], (0.9,))
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in scan.files]
    firsts = {image.SOPInstanceUID: np.array(image.ImagePositionPatient, dtype=float) for image in images}
    return Tilted(axes, middle, result, {uid: (middle - first) @ axes for uid, first in firsts.items()})


def test_millimetres(tilted: Tilted) -> None:
    (entry,) = tilted.result.entries
    np.testing.assert_allclose(entry["center_lps_mm"], tilted.middle, atol=1e-3)
    np.testing.assert_allclose(entry["size_mm"], 2 * HALF, atol=1e-3)
    # Bounds along the axes of the patient can only enclose it.
    reach = np.abs(tilted.axes) @ HALF
    np.testing.assert_allclose(entry["box_lps_mm"], [*(tilted.middle - reach), *(tilted.middle + reach)], atol=1e-3)
    (node,) = json.loads(slicer_markups(tilted.result)["lesions.mrk.json"])["markups"]
    np.testing.assert_allclose(node["center"], tilted.middle, atol=1e-3)
    np.testing.assert_allclose(node["size"], 2 * HALF, atol=1e-3)
    np.testing.assert_allclose(np.array(node["orientation"]).reshape(3, 3), tilted.axes, atol=1e-6)


def test_voxels_enclose_the_box_of_every_slice(tilted: Tilted) -> None:
    low, high = np.array(tilted.result.entries[0]["box_voxel"]).reshape(2, 3)
    # From end to end of the box the slices move by this much along the columns.
    shift = 2 * HALF[2] * np.tan(TILT)
    np.testing.assert_allclose((high - low)[:2] * SPACING[:2], [2 * HALF[0], 2 * HALF[1] + shift], atol=1e-3)


def test_polygons_of_the_report(tilted: Tilted) -> None:
    report = sr.srread(io.BytesIO(DicomWriter()(tilted.result)["lesions_sr.dcm"]))
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    named = [image.referenced_sop_instance_uid for image in group.roi.source_images_for_segmentation]
    assert set(named) == tilted.cut
    for uid, polygon in zip(named, group.roi.graphic_data, strict=True):
        places = (polygon - tilted.middle) @ tilted.axes
        np.testing.assert_allclose(np.abs(places[:, :2]), np.tile(HALF[:2], (5, 1)), atol=1e-3)
        np.testing.assert_allclose(places[:, 2], -tilted.away[uid][2], atol=1e-3)


def test_masks_of_the_segmentation(tilted: Tilted) -> None:
    masks = seg.segread(io.BytesIO(DicomWriter()(tilted.result)["lesions_seg.dcm"]))
    columns, rows = np.meshgrid(np.arange(SHAPE[2]), np.arange(SHAPE[1]))
    groups = masks.PerFrameFunctionalGroupsSequence
    named = [one.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID for one in groups]
    assert set(named) == tilted.cut
    for uid, mask in zip(named, masks.pixel_array, strict=True):
        x, y, _ = tilted.away[uid]
        inside = (np.abs(columns * SPACING[0] - x) < HALF[0]) & (np.abs(rows * SPACING[1] - y) < HALF[1])
        np.testing.assert_array_equal(mask, inside)


def test_lines_of_the_presentation_state(tilted: Tilted) -> None:
    state = pydicom.dcmread(io.BytesIO(PresentationWriter()(tilted.result)["lesions_pr.dcm"]))
    drawn = {one.ReferencedImageSequence[0].ReferencedSOPInstanceUID: one for one in state.GraphicAnnotationSequence}
    for uid in tilted.cut:
        line = np.array(drawn[uid].GraphicObjectSequence[0].GraphicData).reshape(-1, 2)
        # The upper left corner of the first pixel is at 0, its middle at half a pixel.
        wanted = (tilted.away[uid][:2] + np.array([-HALF[:2], HALF[:2]])) / SPACING[:2] + 0.5
        np.testing.assert_allclose([line.min(axis=0), line.max(axis=0)], wanted, atol=1e-3)
