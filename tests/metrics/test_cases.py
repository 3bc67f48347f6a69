"""Cases are checked once, and bad ones are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.metrics.cases import check_cases, check_patients


def case(**changes: object) -> dict[str, object]:
    good: dict[str, object] = {
        "id": "000001_01_01_109.png",
        "patient": "000001",
        "boxes": [[1.0, 2.0, 11.0, 22.0]],
        "scores": [0.5],
        "true_boxes": [[1.0, 2.0, 11.0, 22.0]],
        "width": 640,
        "height": 512,
    }
    return {**good, **changes}


def test_tensors_arrays_and_lists_become_float64() -> None:
    given = case(boxes=torch.tensor([[1.0, 2.0, 11.0, 22.0]]), scores=torch.tensor([0.5]))
    (checked,) = check_cases([given])
    assert checked["boxes"].dtype == checked["scores"].dtype == checked["true_boxes"].dtype == np.float64
    assert isinstance(given["boxes"], torch.Tensor)  # the caller's case is left alone


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4), np.float32), torch.zeros((0, 4))])
def test_no_detections_and_no_lesions_are_legal(empty: object) -> None:
    (checked,) = check_cases([case(boxes=empty, scores=[], true_boxes=empty)])
    assert checked["boxes"].shape == checked["true_boxes"].shape == (0, 4)
    assert checked["scores"].shape == (0,)


def test_a_box_without_area_is_legal() -> None:
    flat = [[5.0, 2.0, 5.0, 22.0]]
    (checked,) = check_cases([case(boxes=flat, true_boxes=flat)])
    assert checked["boxes"].tolist() == checked["true_boxes"].tolist() == flat


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boxes": [[1.0, 2.0, 3.0]]}, r"boxes of shape \(N, 4\), got \(1, 3\).*000001_01_01_109"),
        ({"boxes": [[1.0, 2.0, float("nan"), 4.0]]}, "finite boxes.*000001_01_01_109"),
        ({"true_boxes": [[1.0, 2.0, float("inf"), 4.0]]}, "finite true_boxes.*000001_01_01_109"),
        # As x, y, width, height; the second only in y.
        (
            {"boxes": [[1.0, 2.0, 11.0, 22.0], [300.0, 200.0, 20.0, 30.0]], "scores": [0.5, 0.4]},
            r"boxes as x1, y1, x2, y2 .*got \[300.0, 200.0, 20.0, 30.0\] in row 1 of case 000001_01_01_109",
        ),
        ({"true_boxes": [[5.0, 200.0, 20.0, 30.0]]}, "true_boxes as x1, y1, x2, y2 .*row 0 of case 000001_01_01_109"),
        ({"scores": [0.5, 0.4]}, "2 scores and 1 boxes.*000001_01_01_109"),
        ({"scores": [float("nan")]}, "finite scores.*000001_01_01_109"),
        ({"width": 0}, "positive image width, got 0"),
        ({"height": float("nan")}, "positive image height"),
        ({"lesion_type": [1, 2]}, "Expected 1 values of lesion_type.*got 2"),
        ({"noisy": []}, "Expected 1 values of noisy.*got 0"),
    ],
)
def test_a_malformed_case_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_cases([case(**changes)])


def test_a_missing_key_is_named() -> None:
    bad = case()
    del bad["true_boxes"]
    with pytest.raises(ValueError, match="no true_boxes in case 1"):
        check_cases([case(), bad])


def test_no_case_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        check_cases([])


def test_an_image_that_comes_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"000001_01_01_109\.png twice"):
        check_cases([case(), case()])


def test_the_bootstrap_needs_patients() -> None:
    assert check_patients([case(patient=7)]) == ["7"]
    with pytest.raises(ValueError, match="Expected a patient"):
        check_patients([case(patient="")])
