"""Synthetic scans and a detector that needs no training, shared by the tests of inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.scan import Scan

BALL_HU, BODY_HU, AIR_HU = 400, 40, -1000


def ball_scan(
    *,
    shape: tuple[int, int, int] = (12, 40, 56),
    spacing: tuple[float, float, float] = (1.0, 1.0, 2.5),
    centre_mm: Sequence[float] = (30.0, 16.0, 15.0),
    radius_mm: float = 6.0,
) -> np.ndarray:
    """A body with one bright ball.

    Args:
        shape: ``(Z, H, W)``.
        spacing: mm along x, y, z.
        centre_mm: x, y, z of the ball in mm from the centre of voxel (0, 0, 0).
        radius_mm: Radius of the ball.

    Returns:
        ``shape`` int16 HU.
    """
    z, y, x = (np.arange(number) for number in shape)
    hu = np.full(shape, AIR_HU, dtype=np.int16)
    hu[:, 3:-3, 3:-3] = BODY_HU
    distance = (
        ((x * spacing[0] - centre_mm[0]) ** 2)[None, None]
        + ((y * spacing[1] - centre_mm[1]) ** 2)[None, :, None]
        + ((z * spacing[2] - centre_mm[2]) ** 2)[:, None, None]
    )
    hu[distance <= radius_mm**2] = BALL_HU
    return hu


def scan_of(
    hu: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 2.5), path: Path = Path("scan.nii")
) -> Scan:
    """A scan as if read from a file in canonical orientation, LPS origin (0, 0, 0)."""
    affine = np.diag([*spacing, 1.0])
    shape = (hu.shape[2], hu.shape[1], hu.shape[0])
    files = (path,) if path.is_file() else ()
    return Scan(hu, affine, np.eye(4), shape, path, files)


def two_balls() -> np.ndarray:
    """A body with a bright ball above a brighter one, for `TwoClassDetector`; the two overlap."""
    hu = ball_scan(shape=(16, 40, 56), centre_mm=(30.0, 16.0, 12.0))
    hu[ball_scan(shape=(16, 40, 56), centre_mm=(32.0, 16.0, 20.0)) == BALL_HU] = 2 * BALL_HU
    return hu


@dataclass
class Seen:
    """What a `BlobDetector` was shown."""

    batches: list[tuple[int, ...]] = field(default_factory=list)


class BlobDetector(nn.Module):
    """Boxes around everything brighter than 300 HU in the middle slice of a slab; the score grows with the area."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = Seen()

    def forward(self, slabs: Tensor | Sequence[Tensor], targets: None = None) -> list[dict[str, Tensor]]:
        """Evaluation interface of the detectors."""
        assert not self.training
        slabs = list(slabs)
        self.seen.batches.append((len(slabs), *slabs[0].shape))
        return [self._one(slab) for slab in slabs]

    def _one(self, slab: Tensor) -> dict[str, Tensor]:
        hu = IntensityWindow().inverse(slab[len(slab) // 2].float().cpu().numpy())
        count, _, stats, _ = cv2.connectedComponentsWithStats((hu > 300).astype(np.uint8))
        x, y, width, height, area = stats[1:count].astype(np.float32).T.reshape(5, -1)
        boxes = torch.from_numpy(np.column_stack([x, y, x + width, y + height])).reshape(-1, 4)
        scores = torch.from_numpy(1 - np.exp(-area / 100)).reshape(-1)
        return {"boxes": boxes, "scores": scores, "labels": torch.ones(len(scores), dtype=torch.int64)}


class TwoClassDetector(BlobDetector):
    """A `BlobDetector` that distinguishes two classes: what is brighter than 600 HU is of the second."""

    num_classes = 2

    def _one(self, slab: Tensor) -> dict[str, Tensor]:
        hu = torch.from_numpy(IntensityWindow().inverse(slab[len(slab) // 2].float().cpu().numpy()))
        faint = slab.clone()
        faint[:, hu > 600] = slab.min()
        bright = slab.clone()
        bright[:, hu <= 600] = slab.min()
        parts = [super(TwoClassDetector, self)._one(part) for part in (faint, bright)]
        for label, part in enumerate(parts, start=1):
            part["labels"] = torch.full_like(part["labels"], label)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
