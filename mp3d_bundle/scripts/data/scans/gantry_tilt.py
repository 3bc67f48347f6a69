"""Sheared and oblique stacks: undo gantry tilt, warn about oblique volumes, reject the rest.

With a tilted gantry the table moves on at an angle to the slices, so that each slice is shifted in its own plane
against the one below. Here the slices stay as they were acquired, as in DeepLesion, and are only shifted back: by
linear interpolation within the slice, by the exact fraction of a pixel. What results is a right-angled volume that
is turned against the body axes by the tilt; its matrix to millimetres is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .volume_files.stored_image import check_spacing

# Up to this angle an axis counts as straight: boxes are found on the slices as stored, and millimetres
# still go through the exact affine.
STRAIGHT_DEGREES = 1.0
# Beyond this angle slices are no longer axial enough for a network trained on axial ones.
MAX_TURN_DEGREES = 35.0
# What lies outside the shifted slices: air.
_OUTSIDE_HU = -1024


@dataclass(frozen=True)
class Skew:
    """How far a stack in canonical order is sheared and oblique.

    Attributes:
        shift: Pixels (x, y) by which each slice is shifted in its plane against the one below; zeros where the
            stack counts as straight.
        tilt: Angle in degrees between the stack and the normal of its slices.
        turn: Largest angle in degrees between an axis of the slices, or their normal, and the body axis next to it.
    """

    shift: tuple[float, float]
    tilt: float
    turn: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about it, one sentence each."""
        found = []
        if self.tilt > STRAIGHT_DEGREES:
            found.append(
                f"The stack is sheared by {self.tilt:.1f} degrees (gantry tilt): its slices were shifted back in "
                "their planes."
            )
        if self.turn > STRAIGHT_DEGREES:
            found.append(
                f"The slices are turned by {self.turn:.1f} degrees against the body axes: boxes are found on the "
                "slices as stored, and boxes in millimetres enclose them."
            )
        return tuple(found)


def measure_skew(affine: np.ndarray, path: Path) -> Skew:
    """How far a stack is sheared and turned.

    Args:
        affine: ``(4, 4)``, index (x, y, z) in canonical order to LPS mm.
        path: What messages call it.

    Raises:
        ValueError: If a spacing is not positive, rows and columns are not at right angles, or slices are turned by
            more than ``MAX_TURN_DEGREES``.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    check_spacing(tuple(spacing), path)
    along_x, along_y, along_z = (affine[:3, :3] / spacing).T
    in_plane = _degrees_off_right_angle(along_x, along_y)
    if in_plane > STRAIGHT_DEGREES:
        raise ValueError(
            f"Expected rows and columns at right angles, got slices sheared by {in_plane:.1f} degrees in their plane "
            f"in {path}: resample the scan to a right-angled grid first."
        )
    normal = np.cross(along_x, along_y)
    normal /= np.linalg.norm(normal)
    tilt = math.degrees(math.acos(min(1.0, abs(float(along_z @ normal)))))
    cosines = [abs(float(axis[place])) for place, axis in enumerate((along_x, along_y, normal))]
    turn = math.degrees(math.acos(min(1.0, min(cosines))))
    if turn > MAX_TURN_DEGREES:
        raise ValueError(
            f"Expected slices along the body axes, got a volume turned by {turn:.1f} degrees (at most "
            f"{MAX_TURN_DEGREES:g} are taken) in {path}: resample it to axial slices first."
        )
    if tilt > MAX_TURN_DEGREES:
        raise ValueError(
            f"Expected slices stacked at right angles or with a tilted gantry, got a stack sheared by {tilt:.1f} "
            f"degrees (at most {MAX_TURN_DEGREES:g} are taken) in {path}."
        )
    shift_x, shift_y = (
        float(along_z @ axis * spacing[2] / edge) for axis, edge in ((along_x, spacing[0]), (along_y, spacing[1]))
    )
    return Skew((shift_x, shift_y) if tilt > STRAIGHT_DEGREES else (0.0, 0.0), tilt, turn)


def _degrees_off_right_angle(first: np.ndarray, second: np.ndarray) -> float:
    return math.degrees(math.asin(min(1.0, abs(float(first @ second)))))


def shift_back(hu: np.ndarray, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Shift the slices of a sheared stack back over each other.

    Args:
        hu: ``(Z, H, W)`` int16 HU.
        shift: Pixels (x, y) by which each slice is shifted against the one below, from `measure_skew`.

    Returns:
        The straight stack ``(Z, H', W')`` int16, wide enough for all of every slice, and ``(4, 4)`` float64, its
        index (x, y, z) to that of ``hu``.
    """
    depth, height, width = hu.shape
    moves = np.arange(depth)[:, None] * np.array(shift)
    low = np.floor(moves.min(axis=0))
    # One pixel more on the far side for the fraction.
    grown = (np.ceil(moves.max(axis=0)) - low).astype(int)
    straight = np.full((depth, height + grown[1], width + grown[0]), _OUTSIDE_HU, dtype=np.int16)
    for plane, out, (move_x, move_y) in zip(hu, straight, (moves - low).tolist(), strict=True):
        rows, columns = int(move_y), int(move_x)
        moved = _blend(_blend(plane.astype(np.float32), move_y - rows, axis=0), move_x - columns, axis=1)
        out[rows : rows + moved.shape[0], columns : columns + moved.shape[1]] = np.rint(moved)
    matrix = np.eye(4)
    matrix[:2, 2] = -np.array(shift)
    matrix[:2, 3] = low
    return straight, matrix


def _blend(plane: np.ndarray, fraction: float, *, axis: int) -> np.ndarray:
    """A plane moved on by a fraction of a pixel along an axis, one pixel longer; the same where that is nothing."""
    if fraction == 0.0:
        return plane
    near = np.pad(plane, [(0, 1) if axis == side else (0, 0) for side in (0, 1)], constant_values=_OUTSIDE_HU)
    far = np.pad(plane, [(1, 0) if axis == side else (0, 0) for side in (0, 1)], constant_values=_OUTSIDE_HU)
    return near + np.float32(fraction) * (far - near)
