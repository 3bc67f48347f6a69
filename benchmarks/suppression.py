"""Non-maximum suppression: torchvision's, which the detector uses, against MONAI's."""

from __future__ import annotations

import torch
from monai.data.box_utils import non_max_suppression
from torchvision.ops import nms

from benchmarks._timing import compare

BOXES, SIDE, OVERLAP = 2000, 512, 0.7


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(BOXES, 2, generator=generator) * (SIDE - 64)
    boxes = torch.cat([corners, corners + 8 + 56 * torch.rand(BOXES, 2, generator=generator)], dim=1)
    scores = torch.rand(BOXES, generator=generator)
    kept = nms(boxes, scores, OVERLAP)
    if not torch.equal(kept, torch.as_tensor(non_max_suppression(boxes, scores, OVERLAP))):
        raise RuntimeError("torchvision and MONAI keep different boxes, so that their times cannot be compared.")
    cases = {
        "monai.data.box_utils.non_max_suppression": lambda: non_max_suppression(boxes, scores, OVERLAP),
        "torchvision.ops.nms": lambda: nms(boxes, scores, OVERLAP),
    }
    compare(f"suppression of {BOXES} boxes at IoU {OVERLAP}, {len(kept)} kept, 1 thread", cases)


if __name__ == "__main__":
    main()
