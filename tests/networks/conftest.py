"""Small networks that are the same classes as the paper's, with smaller numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from scripts.networks import FasterRCNN, ResNet3d, TwoStageHead, mp3d_fpn


@pytest.fixture
def narrow() -> Callable[..., FasterRCNN]:
    """Makes a detector that runs in milliseconds."""

    def make(num_slices: int = 3, num_classes: int = 1, **changes: Any) -> FasterRCNN:
        torch.manual_seed(0)
        arguments = {
            "body": ResNet3d(layers=(1, 1, 1, 1), width=8),
            "fpn_channels": 16,
            "head": TwoStageHead(anchor_scale=2.0, fc_channels=32),
        }
        return mp3d_fpn(num_slices, num_classes, **{**arguments, **changes})

    return make


@pytest.fixture
def on_meta() -> torch.device:
    """Device without memory: full-size networks are built and run in shapes only."""
    return torch.device("meta")
