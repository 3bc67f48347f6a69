"""The benchmark of growth: its fit, and one small scan through a process of its own."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.growth import Cost, cost_of, exponent, write_scan


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_times(power: float) -> None:
    costs = [Cost(slices, 0.3 * slices**power, 100.0) for slices in (30, 60, 240)]
    assert exponent(costs) == pytest.approx(power)


def test_the_scan_is_a_body_in_hounsfield_units(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan.nii", 4, 32)
    image = nib.load(tmp_path / "scan.nii")
    hu = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    assert hu.shape == (32, 32, 4)
    assert hu.dtype == np.int16
    assert hu[16, 16].mean() == pytest.approx(40, abs=30)
    assert hu[0, 0].mean() == pytest.approx(-1000, abs=30)


@pytest.mark.slow
def test_a_scan_has_a_time_and_a_memory() -> None:
    cost = cost_of(3, 64)
    assert cost.slices == 3
    assert 0 < cost.seconds < 600
    assert 100 < cost.megabytes < 8192
