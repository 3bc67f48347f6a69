"""A step of training on a CPU: number format and memory layout, the full-size network and the narrow one of the demo.

Losses, gradients and the optimiser's step on random slabs with two lesions each; reading and augmentation are left out.
``SIDE=512`` is the full-size network's image, 256 pixels by default; ``THREADS=1`` in the place of two.
bfloat16 is left out where the processor would have to emulate it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import torch
from monai.bundle import ConfigParser
from torch import nn

from benchmarks._timing import compare
from scripts.configuration.running_config import CONFIGS
from scripts.networks import mp3d_fpn
from scripts.training.mixed_precision import MixedPrecision
from scripts.training.train_steps import TrainingStep

try:
    from scripts.engines.memory_layout import channels_last
except ImportError:  # an earlier commit to compare with
    channels_last = None

SIDE = int(os.environ.get("SIDE", "256"))
SLICES, ROUNDS = 9, 3
THREADS = int(os.environ.get("THREADS", "2"))


def step(network: nn.Module, batch: int, side: int, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """A call that makes one step with a batch of slabs ``(9, side, side)``."""
    generator = torch.Generator().manual_seed(0)
    slabs = torch.randn(batch, SLICES, side, side, generator=generator)
    boxes = torch.tensor([[0.3, 0.3, 0.4, 0.38], [0.6, 0.5, 0.66, 0.6]]) * side
    targets = [{"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64)} for _ in range(batch)]
    optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-5, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = network(slabs, targets)
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()

    return run


def narrow() -> nn.Module:
    """The network of the demo."""
    configs = [str(CONFIGS / name) for name in ("train.json", "variants/size_narrow.yaml")]
    return ConfigParser(ConfigParser.load_config_files(configs)).get_parsed_content("network_def")


def measure(name: str, network: nn.Module, batch: int, side: int) -> None:
    """Print the times of a network."""
    # AVX2 would have to emulate bfloat16.
    formats = [torch.float32] if torch.backends.cpu.get_cpu_capability() == "AVX2" else [torch.float32, torch.bfloat16]
    cases = {}
    for dtype in formats:
        cases[str(dtype)[6:]] = step(copy.deepcopy(network), batch, side, dtype)
        if channels_last is not None:
            cases[f"{str(dtype)[6:]}, channels last"] = step(channels_last(copy.deepcopy(network)), batch, side, dtype)
    compare(f"step of the {name}, {batch} x {SLICES} x {side} x {side}, {THREADS} threads", cases, ROUNDS)


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    # What a training changes in its process.
    TrainingStep(MixedPrecision("cpu"))
    measure("narrow network", narrow(), 8, 96)
    measure("full-size network", mp3d_fpn(SLICES), 1, SIDE)


if __name__ == "__main__":
    main()
