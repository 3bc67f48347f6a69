"""Reference values of the other systems' own modules: the weights they were made with, and how to compare."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.networks.published.authors_names import Rules
from scripts.networks.published.authors_names import renamed as by_rules


def draw(key: str, shape: Sequence[int], kind: str, overrides: Mapping[str, Any]) -> Tensor:
    """The float64 tensor that the reference values were made with for a key of a checkpoint."""
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if key in overrides:
        offset = np.asarray(overrides[key]["offset"], float)
        n = overrides[key]["scale"] * n + offset.reshape(offset.shape + (1,) * (n.ndim - offset.ndim))
    elif kind == "weight":
        n = n / np.sqrt(np.prod(shape[1:]))
    elif kind == "weight_he":
        n = n * np.sqrt(2 / np.prod(shape[1:]))
    elif kind == "norm_weight":
        n = 1 + 0.1 * n
    elif kind in ("bias", "bn_mean"):
        n = 0.1 * n
    elif kind == "bn_var":
        n = 0.5 + 0.5 * n * n
    elif kind == "a3d":
        n = np.eye(shape[0], shape[1])[:, :, None] + 0.1 * n
    elif kind == "zero":
        n = np.zeros(tuple(shape), np.int64)
    else:
        raise ValueError(kind)
    return torch.from_numpy(np.asarray(n))


def checkpoint(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The whole checkpoint of a system, under its authors' names."""
    overrides = values.get("overrides", {})
    return {key: draw(key, shape, kind, overrides) for key, shape, kind in values["keys"]}


def check_block(block: Mapping[str, Any], got: Tensor, tolerance: float) -> None:
    """Compare a tensor with a block of reference statistics and sampled values."""
    assert list(got.shape) == block["shape"], block["tag"]
    values = got.detach().double().flatten()
    picked = values[torch.tensor(block["idx"])].numpy()
    np.testing.assert_allclose(picked, block["val64"], rtol=0, atol=tolerance, err_msg=block["tag"])
    np.testing.assert_allclose(values.mean().item(), block["mean64"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(values.abs().max().item(), block["absmax64"], rtol=0, atol=tolerance)


def backbone_state(
    values: Mapping[str, Any], rules: Rules, prefixes: tuple[str, ...] = ("backbone.",)
) -> dict[str, Tensor]:
    """The backbone's part of a system's checkpoint, under the names of our module."""
    keys = [each for each in values["keys"] if each[0].startswith(prefixes)]
    state = checkpoint({**values, "keys": keys})
    return {name.removeprefix("backbone."): tensor for name, tensor in by_rules(state, rules).items()}
