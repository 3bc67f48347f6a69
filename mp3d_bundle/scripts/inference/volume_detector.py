"""The detector on a whole CT: the slabs it reads, and boxes back in the scan's own pixels.

The scan is resampled once onto the even z lattice that the network was trained on (int16). The slabs of
neighbouring lattice slices are windows into that volume, converted to network pixels and intensities batch by
batch. The ends are repeated as in the training reader, so that a slab cut out of a scan equals a slab read
around a key slice at the same position. The slices of a CT rise towards the head, those of a set to train on run
towards the feet: so slabs of a CT must begin with their last slice (``from_last``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.networks.utils import eval_mode
from torch.nn.functional import interpolate
from tqdm import tqdm

from ..boxes import Affine
from ..instances import Instances, cat, clip, further, move, select, to_arrays
from .detections import LABELS, SliceBoxes
from .read_ahead import read_ahead
from .scan_protocol import ScanLike

# Air and lung parenchyma are below, fat and everything denser above.
BODY_HU = -300
# A slice with less tissue than this (1 cm²) shows no body.
BODY_MM2 = 100.0

Box = tuple[int, int, int, int]
Resample = Callable[..., np.ndarray]
Intensity = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PlaneScale:
    """The size at which the network sees a slice.

    Pixels are unchanged unless one of the two rules applies; a small field of view is never enlarged to
    fill a frame.

    Attributes:
        pixel_spacing: Resample every slice to this pixel size in mm, for a network that was trained at one
            size. None keeps the scan's own pixels, as the paper does.
        image_size: Without ``pixel_spacing``, reduce a slice whose longer side has more pixels to this many
            (512 is the paper's test scale). None never reduces.
        stored_size: Longer side of the images that became ``image_size`` pixels in training, if that was not
            ``image_size`` itself: slices up to that size are then enlarged or reduced by the same factor.
        longest_side: With ``pixel_spacing``, slices that become longer than so many pixels are reduced to them.
    """

    pixel_spacing: float | None = None
    image_size: int | None = 512
    stored_size: int | None = None
    longest_side: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"Expected {name} above zero or None, got {value!r}.")

    def size(self, shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
        """Slab size ``(h, w)`` for slices of ``shape`` ``(H, W)`` with pixels of ``spacing`` (x, y) mm."""
        height, width = shape
        if self.pixel_spacing is not None:
            factor_x, factor_y = spacing[0] / self.pixel_spacing, spacing[1] / self.pixel_spacing
            longest = max(height * factor_y, width * factor_x)
            if self.longest_side is not None and longest > self.longest_side:
                factor_x, factor_y = (each * self.longest_side / longest for each in (factor_x, factor_y))
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
        positions: ``(P,)`` float64, position of the centre slice of each slab as a fractional index of the
            scan's slices (slice centres at whole numbers).
        thickness: Lattice spacing in slices of the scan.
        examined: ``(P,)`` bool, False if the centre slice shows no body.
        shape: ``(Z, H, W)`` of the scan.
        size: Slab size ``(h, w)`` for the network.
        smooth: Average over pixels when slices are reduced (no aliasing), as larger pixels do.
        crops: Of each slab, if it is cut to the body: the half-open box ``x1, y1, x2, y2`` in pixels of the scan, and
            the size ``(h, w)`` for the network.
        from_last: Whether slabs begin with their last slice.
    """

    volume: torch.Tensor
    positions: np.ndarray
    thickness: float
    examined: np.ndarray
    shape: tuple[int, int, int]
    size: tuple[int, int]
    smooth: bool
    crops: Sequence[tuple[Box, tuple[int, int]]] | None = None
    from_last: bool = False

    @property
    def scale(self) -> tuple[float, float]:
        """Slab pixels per scan pixel, (x, y)."""
        return self.size[1] / self.shape[2], self.size[0] / self.shape[1]

    def batch(
        self, indices: Sequence[int], volume: torch.Tensor, intensity: Intensity
    ) -> torch.Tensor | list[torch.Tensor]:
        """The normalised slabs ``(B, D, h, w)`` float32 around lattice slices ``indices``, a list if they are cropped.

        Args:
            indices: Lattice slices, 0 to P - 1.
            volume: ``self.volume``, on any device.
            intensity: HU to network input.
        """
        num_slices = len(volume) - len(self.positions) + 1
        picked = [volume[index : index + num_slices] for index in indices]
        if self.from_last:
            picked = [slab.flip(0) for slab in picked]
        if self.crops is not None:
            return [self._crop(index, slab, intensity) for index, slab in zip(indices, picked, strict=True)]
        slabs = intensity(torch.stack(picked).float())
        if self.size == self.shape[1:]:
            return slabs
        return interpolate(slabs, self.size, mode="bilinear", align_corners=False, antialias=self.smooth)

    def _crop(self, index: int, slab: torch.Tensor, intensity: Intensity) -> torch.Tensor:
        (x1, y1, x2, y2), size = (self.crops or ())[index]
        cut = intensity(slab[None, :, y1:y2, x1:x2].float())
        return interpolate(cut, size, mode="bilinear", align_corners=False, antialias=self.smooth)[0]

    def to_scan(self, index: int) -> Affine:
        """From pixels of a slab to pixels of the scan."""
        if self.crops is None:
            factor_x, factor_y = self.scale
            return Affine(1 / factor_x, 1 / factor_y)
        (x1, y1, x2, y2), (height, width) = self.crops[index]
        return Affine((x2 - x1) / width, (y2 - y1) / height, x1, y1)


@dataclass(frozen=True)
class SlabCutter:
    """Resample scans onto the lattice.

    Attributes:
        resample: ``resample(volume, positions_mm, targets_mm, dtype=...)``, linear in z and repeating the
            end slices (``scripts.data.resample_z``).
        num_slices: Slices ``D`` of a slab, odd.
        slice_spacing: Lattice spacing in mm; 2.5 in the paper.
        scale: In-plane size.
        border: Box around the body in the middle slice of a slab, to which it is cut; None keeps whole slices.
        native: Whether slices further apart than ``slice_spacing`` are read without interpolation.
        from_last: Whether slabs begin with their last slice, as networks of sets have learnt to read a CT, whose slices
            rise towards the head; False for slices in the order of a set, as of a sub-volume.
    """

    resample: Resample
    num_slices: int = 9
    slice_spacing: float = 2.5
    scale: PlaneScale = field(default_factory=PlaneScale)
    border: Callable[[np.ndarray], Box] | None = None
    native: bool = False
    from_last: bool = False

    def __post_init__(self) -> None:
        if self.num_slices < 1 or self.num_slices % 2 == 0:
            raise ValueError(f"Expected an odd number of slices, at least 1, got {self.num_slices!r}.")
        if not self.slice_spacing > 0:
            raise ValueError(f"Expected a slice spacing in mm above zero, got {self.slice_spacing!r}.")

    def __call__(self, hu: np.ndarray, spacing: tuple[float, float, float]) -> ScanSlabs:
        """Resample a scan.

        The rest of the scan, less than a lattice step, is divided between both ends in whole slices of
        the scan: the lattice begins on a stored slice, because training slabs have a stored slice at their centre.

        Args:
            hu: ``(Z, H, W)`` int16 HU.
            spacing: mm between voxel centres along x, y, z.
        """
        reach = self.num_slices // 2
        step = max(self.slice_spacing, spacing[2]) if self.native else self.slice_spacing
        last = (len(hu) - 1) * spacing[2]
        # A millionth of a slice: 25 slices of 0.1 mm make 2.4999999999999996 mm.
        count = int(last / step + 1e-6) + 1
        start = int((last / step - count + 1) * step / 2 / spacing[2] + 1e-6)
        targets = start * spacing[2] + np.arange(-reach, count + reach) * step
        volume = self.resample(hu, np.arange(len(hu)) * spacing[2], targets, dtype=np.int16)
        tissue = np.array([np.count_nonzero(plane > BODY_HU) for plane in volume[reach : reach + count]])
        shape = (hu.shape[0], hu.shape[1], hu.shape[2])
        return ScanSlabs(
            volume=torch.from_numpy(volume),
            positions=start + np.arange(count) * step / spacing[2],
            thickness=step / spacing[2],
            examined=tissue * spacing[0] * spacing[1] >= BODY_MM2,
            shape=shape,
            size=self.scale.size(shape[1:], spacing[:2]),
            # The codes that cut the border off do not smooth.
            smooth=self.scale.pixel_spacing is not None and self.border is None,
            crops=self._crops(volume[reach : reach + count], spacing[:2]),
            from_last=self.from_last,
        )

    def _crops(self, planes: np.ndarray, spacing: tuple[float, float]) -> list[tuple[Box, tuple[int, int]]] | None:
        if self.border is None:
            return None
        boxes = [self.border(plane) for plane in planes]
        return [(box, self.scale.size((box[3] - box[1], box[2] - box[0]), spacing)) for box in boxes]


Network = Callable[..., list[Instances[torch.Tensor]]]


@dataclass
class VolumeDetector(Inferer):
    """Run a slab detector over every lattice slice of a scan; a MONAI inferer.

    The network sees each slab alone: ``batch_size`` changes only the last digits of results, because the order of
    float sums changes.

    Attributes:
        cutter: Resamples a scan onto the lattice.
        intensity: HU to network input.
        batch_size: Slabs per call of the network.
        score_threshold: Boxes that score lower are not reported.
        amp_dtype: torch.bfloat16 or torch.float16 for automatic mixed precision, on CPU and GPU; torch.float32
            or None computes in full precision.
        progress: Show a progress bar with the time left.
    """

    cutter: SlabCutter
    intensity: Intensity
    batch_size: int = 4
    score_threshold: float = 0.0
    amp_dtype: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Expected a batch size of at least 1, got {self.batch_size!r}.")
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"Expected a score threshold from 0 to 1, got {self.score_threshold!r}.")

    def __call__(self, inputs: ScanLike, network: Network, *args: Any, **kwargs: Any) -> SliceBoxes:
        """Detect lesions in every slice of a scan that shows a body.

        Args:
            inputs: The scan.
            network: Slabs ``(B, D, h, w)`` to B dicts ``boxes`` ``(M, 4)`` in slab pixels, ``scores`` ``(M,)`` and any
                further fields; put into evaluation mode for the call. A module's parameters set the device. One that
                says ``reads_thickness`` gets the mm between slices as ``thickness``.
            args: Passed on to the network.
            kwargs: Passed on to the network; ``patient`` as ``patients``, once for each slab.

        Returns:
            The boxes; their ``fields`` have the class of each where the network distinguishes several
            (``num_classes``).

        Raises:
            ValueError: If the network reads another number of slices than the slabs have.
            FloatingPointError: If a score, a box or a further field is not finite.
        """
        _check_slices(network, self.cutter.num_slices)
        by_class = getattr(network, "num_classes", 1) > 1
        slabs = self.cutter(inputs.hu, inputs.spacing)
        device = _device(network)
        volume = slabs.volume.to(device)
        due = np.flatnonzero(slabs.examined).tolist()
        enabled = self.amp_dtype not in (None, torch.float32)
        precision = torch.autocast(device.type, self.amp_dtype if enabled else None, enabled=enabled)
        modules = [network] if isinstance(network, torch.nn.Module) else []
        if getattr(network, "reads_thickness", False):
            kwargs["thickness"] = slabs.thickness * inputs.spacing[2]
        patient = kwargs.pop("patient", None)
        found = []
        batches = [due[start : start + self.batch_size] for start in range(0, len(due), self.batch_size)]
        # While the network works on one batch, the next is cut.
        cut = read_ahead(partial(slabs.batch, picked, volume, self.intensity) for picked in batches)
        with eval_mode(*modules), torch.inference_mode(), precision, closing(cut), self._bar(len(due)) as bar:
            for picked, batch in zip(batches, cut, strict=True):
                if patient is not None:
                    kwargs["patients"] = [patient] * len(picked)
                outputs = network(batch, *args, **kwargs)
                found.extend(
                    self._in_scan_pixels(output if by_class else _without_labels(output), slabs, at)
                    for output, at in zip(outputs, picked, strict=True)
                )
                bar.update(len(picked))
        return _gather(slabs, due, found, by_class=by_class)

    def _bar(self, total: int) -> tqdm:
        return tqdm(total=total, desc="slices", unit="slice", disable=not self.progress, leave=True)

    def _in_scan_pixels(self, output: Instances[torch.Tensor], slabs: ScanSlabs, at: int) -> Instances[np.ndarray]:
        """The instances of one slab in pixels of the scan."""
        found = to_arrays(output)
        found = {**found, "boxes": found["boxes"].reshape(-1, 4), "scores": found["scores"].reshape(-1)}
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise FloatingPointError(
                    f"Expected finite {name}, the network returned NaN or infinity for lattice slice {at} "
                    "(damaged weights, or values too large for float16?)."
                )
        found = clip(move(found, slabs.to_scan(at)), slabs.shape[1], slabs.shape[2])
        sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
        return select(found, (found["scores"] >= self.score_threshold) & (sides > 0).all(axis=1))


