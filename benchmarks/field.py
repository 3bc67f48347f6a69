"""CPU time and memory of one full-size slab through MP3D and each network that it is compared with.

In evaluation, and in a step of training; each in a process of its own, so that none counts another's memory.
"""

from __future__ import annotations

import subprocess
import sys
import time
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from monai.bundle import ConfigParser

from scripts.configuration.running_config import CONFIGS

SIDE = 512
NETWORKS = (
    "mp3d_9",
    *("retinanet_3", "retinanet_masks", "fpn_3dce_9", "fpn_3dce_27", "backbone_mr3d", "msb", "mulan", "mulan_patient"),
    *("alignshift", "tsm", "a3d", "satr", "mvpnet_9", "3dce_27", "3dce_rfcn", "3dce_faster_rcnn"),
)
# Variations of an overlay: the overlay, and settings of the network.
VARIATIONS: dict[str, tuple[str, dict[str, Any]]] = {"mulan_patient": ("mulan", {"extras": ["box", "patient"]})}


def _built(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A network by its overlay (``mp3d_9`` for none) or variation, untrained, and a slab for it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    overlay, settings = VARIATIONS.get(name, (name, {}))
    overlays = [] if name == "mp3d_9" else [CONFIGS / "variants" / f"{overlay}.yaml"]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in (CONFIGS / "train.json", *overlays)]))
    parser.update({f"network_def#{key}": value for key, value in settings.items()})
    return parser.get_parsed_content("network_def"), torch.randn(1, parser["num_slices"], SIDE, SIDE)


def _report(name: str, what: str, network: torch.nn.Module, start: float) -> None:
    spent, peak = time.process_time() - start, getrusage(RUSAGE_SELF).ru_maxrss / 2**20
    parameters = sum(each.numel() for each in network.parameters())
    print(f"{name:16} {parameters:12,} parameters  {what} {spent:6.1f} CPU s {peak:6.2f} GiB at most", flush=True)


def evaluate(name: str) -> None:
    """Print the cost of a slab in evaluation."""
    network, slab = _built(name)
    start = time.process_time()
    with torch.inference_mode():
        network.eval()(slab)
    _report(name, "evaluation", network, start)


def train(name: str) -> None:
    """Print the cost of a step of training on one slab with one lesion."""
    network, slab = _built(name)
    target = {"boxes": torch.tensor([[200.0, 200.0, 240.0, 230.0]]), "labels": torch.ones(1, dtype=torch.int64)}
    target["masks"] = torch.ones(1, 28, 28)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    start = time.process_time()
    torch.stack([*network.train()(slab, [target]).values()]).sum().backward()
    optimizer.step()
    _report(name, "training  ", network, start)


def main() -> None:
    """Print the figures."""
    print(f"one slab of {SIDE} x {SIDE}, untrained, one thread, float32", flush=True)
    for name in NETWORKS:
        for step in ("evaluate", "train"):
            code = f"from benchmarks.field import {step}; {step}({name!r})"
            subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    main()
