"""Random state: all three generators go on as if nothing had happened, through a file too."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from scripts.engines.random_state import get_random_state, set_random_state
from scripts.weights import read_tensors


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(1))]  # noqa: NPY002


def test_a_state_on_disk_brings_the_same_numbers_back(tmp_path: Path) -> None:
    draw()
    torch.save(get_random_state(), tmp_path / "state.pt")
    expected = draw()
    draw()
    set_random_state(read_tensors(tmp_path / "state.pt"))
    assert draw() == expected
