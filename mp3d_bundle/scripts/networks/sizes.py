"""Checks of the numbers that a network is built from: sizes of layers and slices of a slab."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Check that sizes of layers are whole numbers above 0.

    Args:
        sizes: A number, or some, by the name of the argument that holds it.

    Raises:
        ValueError: If one is not.
    """
    for name, given in sizes.items():
        each: Sequence[Any] = given if isinstance(given, (list, tuple)) else [given]
        if not all(_is_whole(size) and size > 0 for size in each):
            raise ValueError(f"Expected {name} of the network to be a whole number above 0, got {given!r}.")


def check_anchors(scales: Sequence[float], ratios: Sequence[float]) -> None:
    """Check the sizes and the shapes of anchors.

    Args:
        scales: Sides of the square anchors in units of the stride.
        ratios: Heights over widths.

    Raises:
        ValueError: If one of the two is not a list, is empty, or holds anything but finite numbers above 0.
    """
    for given in (scales, ratios):
        if not isinstance(given, (list, tuple)) or not given or not all(_is_above_zero(number) for number in given):
            raise ValueError(
                f"Expected at least one scale and one ratio of anchors, all above 0, got {scales!r} and {ratios!r}."
            )


def check_odd_slices(num_slices: int) -> None:
    """Check the slices of a slab, whose middle one is the target.

    Raises:
        ValueError: If ``num_slices`` is not an odd number >= 1.
    """
    if not _is_whole(num_slices) or num_slices < 1 or num_slices % 2 == 0:
        raise ValueError(f"Expected an odd number of slices >= 1 (the middle one is the target), got {num_slices!r}.")


def check_triplets(num_slices: int) -> None:
    """Check the slices of a slab that is read as images of three slices, whose middle one has the target.

    Raises:
        ValueError: If ``num_slices`` is not three times an odd number.
    """
    if not _is_whole(num_slices) or num_slices < 1 or num_slices % 6 != 3:
        raise ValueError(
            "Expected three times an odd number of slices (3, 9, 15, 21 or 27) for a network that reads images of "
            f"three slices, got {num_slices!r}."
        )


def _is_above_zero(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
