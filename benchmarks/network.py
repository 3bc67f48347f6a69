"""Forward time of the full-size backbone on a CPU: precision, memory layout, and MP3D against MR3D."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks._timing import compare
from scripts.networks import FullBottleneck, ResNet3d, SlabBackbone, Stem
from scripts.number_formats import cpu_has_bfloat16

SLICES, SIDE, THREADS = 9, 256, 2


def forward(backbone: SlabBackbone, slabs: torch.Tensor, *, bfloat16: bool = False) -> Callable[[], object]:
    """A call that runs the backbone once without gradients."""

    def call() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return backbone(slabs)

    return call


def mp3d(channels_last: bool = False) -> SlabBackbone:
    """MP3D-63 with GTM and FPN; only the 3D body knows the channels-last layout, the rest is 2D."""
    backbone = SlabBackbone(ResNet3d(), SLICES).eval()
    if channels_last:
        backbone.body.to(memory_format=torch.channels_last_3d)
    return backbone


def mr3d() -> SlabBackbone:
    """The paper's 3D reference: full 3x3x3 convolutions instead of separated ones."""
    return SlabBackbone(ResNet3d(FullBottleneck, stem=partial(Stem, depth=7)), SLICES).eval()


def main() -> None:
    """Print the figures."""
    # A single thread uses other code paths in torch's CPU convolutions, which is misleading.
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    slabs = torch.randn(1, SLICES, SIDE, SIDE)
    plain, last = mp3d(), mp3d(channels_last=True)
    cases = {
        "float32": forward(plain, slabs),
        "float32, channels_last_3d body": forward(last, slabs),
    }
    if cpu_has_bfloat16():
        cases["bfloat16 autocast"] = forward(plain, slabs, bfloat16=True)
        cases["bfloat16 autocast, channels_last_3d body"] = forward(last, slabs, bfloat16=True)
    title = f"backbone and FPN, 1x{SLICES}x{SIDE}x{SIDE}, {THREADS} threads"
    compare(f"MP3D-63 {title}", cases)
    peers = {"MR3D": forward(mr3d(), slabs), "MP3D": cases["float32"]}
    compare(f"separated against full 3D convolutions, {title}", peers)


if __name__ == "__main__":
    main()
