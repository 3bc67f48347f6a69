"""What can be wrong with a CT image: changes of a stack of slices, each with a strength and seeded random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

AIR_HU = -1000.0


@dataclass(frozen=True)
class Stack:
    """The stored slices around a key slice.

    Attributes:
        hu: ``(Z, H, W)`` float32.
        positions: ``(Z,)`` float64, mm from the key slice, rising; one of them is 0.
    """

    hu: np.ndarray
    positions: np.ndarray

    @property
    def key(self) -> int:
        """Row of the key slice."""
        return int(np.argmin(np.abs(self.positions)))


Change = Callable[[Stack, float, np.random.Generator], Stack]


def noise(stack: Stack, hu: float, draw: np.random.Generator) -> Stack:
    """Add white noise of ``hu`` standard deviation to every voxel."""
    return replace(stack, hu=stack.hu + hu * draw.standard_normal(stack.hu.shape, dtype=np.float32))


def shift(stack: Stack, hu: float, draw: np.random.Generator) -> Stack:
    """Add a number to all values, as a wrong intercept would."""
    return replace(stack, hu=stack.hu + np.float32(hu))


def scale(stack: Stack, factor: float, draw: np.random.Generator) -> Stack:
    """Multiply all values, as a wrong slope would; water stays 0 HU."""
    return replace(stack, hu=stack.hu * np.float32(factor))


def thickness(stack: Stack, mm: float, draw: np.random.Generator) -> Stack:
    """Average the stored slices within ``mm`` of each other, the spacing of the slices unchanged."""
    near = np.abs(stack.positions[:, None] - stack.positions) <= mm / 2 + 1e-6
    weights = (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
    return replace(stack, hu=np.einsum("tz,zhw->thw", weights, stack.hu))


def spacing(stack: Stack, mm: float, draw: np.random.Generator) -> Stack:
    """Keep the key slice and slices about ``mm`` from it and each other; never closer than they were."""
    step = max(1, round(mm / float(np.diff(stack.positions).min(initial=mm))))
    kept = (np.arange(len(stack.hu)) - stack.key) % step == 0
    return Stack(stack.hu[kept], stack.positions[kept])


def pixels(stack: Stack, factor: float, draw: np.random.Generator) -> Stack:
    """Average to pixels ``factor`` times as large, brought back to the size of the image."""
    height, width = stack.hu.shape[1:]
    small = (round(width / factor), round(height / factor))
    coarse = [cv2.resize(one, small, interpolation=cv2.INTER_AREA) for one in stack.hu]
    return replace(
        stack, hu=np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in coarse])
    )


def in_field(share: float, height: int, width: int) -> np.ndarray:
    """Pixels ``(H, W)`` within a circle around the centre, its diameter this share of the shorter side."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.hypot(rows - height / 2, columns - width / 2) <= share * min(height, width) / 2


def field_of_view(stack: Stack, share: float, draw: np.random.Generator) -> Stack:
    """Put air outside a circle around the centre."""
    return replace(stack, hu=np.where(in_field(share, *stack.hu.shape[1:]), stack.hu, np.float32(AIR_HU)))


def streaks(stack: Stack, hu: float, draw: np.random.Generator) -> Stack:
    """Add bright and dark rays from a point in the body, as metal makes them: ``hu`` at 10 pixels, less farther out."""
    hu_of = stack.hu.copy()
    rows, columns = np.mgrid[: stack.hu.shape[1], : stack.hu.shape[2]]
    inside = np.argwhere(stack.hu[stack.key] > -200)
    row, column = inside[draw.integers(len(inside))] if len(inside) else (0, 0)
    angles, distance = np.arctan2(rows - row, columns - column), np.hypot(rows - row, columns - column)
    for one in hu_of:
        rays, strengths = draw.uniform(-np.pi, np.pi, 24), draw.choice([-1.0, 1.0], 24)
        apart = np.abs((angles[..., None] - rays + np.pi) % (2 * np.pi) - np.pi)
        one += (hu * np.exp(-((apart / 0.04) ** 2)) @ strengths * (20 / (10 + distance))).astype(np.float32)
    return replace(stack, hu=hu_of)


def missing(stack: Stack, share: float, draw: np.random.Generator) -> Stack:
    """Leave out this share of the slices at random, never the key slice; the rest stays at its places."""
    others = np.delete(np.arange(len(stack.hu)), stack.key)
    gone = draw.permutation(others)[: round(share * len(others))]
    return Stack(np.delete(stack.hu, gone, axis=0), np.delete(stack.positions, gone))


# Each with its strengths, from weak to strong.
CHANGES: dict[str, tuple[Change, tuple[float, ...], str]] = {
    "noise": (noise, (10, 20, 40, 80), "HU more noise"),
    "shift": (shift, (-100, -50, 50, 100), "HU added"),
    "scale": (scale, (0.8, 0.9, 1.1, 1.2), "times the HU"),
    "thickness": (thickness, (5, 10, 20), "mm thick slices"),
    "spacing": (spacing, (5, 10, 20), "mm between slices"),
    "pixels": (pixels, (1.5, 2, 3), "times larger pixels"),
    "field of view": (field_of_view, (0.9, 0.7, 0.5), "of the width in view"),
    "streaks": (streaks, (50, 100, 200), "HU strong streaks"),
    "missing slices": (missing, (0.25, 0.5, 1), "of the neighbours missing"),
}
