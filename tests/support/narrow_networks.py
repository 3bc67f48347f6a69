"""Definitions of small MP3D FPNs, as weights files hold them, for tests that need a real detector."""

from __future__ import annotations

from typing import Any

NARROW: dict[str, Any] = {
    "_target_": "scripts.networks.mp3d_fpn",
    "num_slices": 3,
    "fpn_channels": 32,
    "body": {"_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 8, "norm_groups": 32},
    "head": {"_target_": "scripts.networks.TwoStageHead", "fc_channels": 16, "test_per_level": 20, "proposals": 10},
}
# As small as it gets, for tests of which the values do not matter.
TINY = {
    **NARROW,
    "fpn_channels": 8,
    "body": {**NARROW["body"], "width": 4, "norm_groups": 4},
    "head": {"_target_": "scripts.networks.TwoStageHead", "fc_channels": 4},
}
