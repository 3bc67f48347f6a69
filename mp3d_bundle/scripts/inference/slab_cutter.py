"""From a whole scan to the slabs that the network reads.

The scan goes once onto the even z lattice the network was trained on (int16); the slabs of neighbouring
lattice slices are windows into that one volume, brought to network pixels and intensities when their
batch is due. The ends are repeated as the training reader does, so that a slab cut out of a scan and a
slab read around a key slice at the same place are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import interpolate

# Air and lung parenchyma lie below, fat and everything denser above.
BODY_HU = -300
# A slice with less tissue than this (1 cm²) shows no body.
BODY_MM2 = 100.0

Resample = Callable[..., np.ndarray]
Intensity = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PlaneScale:
    """How large a slice is shown to the network.

    Pixels stay as they are unless one of the two rules applies; a small field of view is never enlarged to
    fill a frame.

    Attributes:
        pixel_spacing: Resample every slice to this pixel size in mm, for a network that was trained at one
            size. None keeps the scan's own pixels, as the paper does.
        image_size: Without ``pixel_spacing``, reduce a slice whose longer side has more pixels to this many
            (512 is the paper's test scale). None never reduces.
        stored_size: Longer side of the images that became ``image_size`` pixels in training, where that was not
            ``image_size`` itself: slices that are no larger are then enlarged or reduced by the same factor.
    """

    pixel_spacing: float | None = None
    image_size: int | None = 512
    stored_size: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"Expected {name} above zero or None, got {value!r}.")

    def size(self, shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
        """Slab size ``(h, w)`` for slices of ``shape`` ``(H, W)`` with pixels of ``spacing`` (x, y) mm."""
        height, width = shape
        if self.pixel_spacing is not None:
            factor_x, factor_y = spacing[0] / self.pixel_spacing, spacing[1] / self.pixel_spacing
        elif self.image_size is not None and max(*shape, self.stored_size or 0) != self.image_size:
            factor_x = factor_y = self.image_size / max(*shape, self.stored_size or self.image_size)
        else:
            return shape
        # Rounded half up, as mmdetection rounds the sizes of training images.
        return max(1, int(height * factor_y + 0.5)), max(1, int(width * factor_x + 0.5))


@dataclass(frozen=True)
class ScanSlabs:
    """The slabs of one scan.

    Attributes:
        volume: ``(P + D - 1, H, W)`` int16 HU on the lattice; slab ``p`` is ``volume[p : p + D]``.
        positions: ``(P,)`` float64, where the centre slice of each slab lies, as a fractional index of the
            scan's slices (slice centres at whole numbers).
        thickness: Lattice spacing in slices of the scan.
        examined: ``(P,)`` bool, False where the centre slice shows no body.
        shape: ``(Z, H, W)`` of the scan.
        size: Slab size ``(h, w)`` for the network.
        smooth: Average over pixels where slices are reduced (no aliasing), as larger pixels do.
    """

    volume: torch.Tensor
    positions: np.ndarray
    thickness: float
    examined: np.ndarray
    shape: tuple[int, int, int]
    size: tuple[int, int]
    smooth: bool

    @property
    def scale(self) -> tuple[float, float]:
        """Slab pixels per scan pixel, (x, y)."""
        return self.size[1] / self.shape[2], self.size[0] / self.shape[1]

    def batch(self, indices: Sequence[int], volume: torch.Tensor, intensity: Intensity) -> torch.Tensor:
        """The normalised slabs ``(B, D, h, w)`` float32 around lattice slices ``indices``.

        Args:
            indices: Lattice slices, 0 to P - 1.
            volume: ``self.volume``, on whichever device.
            intensity: HU to network input.
        """
        num_slices = len(volume) - len(self.positions) + 1
        slabs = intensity(torch.stack([volume[index : index + num_slices] for index in indices]).float())
        if self.size == self.shape[1:]:
            return slabs
        return interpolate(slabs, self.size, mode="bilinear", align_corners=False, antialias=self.smooth)


@dataclass(frozen=True)
class SlabCutter:
    """Put scans onto the lattice.

    Attributes:
        resample: ``resample(volume, positions_mm, targets_mm, dtype=...)``, linear in z and repeating the
            end slices (``scripts.data.resample_z``).
        num_slices: Slices ``D`` of a slab, odd.
        slice_spacing: Lattice spacing in mm; 2.5 in the paper.
        scale: In-plane size.
    """

    resample: Resample
    num_slices: int = 9
    slice_spacing: float = 2.5
    scale: PlaneScale = field(default_factory=PlaneScale)

    def __post_init__(self) -> None:
        if self.num_slices < 1 or self.num_slices % 2 == 0:
            raise ValueError(f"Expected an odd number of slices, at least 1, got {self.num_slices!r}.")
        if not self.slice_spacing > 0:
            raise ValueError(f"Expected a slice spacing in mm above zero, got {self.slice_spacing!r}.")

    def __call__(self, hu: np.ndarray, spacing: tuple[float, float, float]) -> ScanSlabs:
        """Resample a scan.

        What is left over of the scan, less than a lattice step, is shared between both ends in whole slices of
        the scan: the lattice begins on a stored slice, as the slabs in training have one at their centre.

        Args:
            hu: ``(Z, H, W)`` int16 HU.
            spacing: mm between voxel centres along x, y, z.
        """
        reach = self.num_slices // 2
        last = (len(hu) - 1) * spacing[2]
        # A millionth of a slice: 25 slices of 0.1 mm make 2.4999999999999996 mm.
        count = int(last / self.slice_spacing + 1e-6) + 1
        start = int((last / self.slice_spacing - count + 1) * self.slice_spacing / 2 / spacing[2] + 1e-6)
        targets = start * spacing[2] + np.arange(-reach, count + reach) * self.slice_spacing
        volume = self.resample(hu, np.arange(len(hu)) * spacing[2], targets, dtype=np.int16)
        tissue = np.array([np.count_nonzero(plane > BODY_HU) for plane in volume[reach : reach + count]])
        shape = (hu.shape[0], hu.shape[1], hu.shape[2])
        return ScanSlabs(
            volume=torch.from_numpy(volume),
            positions=start + np.arange(count) * self.slice_spacing / spacing[2],
            thickness=self.slice_spacing / spacing[2],
            examined=tissue * spacing[0] * spacing[1] >= BODY_MM2,
            shape=shape,
            size=self.scale.size(shape[1:], spacing[:2]),
            smooth=self.scale.pixel_spacing is not None,
        )
