"""Detections of sub-volumes by others: the layouts, and what is rejected."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.metrics.volume.volume_matching import KEY_SLICE_TRACK, OFFICIAL, match_volumes
from scripts.workflows.volume_predictions import read_predictions

NAME = "000001_01_01_103-115"
ROWS = [[10.0, 20.0, 104.0, 30.0, 40.0, 106.0, 0.9], [1.0, 2.0, 103.0, 9.0, 9.0, 115.0, 0.5]]


def write(folder: Path, content: Any, suffix: str = ".json") -> Path:
    path = folder / f"found{suffix}"
    path.write_bytes(pickle.dumps(content) if suffix == ".pkl" else json.dumps(content).encode())
    return path


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_rows_and_boxes_with_scores_say_the_same(tmp_path: Path, suffix: str) -> None:
    table = np.array(ROWS)
    layouts: list[Any] = [ROWS, {"boxes": table[:, :6].tolist(), "scores": table[:, 6].tolist()}]
    if suffix == ".pkl":
        layouts += [table, {"boxes": table[:, :6], "scores": table[:, 6], "labels": [1, 1]}]
    for layout in layouts:
        found = read_predictions(write(tmp_path, {f"{NAME}.annot": layout}, suffix), [NAME])[NAME]
        np.testing.assert_array_equal(found["boxes"], table[:, :6])
        np.testing.assert_array_equal(found["scores"], table[:, 6])
        assert "tracks" not in found
    for empty in ([], {"boxes": [], "scores": []}):
        found = read_predictions(write(tmp_path, {NAME: empty}, suffix), [NAME])[NAME]
        assert (found["boxes"].shape, found["scores"].shape) == ((0, 6), (0,))


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_tracklets_of_lesion_harvester_are_read(tmp_path: Path, suffix: str) -> None:
    # Pixels from 1, edges; slices from 0 in the sub-volume: slices 105 and 106 of the series.
    lesion = [(2, [11.0, 21.0, 31.0, 41.0, 0.7]), (3, [13.0, 20.0, 33.0, 39.0, 0.9])]
    other = [(0, [1.0, 1.0, 6.0, 6.0, 0.2])]
    content: dict[str, Any] = {NAME: [lesion, other], "000002_01_01_001-009": []}
    if suffix == ".pkl":
        content[NAME] = [[(z, np.array(box)) for z, box in each] for each in (lesion, other)]
    found = read_predictions(write(tmp_path, content, suffix), list(content))
    np.testing.assert_array_equal(found[NAME]["boxes"], [[10, 19, 105, 31, 39, 106], [0, 0, 103, 4, 4, 103]])
    np.testing.assert_array_equal(found[NAME]["scores"], [0.9, 0.2])
    tracks = [[0, 105, 10, 20, 29, 39], [0, 106, 12, 19, 31, 37], [1, 103, 0, 0, 4, 4]]
    np.testing.assert_array_equal(found[NAME]["tracks"], tracks)
    assert found["000002_01_01_001-009"]["tracks"].shape == (0, 6)
    # Scored by slice: the lesion as it was labelled on its second slice is found, by the box on that slice alone.
    key = np.array([[12.0, 19, 106, 31, 37, 106]])
    cases = [
        {"id": name, "key_boxes": key if name == NAME else np.zeros((0, 6)), **each} for name, each in found.items()
    ]
    matches = match_volumes(cases, KEY_SLICE_TRACK)
    assert matches.found_by.tolist() == [0]


def test_the_truth_as_predictions_finds_everything(tmp_path: Path) -> None:
    found = read_predictions(write(tmp_path, {NAME: ROWS}), [NAME])[NAME]
    matches = match_volumes([{"id": NAME, "true_boxes": np.array(ROWS)[:, :6], **found}], OFFICIAL)
    assert (matches.found_by >= 0).all()


@pytest.mark.parametrize("z", [(1.0, 3.0), (0.0, 12.0), (90.0, 110.0), (110.0, 120.0), (206.0, 218.0), (-5.0, -1.0)])
def test_slices_that_count_from_0_are_rejected(tmp_path: Path, z: tuple[float, float]) -> None:
    row = [10.0, 20.0, z[0], 30.0, 40.0, z[1]]
    for layout in ([ROWS[0], [*row, 0.9]], {"boxes": [ROWS[0][:6], row], "scores": [0.1, 0.2]}):
        with pytest.raises(
            ValueError, match=r"within the slices 103 to 115 .* not counted from 0, got z from .* as row 1"
        ):
            read_predictions(write(tmp_path, {NAME: layout}), [NAME])
    # A first sub-volume of a series differs by one slice only.
    with pytest.raises(ValueError, match="within the slices 1 to 9"):
        read_predictions(write(tmp_path, {"000001_01_01_001-009": [[1, 1, 0, 9, 9, 3, 0.5]]}), ["000001_01_01_001-009"])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"boxes": [ROWS[0][:6]]}, "keys boxes and scores"),
        ({"boxes": [ROWS[0][:6]], "scores": [0.1, 0.2]}, "a score for each of 1 boxes"),
        ({"boxes": [ROWS[0][:6]], "scores": "x"}, "a score for each|finite"),
        ({"boxes": 3, "scores": []}, "six numbers|6 numbers"),
        ([[1, 2, 3]], "rows of seven numbers"),
        ([["x"] * 7], "rows of seven numbers"),
        (5, "rows of seven numbers"),
        (None, "rows of seven numbers"),
        ([[[1, [1, 2, 3, 4]]]], "tracklets of"),
        ([[["x", [1, 2, 3, 4, 5]]]], "tracklets of"),
        ([[[None, [1, 2, 3, 4, 5]]]], "tracklets of"),
        ([[[1, [9, 9, 1, 1, 0.5]]]], "end after they begin"),
        ([[[40, [1, 1, 9, 9, 0.5]]]], "within the slices 103 to 115"),
        ([[[[1]] * 7] * 2], "rows of seven numbers"),
    ],
)
def test_other_layouts_are_rejected(tmp_path: Path, layout: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_predictions(write(tmp_path, {NAME: layout}), [NAME])
    assert NAME in str(error.value)
    assert len(str(error.value)) < 700


def test_layouts_are_not_mixed(tmp_path: Path) -> None:
    content = {NAME: [[[1, [1, 1, 9, 9, 0.5]]]], "000002_01_01_001-009": [[1, 1, 2, 9, 9, 3, 0.5]]}
    with pytest.raises(ValueError, match="tracklets in every sub-volume"):
        read_predictions(write(tmp_path, content), list(content))


def test_the_lesions_of_a_scan_belong_with_an_imported_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the lesions of a scan in .*: give its folder, and an imported set"):
        read_predictions(write(tmp_path, {"schema_version": "1.2", "lesions": []}), [NAME])
