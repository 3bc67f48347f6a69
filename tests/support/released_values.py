"""Weights, inputs and statistics of the reference values: how they are made is part of their definition."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch


def tensor(key: str, shape: list[int], kind: str, override: dict[str, Any] | None) -> torch.Tensor:
    """One tensor of the reference weights, float64, drawn from a generator seeded by its name."""
    normal = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if override is not None:
        values = override["scale"] * normal + np.asarray(override["offset"])
    elif kind == "norm_weight":
        values = 1 + 0.1 * normal
    elif kind == "bias":
        values = 0.1 * normal
    else:
        values = normal / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values)


def state(keys: list[list[Any]], overrides: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """The reference state dict under the released code's names, float64."""
    overrides = overrides or {}
    return {key: tensor(key, shape, kind, overrides.get(key)) for key, shape, kind in keys}


def slabs(shape: list[int]) -> torch.Tensor:
    """The reference input ``(1, 1, D, H, W)`` as slabs ``(1, D, H, W)``, float64."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape)[:, 0])


def check(actual: torch.Tensor, expected: dict[str, Any], tolerance: float) -> None:
    """Compare a tensor with a block of reference statistics.

    Raises:
        AssertionError: Where shape, mean, deviation or one of the listed values is further off than ``tolerance``.
    """
    values = actual.detach().double().numpy()
    np.testing.assert_equal(list(values.shape), expected["shape"])
    scale = max(1.0, expected["absmax64"])
    np.testing.assert_allclose(values.mean(), expected["mean64"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(values.std(), expected["std64"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(values.ravel()[expected["idx"]], expected["val64"], atol=tolerance * scale, rtol=0)
