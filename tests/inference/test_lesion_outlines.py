"""Outlines and axes: of ellipses whose axes are known, in pixels that are not square, in scans turned and resampled."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.scan import read_scan
from scripts.data.scans.volume_files.stored_image import LPS_FROM_RAS
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import SliceBoxes, link_boxes
from scripts.inference.lesion_outlines import longest_axes, mask_polygon, outline_of
from scripts.inference.outputs.lesions_document import describe_lesions
from scripts.inference.outputs.measurements import Tagging
from scripts.inference.volume_detector import PlaneScale, SlabCutter, VolumeDetector
from support.fake_results import TAGS
from support.outlined_detector import OutlinedDetector

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0]])


def ellipse(points: np.ndarray, centre: np.ndarray, half: tuple[float, float], angle: float) -> np.ndarray:
    """Which of ``(..., 2)`` points lie in an ellipse with these half axes, the long one at ``angle`` to x."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (((points - centre) @ turn.T / half) ** 2).sum(axis=-1) <= 1


def boxes_with(**fields: Any) -> SliceBoxes:
    """One slice box of 20 x 10 pixels with further fields."""
    one = {"scores": np.ones(1), "slices": np.zeros(1, dtype=np.int64), "positions": np.zeros(1)}
    box = np.array([[10.0, 20.0, 30.0, 30.0]])
    return SliceBoxes(box, **one, thickness=1.0, examined=np.ones(1, bool), shape=(1, 64, 64), scale=(1.0, 1.0),
                      fields={name: np.asarray(value)[None] for name, value in fields.items()})  # fmt: skip


def test_full_mask_is_outlined_at_the_edges_of_its_box() -> None:
    polygon = mask_polygon(np.ones((5, 4)), np.array([10.0, 20.0, 30.0, 30.0]))
    assert polygon is not None
    np.testing.assert_allclose([polygon.min(axis=0), polygon.max(axis=0)], [[10, 20], [30, 30]])


def test_outline_lies_between_cells_by_their_probabilities() -> None:
    polygon = mask_polygon(np.tile([0.0, 0.25, 0.75, 0.25], (4, 1)), np.array([0.0, 0.0, 4.0, 4.0]))
    assert polygon is not None
    # The centres of cells 1 to 3 are at 1.5, 2.5 and 3.5; one half is met midway.
    np.testing.assert_allclose([polygon[:, 0].min(), polygon[:, 0].max()], [2.0, 3.0])


def test_largest_part_in_millimetres_is_the_lesion_and_holes_are_not() -> None:
    mask = np.zeros((12, 12))
    mask[1:3, 1:11], mask[5:11, 1:6] = 1, 1
    mask[7:9, 3:4] = 0
    tall = mask_polygon(mask, np.array([0.0, 0.0, 12.0, 12.0]))
    assert tall is not None
    np.testing.assert_allclose([tall.min(axis=0), tall.max(axis=0)], [[1, 5], [6, 11]])
    ring = np.ones((6, 6))
    ring[1:5, 1:5] = 0
    outer = mask_polygon(ring, np.array([0.0, 0.0, 6.0, 6.0]))
    assert outer is not None
    assert np.ptp(outer[:, 0]) == pytest.approx(6.0)


@pytest.mark.parametrize("mask", [np.zeros((7, 7)), np.full((7, 7), 0.49)])
def test_mask_that_reaches_one_half_nowhere_has_no_outline(mask: np.ndarray) -> None:
    assert mask_polygon(mask, np.array([0.0, 0.0, 7.0, 7.0])) is None
    assert outline_of(boxes_with(masks=mask), 0, (1.0, 1.0)) is None


def test_axes_of_a_rectangle_are_its_diagonal_and_the_longest_line_across() -> None:
    axes = longest_axes(SQUARE)
    long, short = axes[1] - axes[0], axes[3] - axes[2]
    assert np.linalg.norm(long) == pytest.approx(5.0)
    # 3 x 4: the line through a corner at a right angle to the diagonal ends on the side across.
    assert np.linalg.norm(short) == pytest.approx(3.75)
    assert long @ short == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_axes_are_the_longest_lines_of_any_outline(seed: int) -> None:
    generator = np.random.default_rng(seed)
    spacing = generator.uniform(0.5, 1.5, 2)
    mask = generator.random((9, 9)) > 0.4
    polygon = mask_polygon(mask, np.array([2.0, 3.0, 22.0, 17.0]), spacing)
    assert polygon is not None
    points, ends = polygon * spacing, longest_axes(polygon, spacing) * spacing
    long, short = ends[1] - ends[0], ends[3] - ends[2]
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert np.linalg.norm(long) == pytest.approx(apart.max())
    assert long @ short == pytest.approx(0.0, abs=1e-6)
    # No line across is longer at any of many places, and both ends lie on the outline.
    along = long / np.linalg.norm(long)
    across = np.array([-along[1], along[0]])
    edges = list(itertools.pairwise(np.concatenate([points, points[:1]])))
    for place in np.linspace(*np.sort(points @ along)[[0, -1]], 50)[1:-1]:
        sides = [
            np.interp(place, places, heights)
            for p, q in edges
            for places, heights in [zip(*sorted([(p @ along, p @ across), (q @ along, q @ across)]), strict=True)]
            if places[0] <= place <= places[1]
        ]
        assert np.ptp(sides) <= np.linalg.norm(short) + 1e-6
    for end in ends:
        nearest = min(
            float(np.linalg.norm(p + np.clip((end - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1) * (q - p) - end))
            for p, q in edges
        )
        assert nearest < 1e-6


def test_what_is_longest_depends_on_the_size_of_pixels() -> None:
    axes = longest_axes(SQUARE * [1.0, 2.0], (1.0, 0.5))
    np.testing.assert_allclose(axes * [1.0, 0.5], longest_axes(SQUARE), atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2, 2.3, 3.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.3)])
