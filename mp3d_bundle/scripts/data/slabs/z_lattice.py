"""Lattices: which stored slices, with which weights, make up each position of a slab.

A lattice is a plain function of offsets from the key slice; it touches no file. There are three of them,
`corrected_lattice`, `released_lattice` and `native_lattice`, and what builds slabs is given one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

# A position this close to a stored slice (in slices) is that slice: 2.5 / 0.3 * 3 is 25.000000000000004.
ON_A_SLICE = 1e-9


@dataclass(frozen=True)
class Blend:
    """One position of the lattice: ``(1 - weight) * near + weight * far``.

    Attributes:
        near: Slice nearer to the key slice, as an offset in slices from it.
        far: Slice farther from the key slice, likewise; equal to ``near`` if no blending is needed.
        weight: Share of ``far``, in [0, 1].
    """

    near: int
    far: int
    weight: float


# (spacing / interval, positions on each side, stored offsets, offsets of the sub-volume's ends) -> D blends
Lattice = Callable[[float, int, Collection[int], "tuple[int, int] | None"], list[Blend]]


def corrected_lattice(
    ratio: float, reach: int, stored: Collection[int], limits: tuple[int, int] | None = None
) -> list[Blend]:
    """Plan a slab by linear interpolation between the two stored slices around each position.

    Beyond the last slice that can be reached from the key slice without a gap, that last slice is
    repeated: at the ends of a series, at a hole, and at the ends of the sub-volume even if the folder
    continues (slices of a neighbouring sub-volume may have another interval).

    Args:
        ratio: Lattice spacing / slice interval: the distance between positions in stored slices.
        reach: Positions on each side of the key slice, ``D // 2``.
        stored: Offsets from the key slice (in slices) at which a slice is stored.
        limits: Offsets of the sub-volume's first and last slice (inclusive), or None if unknown.

    Returns:
        ``2 * reach + 1`` blends from the first position to the last.
    """
    low, high = (-math.inf, math.inf) if limits is None else limits

    def one_side(sign: int) -> list[Blend]:
        last = 0
        while last < ratio * reach and sign * (last + 1) in stored and low <= sign * (last + 1) <= high:
            last += 1
        blends = []
        for step in range(1, reach + 1):
            distance = min(ratio * step, float(last))
            if abs(distance - round(distance)) < ON_A_SLICE:
                distance = round(distance)
            near, far = math.floor(distance), math.ceil(distance)
            blends.append(Blend(sign * near, sign * far, distance - near))
        return blends

    return [*reversed(one_side(-1)), Blend(0, 0, 0.0), *one_side(1)]


def released_lattice(
    ratio: float, reach: int, stored: Collection[int], limits: tuple[int, int] | None = None
) -> list[Blend]:
    """Plan a slab with the weights of the released code.

    The two weights are taken once, from the first position, and used at every position: right for
    intervals of 5, 2.5, 1.25, 1, 0.5 and 0.25 mm (97 % of DeepLesion), but 4.5 mm instead of 5 mm at the
    second position of a series with 2 mm slices. A slice that is not stored is replaced by the next stored
    one towards the key slice, so that slices beyond a hole are used. Needed to reproduce published numbers.

    Args:
        ratio: Lattice spacing / slice interval: the distance between positions in stored slices.
        reach: Positions on each side of the key slice, ``D // 2``.
        stored: Offsets from the key slice (in slices) at which a slice is stored.
        limits: Ignored, as in the released code.

    Returns:
        ``2 * reach + 1`` blends from the first position to the last.
    """
    weight = ratio - math.floor(ratio)

    def nearest_stored(offset: int) -> int:
        while offset != 0 and offset not in stored:
            offset -= int(math.copysign(1, offset))
        return offset

    def one_side(sign: int) -> list[Blend]:
        blends = []
        for step in range(1, reach + 1):
            near, far = math.floor(ratio * step), math.ceil(ratio * step)
            blends.append(Blend(nearest_stored(sign * near), nearest_stored(sign * far), weight))
        return blends

    return [*reversed(one_side(-1)), Blend(0, 0, 0.0), *one_side(1)]


def native_lattice(
    ratio: float, reach: int, stored: Collection[int], limits: tuple[int, int] | None = None
) -> list[Blend]:
    """Plan a slab of the stored slices, unless they are closer than the lattice spacing.

    AlignShift reads its slabs this way and gets the distance between slices; see `released_lattice` for the rest.

    Args:
        ratio: Lattice spacing / slice interval; below 1 it counts as 1.
        reach: Positions on each side of the key slice, ``D // 2``.
        stored: Offsets from the key slice (in slices) at which a slice is stored.
        limits: Ignored, as in the released code.

    Returns:
        ``2 * reach + 1`` blends from the first position to the last.
    """
    return released_lattice(max(ratio, 1.0), reach, stored, limits)


LATTICES: dict[str, Lattice] = {
    "corrected": corrected_lattice,
    "released": released_lattice,
    "native": native_lattice,
}
