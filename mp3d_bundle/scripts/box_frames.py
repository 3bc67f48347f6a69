"""Frames of boxes that differ by an offset alone; `scripts.boxes` has the others. Imports neither NumPy nor PyTorch."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar


class _Numbers(Protocol):
    """What numbers can be added to: an array, a tensor."""

    def __add__(self, other: Any, /) -> Any: ...

    def __sub__(self, other: Any, /) -> Any: ...


NumbersT = TypeVar("NumbersT", bound=_Numbers)


def from_deeplesion(boxes: NumbersT) -> NumbersT:
    """Convert 1-based ``DL_info.csv`` boxes ``(N, 4)`` to the slab frame (subtract 1)."""
    return boxes - 1


def to_deeplesion(boxes: NumbersT) -> NumbersT:
    """Convert slab-frame boxes ``(N, 4)`` to 1-based ``DL_info.csv`` boxes (add 1)."""
    return boxes + 1
