"""RoIAlign's backward pass on a CPU: products of matrices against torchvision's, in processor time of one thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torchvision.ops
from torch import Tensor

from scripts.networks.heads import roi_align

# Maps, channels, side, boxes, and the side of the image in pixels.
CASES = ((8, 64, 24, 512, 96), (8, 64, 64, 512, 256), (1, 256, 128, 256, 512))
ROUNDS, LARGEST_BOX = 5, 0.3


def backward(crop: Callable[[Tensor], Tensor], level_map: Tensor) -> float:
    """Shortest processor time of a backward pass, in seconds."""
    times = []
    for _ in range(ROUNDS + 1):
        total = crop(level_map.detach().requires_grad_()).sum()
        start = time.process_time()
        total.backward()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    roi_align.LARGEST_MAP = max(case[2] for case in CASES) ** 2
    for maps, channels, side, boxes, image in CASES:
        generator = torch.Generator().manual_seed(0)
        corner = torch.rand(boxes, 2, generator=generator) * image
        size = torch.rand(boxes, 2, generator=generator) * LARGEST_BOX * image
        rows = torch.randint(maps, (boxes, 1), generator=generator)
        rois, scale = torch.cat([rows, corner, corner + size], dim=1), side / image
        level_map = torch.zeros(maps, channels, side, side)
        peer = backward(
            lambda leaf, rois=rois, scale=scale: torchvision.ops.roi_align(leaf, rois, 7, scale, 0, True), level_map
        )
        own = backward(lambda leaf, rois=rois, scale=scale: roi_align.roi_align(leaf, rois, 7, scale), level_map)
        print(
            f"{boxes} boxes in {maps} x {channels} x {side} x {side}: torchvision {1000 * peer:.1f} ms, "
            f"products {1000 * own:.1f} ms   {peer / own:.2f}x"
        )


if __name__ == "__main__":
    main()
