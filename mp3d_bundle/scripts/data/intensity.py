"""Intensity: from HU to the values that the network sees, and back."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch

ArrayT = TypeVar("ArrayT", np.ndarray, torch.Tensor)


class IntensityWindow:
    """Turn HU into the network's input: ``(255 * clip((HU - low) / (high - low), 0, 1) - mean) / std``.

    The defaults are the paper's window (section 3.1) and the released code's mean and deviation, which give
    values from -2.118 to 2.249.

    Args:
        low: HU that become 0 on the scale of 0 to 255.
        high: HU that become 255.
        mean: Subtracted on the scale of 0 to 255.
        std: Divided by, on the scale of 0 to 255.

    Raises:
        ValueError: If ``high`` is not above ``low`` or ``std`` is not above zero.
    """

    def __init__(self, low: float = -1024.0, high: float = 1050.0, mean: float = 123.675, std: float = 58.395) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"Expected a window with low < high, got {low} to {high}.")
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"Expected a finite mean and a deviation above zero, got {mean} and {std}.")
        self.low, self.high, self.mean, self.std = float(low), float(high), float(mean), float(std)
        self._scale = 255.0 / (self.high - self.low) / self.std
        self._offset = -self.mean / self.std

    def __call__(self, hu: ArrayT, *, inplace: bool = False) -> ArrayT:
        """Normalise HU of any shape.

        Args:
            hu: HU of any shape; integers become float32, float32 and float64 keep their type.
            inplace: Write the result into ``hu`` (writable floats only), which saves a copy.

        Returns:
            Normalised values of the same shape.

        Raises:
            ValueError: If ``inplace`` is asked for integers.
        """
        kept = hu.dtype in (torch.float32, torch.float64, np.dtype(np.float32), np.dtype(np.float64))
        if inplace and not kept:
            raise ValueError(f"Expected floats to normalise in place, got {hu.dtype}.")
        if isinstance(hu, np.ndarray):
            # Not through torch, whose threads wait for each other in many short loops.
            array = hu if inplace else hu.astype(hu.dtype if kept else np.float32)
            # Slice by slice: a slice stays in the processor's cache through all four steps, a slab does not.
            for part in array if array.ndim > 2 else [array]:
                np.clip(part, self.low, self.high, out=part)
                part -= self.low
                part *= self._scale
                part += self._offset
            return array
        tensor = hu if kept else hu.to(torch.float32)
        tensor = tensor.clamp_(self.low, self.high) if inplace else tensor.clamp(self.low, self.high)
        return tensor.sub_(self.low).mul_(self._scale).add_(self._offset)

    def inverse(self, values: ArrayT) -> ArrayT:
        """Turn normalised values of any shape back into HU, for display (clipped HU stay clipped)."""
        return (values - self._offset) / self._scale + self.low
