"""A narrow network, a scan and labels for the tests of MONAI Label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from scripts.weights import build_network, save_weights
from support.fake_scans import ball_scan
from support.narrow_networks import NARROW

SETTINGS = {"score_threshold": 0.5, "box_threshold": 0.02, "operating_points": {"0.5": 0.6, "4": 0.03}}
NOTICE = "Random weights."


def write_weights(path: Path, **settings: Any) -> Path:
    """Random weights of the narrow network, the same at every call."""
    torch.manual_seed(0)
    info = {"name": "narrow", "notice": NOTICE, "inference": {**SETTINGS, **settings}}
    return save_weights(path, build_network(NARROW), NARROW, info)


def write_scan(path: Path) -> Path:
    """A CT with a bright ball of 6 mm radius; voxels of 1 x 1 x 2.5 mm."""
    affine = np.diag([-1.0, -1.0, 2.5, 1.0])
    affine[:3, 3] = 40, 50, -60
    nibabel.save(nibabel.Nifti1Image(ball_scan().transpose(2, 1, 0), affine), path)
    return path


def write_ball(path: Path) -> Path:
    """The box around the ball of `write_scan`, as markups in LPS mm."""
    markup = {"type": "ROI", "center": [30 - 40, 16 - 50, 15 - 60], "size": [12, 12, 12]}
    path.write_text(json.dumps({"markups": [markup]}))
    return path
