"""DeepLesion's frame counts from 1; arrays and tensors of any type stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scripts.box_frames import from_deeplesion, to_deeplesion


@pytest.mark.parametrize("make", [np.array, torch.tensor])
@pytest.mark.parametrize("rows", [[[10.0, 20.0, 30.0, 50.0]], np.zeros((0, 4)).tolist()])
def test_pixels_count_from_one_there(make: Any, rows: list[list[float]]) -> None:
    given = make(rows)
    found = from_deeplesion(given)
    assert type(found) is type(given)
    assert found.dtype == given.dtype
    assert found.tolist() == [[value - 1 for value in row] for row in rows]
    assert to_deeplesion(found).tolist() == given.tolist() == rows
