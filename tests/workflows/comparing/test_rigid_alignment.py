"""Rigid alignment finds known motions of phantoms and of a real crop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.data.scans.scan import read_scan
from scripts.workflows.comparing.rigid_alignment import align
from support.fake_bodies import SHAPE, motion_about, phantom

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "real" / "sarcoma" / "STS_001" / "ct.nii.gz"


def moved(hu: np.ndarray, affine: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The same grid after the body has moved."""
    index = np.linalg.inv(affine) @ np.linalg.inv(motion) @ affine
    shift: Any = index[:3, 3][::-1]
    return ndimage.affine_transform(
        hu, index[:3, :3][::-1, ::-1], shift, hu.shape, order=1, cval=-1000, mode="constant"
    )


def errors(found: np.ndarray, motion: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Distances in mm at points throughout the scan."""
    ends = np.array([[x, y, z] for x in (0.2, 0.8) for y in (0.2, 0.8) for z in (0.2, 0.8)]) * shape[::-1]
    points = np.column_stack([ends, np.ones(8)]) @ affine.T
    return np.linalg.norm((points @ found.T - points @ motion.T)[:, :3], axis=1)


@pytest.mark.parametrize(
    ("degrees", "shift", "cut"),
    [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0),
        ([5.0, -3.0, 2.0], [15.0, -9.0, 22.0], 0),
        ([-4.0, 2.0, 3.0], [8.0, 30.0, -40.0], 9),
    ],
)
def test_known_motion_of_a_phantom_is_found(degrees: list[float], shift: list[float], cut: int) -> None:
    # Axes that run the other way, as from another scanner.
    affine = np.array([[-3.5, 0, 0, 100], [0, 3.5, 0, -85], [0, 0, 4, -90], [0, 0, 0, 1]])
    motion = motion_about(np.array([10.0, 5.0, 0.0]), degrees, shift)
    there = affine.copy()
    there[:3, 3] += cut * affine[:3, 2]
    found = align((phantom(affine, np.eye(4)), affine), (phantom(there, motion), there))
    assert errors(found.matrix, motion, SHAPE, affine).max() < 2
    np.testing.assert_allclose(found.matrix[:3, :3] @ found.matrix[:3, :3].T, np.eye(3), atol=1e-6)
    assert found.similarity > 0.7
    assert found.degrees == pytest.approx(np.degrees(Rotation.from_matrix(motion[:3, :3]).magnitude()), abs=1.2)


def test_a_tilted_scan_counts_only_where_it_has_values() -> None:
    """The slices of one scan are turned, as those of a tilted gantry: what lies outside of them is not air."""
    affine = np.array([[3.5, 0, 0, -85], [0, 3.5, 0, -85], [0, 0, 4, -60], [0, 0, 0, 1]])
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", 25, degrees=True).as_matrix()
    short = phantom(affine, np.eye(4))[:30]
    tilted = turn @ affine
    other = phantom(tilted, np.eye(4))[:30]
    for one, two in (((short, affine), (other, tilted)), ((other, tilted), (short, affine))):
        found = align(one, two)
        assert errors(found.matrix, np.eye(4), short.shape, affine).max() < 2
        assert found.similarity > 0.75


def test_scans_without_anything_in_common_agree_by_nothing() -> None:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    air = np.full((10, 10, 10), -1000.0)
    assert align((air, affine), (air, affine)).similarity == 0
    with pytest.raises(ValueError, match=r"at least 12 mm along each axis .*got 36 x 36 x 4 mm in the scan before.*--"):
        align((air[:2], affine), (air, affine))
    with pytest.raises(ValueError, match="not of many metres, got 36000 x 36000 x 36 mm in the scan after"):
        align((air, affine), (np.full((10, 10, 10), 0.0), np.diag([4000.0, 4000.0, 4.0, 1.0])))


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="needs ../shared/data/real next to the checkout")
def test_known_motion_of_a_real_crop_is_found() -> None:
    scan = read_scan(REAL)
    middle = (scan.affine @ [*(np.array(scan.hu.shape[::-1]) / 2), 1])[:3]
    motion = motion_about(middle, [6.0, 3.0, -2.0], [18.0, 8.0, -25.0])
    later = moved(scan.hu.astype(np.float32), scan.affine, motion)[6:]
    later = later + np.random.default_rng(0).normal(0, 20, later.shape)
    there = scan.affine.copy()
    there[:3, 3] += 6 * scan.affine[:3, 2]
    found = align((scan.hu, scan.affine), (later, there))
    assert errors(found.matrix, motion, scan.hu.shape, scan.affine).max() < 2.5
