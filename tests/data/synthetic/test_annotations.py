"""Rows of DL_info.csv and three-dimensional labels."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scripts.box_frames import from_deeplesion
from scripts.data.deeplesion.dl_info import COLUMNS
from scripts.data.synthetic import resolve
from scripts.data.synthetic.annotations import TEST, TRAIN, Identity, key_rows, lesion_labels, recist, slice_rows
from scripts.data.synthetic.rendering import render
from scripts.data.synthetic.series import Series, draw_series, draw_whole_series
from scripts.data.synthetic.writing import write_table

IDENTITY = Identity(7, 2, 3, TEST, "M", 61)
SETTINGS = resolve("small", {"noise_hu": 0, "texture_hu": 0, "tubes": 0, "lesions_per_slice": (1.0,)})


def numbers(cell: str) -> np.ndarray:
    return np.array([float(item) for item in cell.split(",")])


@pytest.fixture(scope="module")
def drawn() -> list[Series]:
    rng = np.random.default_rng(2)
    return [draw_series(rng, SETTINGS, keys=1, body_seed=seed) for seed in range(12)]


def test_recist_finds_both_diameters_of_a_turned_ellipse() -> None:
    turns = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    local = np.stack([12 * np.cos(turns), 5 * np.sin(turns)], axis=1)
    cos, sin = np.cos(0.4), np.sin(0.4)
    ends = recist(local @ np.array([[cos, sin], [-sin, cos]]))
    long, short = ends[0] - ends[1], ends[2] - ends[3]
    assert np.hypot(*long) == pytest.approx(24)
    assert np.hypot(*short) == pytest.approx(10)
    assert long @ short == pytest.approx(0, abs=1e-6)
    assert abs(np.arctan2(long[1], long[0]) % np.pi - 0.4) < 1e-6


def test_recist_diameters_are_nearly_perpendicular_for_any_outline(drawn: list[Series]) -> None:
    for series in drawn:
        for focus in series.foci:
            ends = recist(focus.shape.contour())
            long, short = ends[0] - ends[1], ends[2] - ends[3]
            assert abs(long @ short) < 0.06 * np.hypot(*long) * np.hypot(*short)
            assert np.hypot(*short) <= np.hypot(*long)


def test_columns_are_the_official_ones_in_order_and_lists_are_quoted(drawn: list[Series], tmp_path: Path) -> None:
    write_table(tmp_path / "DL_info.csv", key_rows(drawn[0], IDENTITY, 5.0))
    header, row = (tmp_path / "DL_info.csv").read_bytes().decode("ascii").splitlines()
    assert header == (
        "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
        "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,"
        "Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test"
    )
    key = drawn[0].keys[0]
    assert row.startswith(f'000007_02_03_{key:03d}.png,7,2,3,{key},"')
    assert b"\r" not in (tmp_path / "DL_info.csv").read_bytes()
    (cells,) = csv.DictReader([header, row])
    lengths = [len(numbers(cells[name])) for name in COLUMNS[5:9]]
    assert lengths == [8, 4, 2, 3]
    assert cells["Image_size"] == "96, 96"
    assert cells["Patient_age"] == "61.0"
    assert (numbers(cells["Normalized_lesion_location"]) <= 1).all()


def test_the_box_lies_on_the_lesion_in_the_pixels(drawn: list[Series]) -> None:
    rng = np.random.default_rng(0)
    offsets = []
    for series in drawn:
        (row,) = key_rows(series, IDENTITY, 0.0)
        z = series.grid.heights(series.keys[0], series.keys[0])
        (focus,) = series.foci
        bare = series.body.render(z)[0]
        # Where the tissue has the lesion's own value, nothing can be seen.
        contrast = np.where(np.abs(focus.shape.value - bare) > 20, focus.shape.value - bare, np.inf)
        rows, columns = np.nonzero((render(rng, SETTINGS, series=series, z=z)[0] - bare) / contrast > 0.5)
        # A pixel of index i spans i to i + 1 in the slab frame.
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        tight = np.concatenate([focus.shape.contour().min(axis=0), focus.shape.contour().max(axis=0)])
        tight += np.tile((focus.shape.x + 0.5, focus.shape.y + 0.5), 2)
        assert ((seen - tight) * (1, 1, -1, -1) > -1).all()
        offsets.append(seen - tight)
        box = from_deeplesion(numbers(row["Bounding_boxes"]))
        assert (box[:2] >= tight[:2] - 1e-3).all()
        assert (box[2:] <= tight[2:] + 1e-3).all()
    assert np.abs(np.median(offsets, axis=0)).max() < 0.4


def test_types_are_known_in_validation_and_test_only(drawn: list[Series]) -> None:
    for series in drawn:
        (row,) = key_rows(series, IDENTITY, 2.0)
        assert row["Coarse_lesion_type"] in {str(number) for number in range(1, 9)}
        (row,) = key_rows(series, dataclasses.replace(IDENTITY, split=TRAIN), 2.0)
        assert row["Coarse_lesion_type"] == "-1"


def test_three_dimensional_labels_hold_the_lesion_s_extent(drawn: list[Series]) -> None:
    for series in drawn:
        (volume,) = lesion_labels(series, IDENTITY)
        (lesion,) = volume["lesions"]  # type: ignore[misc]
        shape, grid, key = series.foci[0].shape, series.grid, series.keys[0]
        first, last = lesion["slices"]
        assert volume["slice_range"][0] <= first <= key <= last <= volume["slice_range"][1]  # type: ignore[index]
        assert lesion["key_slice"] == key
        assert lesion["labelled"] is True
        assert lesion["box_mm"][5] - lesion["box_mm"][2] == pytest.approx(2 * shape.half_height, abs=0.01)
        assert lesion["box_mm"][0] == pytest.approx(lesion["box"][0] * grid.spacing, abs=0.01)
        assert (last - first) * grid.interval <= 2 * shape.half_height


def test_rows_of_every_slice_hold_every_lesion_that_is_wide_enough() -> None:
    rng = np.random.default_rng(4)
    settings = resolve("small", {"noise_hu": 0, "texture_hu": 0, "tubes": 0, "slice_intervals": 1.0})
    series = draw_whole_series(rng, settings, body_seed=3)
    rows = slice_rows(series, IDENTITY, 2.0)
    volume = render(rng, settings, series=series, z=series.grid.heights(*series.blocks[0]))
    by_slice = {number: [row for row in rows if row["Key_slice_index"] == str(number)] for number in series.labelled}
    lesions = [focus for focus in series.foci if focus.lesion]
    assert lesions
    seen = {0: 0, 1: 0}
    for number, own in by_slice.items():
        height = np.array([series.grid.height(number)])
        scales = [float(focus.shape.scale_at(height)[0]) for focus in lesions]
        if any(0.05 < scale < 0.5 for scale in scales):
            assert not own
            continue
        boxes = [row["Bounding_boxes"] for row in own]
        assert len([box for box in boxes if box]) == sum(scale >= 0.5 for scale in scales)
        assert own
        seen[int(bool(boxes[0]))] += 1
        for focus, cell in zip([f for f, s in zip(lesions, scales, strict=True) if s >= 0.5], boxes, strict=False):
            x1, y1, x2, y2 = from_deeplesion(numbers(cell)) + np.array([2, 2, -2, -2])
            inside = volume[number - 1, int((y1 + y2) / 2), int((x1 + x2) / 2)]
            assert abs(inside - focus.shape.value) < 2
    # Slices with and without a lesion.
    assert min(seen.values()) > 3
