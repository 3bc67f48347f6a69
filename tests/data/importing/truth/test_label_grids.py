"""Label volumes: parts and values, what is off the scan, and lines as masks."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.importing.truth.label_grids import LabelGrid, outlines_of, plane_bounds, polygon_mask
from support.fake_scans import scan_of

SCAN = scan_of(np.zeros((10, 30, 40), np.int16), (1.0, 1.0, 2.0))


def grid(values: np.ndarray, **options: object) -> LabelGrid:
    """Labels ``(z, y, x)`` on the grid of the scan."""
    return LabelGrid(values.transpose(2, 1, 0), SCAN.affine, "mask", **options)  # type: ignore[arg-type]


def two_parts() -> np.ndarray:
    values = np.zeros((10, 30, 40), np.int32)
    values[2:5, 3:8, 4:10] = 1
    values[5, 8, 10] = 1  # touches the first part at a corner
    values[7:9, 20:25, 30:33] = 1
    values[1, 1, 1] = 2
    return values


def test_parts_touch_at_corners_and_keep_their_boxes() -> None:
    truth = grid(two_parts()).lesions_in(SCAN)
    assert [(one.name, one.slices.tolist(), one.bounds.tolist()) for one in truth.lesions] == [
        ("1", [2, 3, 4, 5], [4, 3, 11, 9]),
        ("1", [7, 8], [30, 20, 33, 25]),
        ("2", [1], [1, 1, 2, 2]),
    ]
    assert truth.lesions[0].boxes[-1].tolist() == [10, 8, 11, 9]
    assert truth.notes == ("1 of 1 parts of label 2 have fewer than 4 voxels: slips of the pen? (mask)",)


def test_each_value_may_be_a_lesion() -> None:
    truth = grid(two_parts(), each_value=True, name_of=lambda value: f"number {value}").lesions_in(SCAN)
    assert [(one.name, one.slices.tolist()) for one in truth.lesions] == [
        ("number 1", [2, 3, 4, 5, 7, 8]),
        ("number 2", [1]),
    ]


def fine(z: slice, *, step: float = 0.1, x: slice = slice(20, 30), values: np.ndarray | None = None) -> LabelGrid:
    """A lesion on thin slices, from 0.9 mm below the middle of the first slice of the scan on."""
    values = np.zeros((200, 30, 40), np.int32) if values is None else values
    values[z, 3:8, x] = 1
    affine = np.diag([1.0, 1.0, step, 1.0])
    affine[2, 3] = -0.9
    return LabelGrid(values.transpose(2, 1, 0), SCAN.affine @ np.diag([1, 1, 0.5, 1]) @ affine, "mask")


@pytest.mark.parametrize(("first", "slice_"), [(60, 3), (41, 2), (47, 2), (31, 1), (67, 3)])
def test_a_thin_lesion_between_the_slices_is_kept_on_the_nearest_one(first: int, slice_: int) -> None:
    thin = slice(first, first + 4)
    # Alone, and next to another one of the same value.
    for others in ([], [slice(88, 112)]):
        values = np.zeros((200, 30, 40), np.int32)
        for other in others:
            values[other, 20:25, 5:9] = 1
        truth = fine(thin, values=values).lesions_in(SCAN)
        assert len(truth.lesions) == 1 + len(others)
        assert (truth.lesions[0].slices.tolist(), truth.lesions[0].boxes.tolist()) == ([slice_], [[20, 3, 30, 8]])
        between = "1 part(s) of label 1 lie between the slices or pixels of the scan: each was kept"
        assert (between in " ".join(truth.notes)) == (first not in (47, 67))


def test_parts_outside_of_the_scan_are_counted() -> None:
    values = np.zeros((30, 30, 40), np.int32)
    values[2:5, 3:8, 4:10] = values[15:18, 3:8, 4:10] = values[25:28, 3:8, 4:10] = 7
    truth = grid(values).lesions_in(SCAN)
    assert [one.slices.tolist() for one in truth.lesions] == [[2, 3, 4]]
    assert "2 part(s) of label 7 lie outside of the scan: left out (mask)." in truth.notes


def test_a_part_thinner_than_a_pixel_keeps_one() -> None:
    values = np.zeros((10, 300, 400), np.int32)
    values[4, 47:49, 57:59] = 3_000_000
    affine = SCAN.affine @ np.diag([0.1, 0.1, 1, 1])
    (lesion,) = LabelGrid(values.transpose(2, 1, 0), affine, "mask").lesions_in(SCAN).lesions
    assert (lesion.slices.tolist(), lesion.boxes.tolist()) == ([4], [[6, 5, 7, 6]])


def test_labels_off_by_a_fraction_of_a_pixel_keep_it() -> None:
    values = np.zeros((10, 30, 40), np.int32)
    values[4, 3:8, 4:10] = 1
    affine = SCAN.affine.copy()
    affine[:2, 3] = 0.3, -0.4
    truth = LabelGrid(values.transpose(2, 1, 0), affine, "mask").lesions_in(SCAN)
    np.testing.assert_allclose(truth.lesions[0].boxes[0], [4.3, 2.6, 10.3, 7.6], atol=1e-9)


def test_labels_beyond_the_scan_are_cut_and_none_at_all_is_none() -> None:
    values = np.zeros((10, 30, 40), np.int32)
    values[:, :, 35:] = 1
    affine = SCAN.affine.copy()
    affine[0, 3] = 3.0
    (lesion,) = LabelGrid(values.transpose(2, 1, 0), affine, "mask").lesions_in(SCAN).lesions
    assert lesion.bounds.tolist() == [38, 0, 40, 30]
    affine[0, 3] = 300.0
    assert not LabelGrid(values.transpose(2, 1, 0), affine, "mask").lesions_in(SCAN).lesions
    assert grid(np.zeros((10, 30, 40), np.int32)).lesions_in(SCAN).lesions == ()


@pytest.mark.parametrize(("moved", "told"), [(4, None), (5, "1.0"), (6, "2.0"), (-3, None), (-5, "2.0")])
def test_a_lesion_cut_by_an_end_of_the_scan_is_noted(moved: int, told: str | None) -> None:
    values = np.zeros((10, 30, 40), np.int32)
    values[3:6, 3:8, 4:10] = 1
    affine = SCAN.affine @ np.diag([1.0, 1, 1, 1])
    affine[2, 3] += moved * SCAN.spacing[2]
    truth = LabelGrid(values.transpose(2, 1, 0), affine, "mask").lesions_in(SCAN)
    assert truth.lesions[0].slices.tolist() == [at for at in range(3 + moved, 6 + moved) if 0 <= at < 10]
    notes = () if told is None else (f"Labels reach up to {told} voxels beyond the scan: left out there (mask).",)
    assert truth.notes == notes


def test_an_image_is_no_mask() -> None:
    values = np.arange(12_000).reshape(10, 30, 40)
    with pytest.raises(ValueError, match="got 11999 different values in mask: an image"):
        grid(values).lesions_in(SCAN)


def test_lines_and_masks_are_inverse() -> None:
    mask = np.zeros((9, 12), bool)
    mask[2:6, 3:10] = True
    (line,) = outlines_of(mask, (100, 200))
    assert (line.min(axis=0).tolist(), line.max(axis=0).tolist()) == ([103.5, 202.5], [109.5, 205.5])
    edges = np.array([[3.0, 2.0], [10, 2], [10, 6], [3, 6]])
    found, (column, row) = polygon_mask([edges])
    assert plane_bounds(found) == (3 - column, 2 - row, 10 - column, 6 - row)
    assert found.sum() == mask.sum()


def test_holes_and_what_is_in_them_are_outlined() -> None:
    mask = np.zeros((11, 13), bool)
    mask[1:10, 1:12] = True
    mask[3:8, 3:10] = False
    mask[5, 5:8] = True
    lines = outlines_of(mask, (0, 0))
    ends = sorted((*line.min(axis=0).tolist(), *line.max(axis=0).tolist()) for line in lines)
    # Through the pixels of the lesion next to the hole.
    assert ends == [(1.5, 1.5, 11.5, 9.5), (2.5, 2.5, 10.5, 8.5), (5.5, 5.5, 7.5, 5.5)]
    ring = grid(np.repeat(np.pad(mask, ((0, 19), (0, 27)))[None], 10, axis=0), each_value=True)
    (lesion,) = ring.lesions_in(SCAN).lesions
    assert len(lesion.outlines[lesion.widest]) == 3


def test_holes_and_lines_between_pixels() -> None:
    outer, inner = np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]]), np.array([[2.0, 2], [5, 2], [5, 5], [2, 5]])
    assert polygon_mask([outer, inner])[0].sum() == 64 - 9
    small, corner = polygon_mask([np.array([[4.6, 7.6], [4.8, 7.6], [4.7, 7.8]])])
    assert (small.sum(), corner) == (1, (4, 7))
