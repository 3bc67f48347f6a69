"""Random state: all three generators continue as if nothing had happened, through a file too."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.training.resuming.random_state import get_random_state, set_random_state
from scripts.weights import read_tensors


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(1))]  # noqa: NPY002


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_state_of_the_gpu_in_use_comes_back() -> None:
    state = get_random_state("cuda:0")
    assert len(state["cuda"]) == 1
    expected = torch.rand(3, device="cuda:0")
    set_random_state(state, "cuda:0")
    assert torch.equal(torch.rand(3, device="cuda:0"), expected)


def test_a_state_of_a_gpu_does_no_harm_without_one() -> None:
    state = {**get_random_state(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * 4}
    set_random_state(state, "cpu")
    assert get_random_state("cpu")["cuda"] == []


def test_a_state_on_disk_brings_the_same_numbers_back(tmp_path: Path) -> None:
    draw()
    torch.save(get_random_state(), tmp_path / "state.pt")
    expected = draw()
    draw()
    set_random_state(read_tensors(tmp_path / "state.pt"))
    assert draw() == expected
