"""Definition of a small MP3D FPN, as weights files hold it, for tests that need a real detector."""

from __future__ import annotations

NARROW = {
    "_target_": "scripts.networks.mp3d_fpn",
    "num_slices": 3,
    "fpn_channels": 32,
    "body": {"_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 8, "norm_groups": 32},
    "head": {"_target_": "scripts.networks.TwoStageHead", "fc_channels": 16, "test_per_level": 20, "proposals": 10},
}
