"""Weights without a file: any network in the place of one that a run would load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.workflows.trained_weights import Weights


def weights_of(network: Any, info: Mapping[str, Any] | None = None, path: str | Path = "nowhere.pt") -> Weights:
    """Weights that hold a network and say something of themselves."""
    weights = Weights(path)
    vars(weights).update(_network=network, _described=(network, dict(info or {})))
    return weights
