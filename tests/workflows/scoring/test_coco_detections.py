"""COCO results: boxes as they are, and the box around the mask of a result without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.mask import encode

from scripts.workflows.scoring.coco_detections import coco_detections

PATH = Path("results.json")
SIZES = {"7": (6, 9)}


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths of a mask ``(H, W)``."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int), [1 - mask.ravel(order="F")[-1]]])
    changes = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff([0, *changes]).tolist()}


def box_of(**entry: Any) -> list[float]:
    (found,) = coco_detections([{"image_id": 7, "score": 0.5, **entry}], SIZES, PATH)
    assert (found[0], found[3]) == ("7", 0.5)
    return found[2]


def test_a_bbox_counts_before_a_mask() -> None:
    assert box_of(bbox=[1, 2, 3, 4], segmentation=[[0, 0, 1, 0, 1, 1]]) == [1, 2, 4, 6]
    assert coco_detections([{"image_id": "a", "score": 1, "bbox": [0, 0, 1, 1], "category_id": 3}], {}, PATH) == [
        ("a", 3, [0.0, 0.0, 1.0, 1.0], 1.0, 0)
    ]


def test_the_box_around_polygons() -> None:
    assert box_of(segmentation=[[1.5, 2, 4, 2, 4, 5], [0.5, 3, 2, 3, 2, 4, 0.5, 4]], bbox=[]) == [0.5, 2, 4, 5]


def test_the_box_around_run_lengths_is_that_of_the_mask() -> None:
    random = np.random.default_rng(0)
    for share in (0.02, 0.1, 0.5, 1.0):
        for _ in range(40):
            mask = random.random((6, 9)) < share
            mask[random.integers(6), random.integers(9)] = True
            rows, columns = np.nonzero(mask)
            wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box_of(segmentation=runs_of(mask)) == wanted, mask
            compressed = encode(np.asfortranarray(mask.astype(np.uint8)))
            assert box_of(segmentation={**compressed, "counts": compressed["counts"].decode()}) == wanted, mask


def test_long_runs_are_read_as_pycocotools_writes_them() -> None:
    mask = np.zeros((512, 512), dtype=np.uint8, order="F")
    mask[100:300, 200] = mask[7, 500:] = mask[400:410, 3:5] = 1
    entry = {"image_id": 1, "score": 1, "segmentation": {"size": [512, 512], "counts": encode(mask)["counts"].decode()}}
    assert coco_detections([entry], {}, PATH)[0][2] == [3, 7, 512, 410]


def runs(counts: Any, size: Any = (6, 9)) -> dict[str, Any]:
    return {"segmentation": {"size": list(size), "counts": counts}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (runs("PPYo0"), "in COCO's compressed text, got a cut one|that add up to 6 x 9"),
        (runs("1P"), "in COCO's compressed text, got a cut one"),
        (runs("1 2"), "in COCO's compressed text, got '1 2'"),
        (runs("o" * 20 + "0"), "in COCO's compressed text"),
        (runs(""), "that add up to 6 x 9"),
        (runs([54]), "an empty mask"),
        (runs([0, 0, 54]), "an empty mask"),
        (runs([10, 4]), "that add up to 6 x 9, got .10, 4."),
        (runs([10, -4, 48]), "that add up to 6 x 9"),
        (runs([10.5, 43.5]), "that add up to 6 x 9"),
        (runs(None), "counts of a mask"),
        (runs([50, 4], (9, 6)), "a mask of the 6 x 9 pixels .* got one of 9 x 6"),
        (runs([50, 4], (9,)), "size of a mask"),
        ({"segmentation": [[1, 2, 3, 4]]}, "at least three points"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "at least three points"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "at least three points"),
        ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "6 finite number.s. as polygon"),
        ({"segmentation": []}, "a bbox of four numbers .or a segmentation."),
        ({"bbox": [1, 2, 3]}, "4 finite number.s. as bbox"),
        ({"bbox": [1, 2, 3, 4], "score": "0.5"}, "1 finite number.s. as score"),
    ],
)
def test_what_cannot_be_read_is_named(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^Expected .*{message}.*entry 0 of results\.json"):
        box_of(**entry)


def test_what_is_not_a_list_of_results() -> None:
    for content in ({}, [3], [{"score": 1}], [{"image_id": 7, "bbox": [1, 2, 3, 4]}]):
        with pytest.raises(ValueError, match=r"Expected .* of COCO results|entry 0 of results\.json"):
            coco_detections(content, SIZES, PATH)
