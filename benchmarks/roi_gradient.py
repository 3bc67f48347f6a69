"""RoIAlign's backward pass on a CPU: products of matrices against torchvision's, in one thread."""

from __future__ import annotations

from functools import partial

import torch
import torchvision.ops

from benchmarks._timing import compare
from scripts.networks.heads import roi_align

# Maps, channels, side, boxes, and the side of the image in pixels.
CASES = ((8, 64, 24, 512, 96), (8, 64, 64, 512, 256), (1, 256, 128, 256, 512))
LARGEST_BOX, CELLS = 0.3, 7


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    roi_align.LARGEST_MAP = max(case[2] for case in CASES) ** 2
    for maps, channels, side, boxes, image in CASES:
        generator = torch.Generator().manual_seed(0)
        corner = torch.rand(boxes, 2, generator=generator) * image
        size = torch.rand(boxes, 2, generator=generator) * LARGEST_BOX * image
        rows = torch.randint(maps, (boxes, 1), generator=generator)
        rois = torch.cat([rows, corner, corner + size], dim=1)
        leaf = torch.zeros(maps, channels, side, side, requires_grad=True)
        crops = {
            "torchvision": torchvision.ops.roi_align(leaf, rois, CELLS, side / image, 0, True),
            "products": roi_align.roi_align(leaf, rois, CELLS, side / image),
        }
        gradient = torch.ones(boxes, channels, CELLS, CELLS)
        compare(
            f"{boxes} boxes in {maps} x {channels} x {side} x {side}, one thread",
            {name: partial(torch.autograd.grad, crop, leaf, gradient, True) for name, crop in crops.items()},
        )


if __name__ == "__main__":
    main()
