"""A bundle of another kind, with a `scripts` package of its own, to serve next to ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch

_NET = '''
"""Bright voxels as a segmentation."""
import torch

MARK = "decoy"


class Bright(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(200.0))

    def forward(self, image):
        return (image > self.threshold).float()
'''


def write_decoy(folder: Path) -> Path:
    """A bundle that marks everything above 200 HU, under module names that our bundle uses too."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "scripts" / "networks").mkdir(parents=True)
    (folder / "scripts" / "__init__.py").write_text('MARK = "decoy"\n')
    (folder / "scripts" / "networks" / "__init__.py").write_text(_NET)
    # Ours are modules of these names; a mix-up would import these.
    for name in ("labelling", "inferring", "boxes"):
        (folder / "scripts" / f"{name}.py").write_text('raise ImportError("scripts of the other bundle")\n')
    torch.save({"threshold": torch.tensor(200.0)}, folder / "models" / "model.pt")
    image = {"type": "image", "num_channels": 1, "spatial_shape": ["n", "n", "n"]}
    pred = {**image, "channel_def": {"0": "background", "1": "bright"}}
    formats = {"inputs": {"image": image}, "outputs": {"pred": pred}}
    metadata = {"name": "decoy", "version": "0.0.1", "description": "bright voxels", "network_data_format": formats}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    config = {
        "bundle_root": ".",
        "device": "cpu",
        "network_def": {"_target_": "scripts.networks.Bright"},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "EnsureTyped", "keys": "pred"}]},
    }  # fmt: skip
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    return folder