def _without_labels(output: Instances[torch.Tensor]) -> Instances[torch.Tensor]:
    return {name: values for name, values in output.items() if name != LABELS}


def _check_slices(network: Any, num_slices: int) -> None:
    reads = getattr(getattr(network, "backbone", None), "num_slices", num_slices)
    if reads != num_slices:
        raise ValueError(f"Expected num_slices {reads} as in the network's weights, got {num_slices}.")


def _device(network: Any) -> torch.device:
    first = next(network.parameters(), None) if isinstance(network, torch.nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def _gather(
    slabs: ScanSlabs, due: Sequence[int], found: Sequence[Instances[np.ndarray]], *, by_class: bool
) -> SliceBoxes:
    none = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0)}
    joined = cat(found or [{**none, LABELS: np.zeros(0, dtype=np.int64)} if by_class else none])
    return SliceBoxes(
        boxes=joined["boxes"],
        scores=joined["scores"],
        slices=np.repeat(np.asarray(due, dtype=np.int64), [len(one["scores"]) for one in found]),
        positions=slabs.positions,
        thickness=slabs.thickness,
        examined=slabs.examined,
        shape=slabs.shape,
        scale=slabs.scale,
        fields=further(joined) | {name: joined[name] for name in (LABELS,) if name in joined},
    )