def test_axes_of_an_ellipse_in_a_mask_are_its_own(angle: float, spacing: tuple[float, float]) -> None:
    box = np.array([11.0, 7.0, 61.0, 57.0])
    cells = np.stack(np.meshgrid(*(box[axis] + (np.arange(280) + 0.5) / 280 * 50 for axis in (0, 1))), axis=-1)
    middle = (box[:2] + box[2:]) / 2 * spacing
    mask = ellipse(cells * spacing, middle, (14.0, 7.0), angle).astype(float)
    mask = mask.reshape(28, 10, 28, 10).mean(axis=(1, 3))
    outline = outline_of(replace_box(boxes_with(masks=mask), box), 0, (*spacing, 2.5))
    assert outline is not None
    assert outline.source == "mask"
    np.testing.assert_allclose(outline.lengths_mm, (28.0, 14.0), atol=0.6)
    assert outline.axes is not None
    along = (outline.axes[1] - outline.axes[0]) * spacing
    # The farthest corners of an outline of cells are within a cell of the ellipse's own ends.
    assert abs(along @ [-np.sin(angle), np.cos(angle)]) / np.linalg.norm(along) < 0.12
    np.testing.assert_allclose(outline.axes[:2].mean(axis=0) * spacing, middle, atol=0.5)


def replace_box(found: SliceBoxes, box: np.ndarray) -> SliceBoxes:
    return SliceBoxes(**{**vars(found), "boxes": box[None]})


def test_what_a_detector_measures_itself_is_taken() -> None:
    ends = [[12.0, 22.0], [28.0, 22.0], [20.0, 21.0], [20.0, 29.0]]
    outline = outline_of(boxes_with(axes=ends), 0, (0.5, 2.0, 1.0))
    assert outline is not None
    assert (outline.source, outline.lengths_mm, outline.polygon) == ("axes", (8.0, 16.0), None)
    named = outline_of(boxes_with(masks=np.ones((4, 4)), long_axis_mm=9.0, short_axis_mm=4.0), 0, (1.0, 1.0))
    assert named is not None
    assert (named.source, named.lengths_mm) == ("mask", (9.0, 4.0))
    assert outline_of(boxes_with(), 0, (1.0, 1.0)) is None
    assert outline_of(boxes_with(axes=np.zeros((4, 2))), 0, (1.0, 1.0)) is None


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("pixel_spacing", [None, 1.3])
def test_ellipse_in_an_oblique_scan_has_its_axes_in_millimetres(
    flips: tuple[int, int, int], pixel_spacing: float | None, tmp_path: Path
) -> None:
    spacing, size, half, angle = np.array([0.8, 0.8, 1.7]), (80, 72, 14), (15.0, 8.0), 0.6
    turned = rotation(0.15, -0.1, 0.2) @ np.diag(spacing * flips)
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1) * spacing
    middle = np.array([34.0, 30.0, 6.5 * 1.7])
    inside = ellipse(grid[..., :2], middle[:2], half, angle) & (np.abs(grid[..., 2] - middle[2]) < 7.0)
    hu = np.where(inside, 400, 40).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned, (12.0, -40.0, 300.0)
    nibabel.save(nibabel.Nifti1Image(hu, LPS_FROM_RAS @ affine), tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    cutter = SlabCutter(resample_z, 3, scale=PlaneScale(pixel_spacing))
    found = VolumeDetector(cutter, IntensityWindow(), progress=False)(scan, OutlinedDetector())
    (entry,) = describe_lesions(scan, found, link_boxes(found), tagging=Tagging(TAGS))
    axes = entry["axes"]
    assert axes["source"] == "mask"
    np.testing.assert_allclose([axes["long_axis_mm"], axes["short_axis_mm"]], [30.0, 16.0], atol=0.8)
    # The ends are at those of the ellipse, in the patient and in the file.
    way = np.array([half[0] * np.cos(angle), half[0] * np.sin(angle), 0.0])
    wanted = [((middle + sign * way) / spacing) @ turned.T + affine[:3, 3] for sign in (-1, 1)]
    ends = sorted(axes["long_axis_lps_mm"])
    for got, end in zip(ends, sorted(map(list, wanted)), strict=True):
        across = np.array(got) - end
        rise = np.cross(turned[:, 0], turned[:, 1])
        assert abs(across @ rise / np.linalg.norm(rise)) < 7.0  # somewhere in its height
        assert np.linalg.norm(across - (across @ rise) * rise / (rise @ rise)) < 2.0
    for frame in (axes["long_axis_voxel"], entry["outline"]["voxel"]):
        stored = np.array(frame) - 0.5
        placed = stored @ turned.T + affine[:3, 3]
        twin = axes["long_axis_lps_mm"] if len(frame) == 2 else entry["outline"]["lps_mm"]
        np.testing.assert_allclose(placed, twin, atol=2e-3)
    assert np.linalg.norm(np.subtract(*axes["long_axis_lps_mm"])) == pytest.approx(axes["long_axis_mm"], abs=2e-3)
    assert [tag["tag"] for tag in entry["tags"]] == ["nodule", "cyst", "liver"]
    assert "fields" not in entry


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """A rotation about the three axes, by radians."""
    turns = []
    for axis, angle in enumerate((x, y, z)):
        turn = np.eye(3)
        first, second = [other for other in range(3) if other != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        turns.append(turn)
    return turns[0] @ turns[1] @ turns[2]
