"""From records to the samples that networks are trained and evaluated on: transforms, and the seeded data set.

The order is that of the released code: `LoadSlabd`, `IntensityWindowd` (clipping comes before resizing, so
that padding of -3024 HU does not bleed into the body), `RandResizeSlabd`, `RandFlipSlabd`, and `ClipBoxesd`
for training only: scores are taken on the boxes as labelled.

A *sample* (`scripts.data.records.Sample`) is a record with pixels, its instances as tensors. Each transform returns a
new dict and leaves its argument alone.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import RandomizableTransform, Transform

from ..boxes import Affine
from ..instances import clip, move, select, to
from .intensity import IntensityWindow
from .records import ImageRecord, Sample
from .scaling import pixel_size
from .slabs.slab_reader import SlabReader, blend_on

__all__ = [
    "AXES",
    "ClipBoxesd",
    "FlipSlabd",
    "IntensityWindowd",
    "LoadSlabd",
    "RandFlipSlabd",
    "RandResizeSlabd",
    "ResizeSlabd",
    "Sample",
    "SampleDataset",
    "flip_slab",
    "resize_slab",
]

logger = logging.getLogger(__name__)

AXES = ("horizontal", "vertical", "z")


class LoadSlabd(Transform):
    """Read the slab of a record: the deterministic part, suitable for MONAI's `PersistentDataset`.

    Args:
        reader: Reads ``(D, H, W)`` float32 HU (or grey levels of a photograph) for a record: a `SlabReader`, or
            a `scripts.data.coco.colour_slabs.ColourSlabReader`.
        dtype: ``"float32"`` for exact interpolation, or ``"int16"`` to round to whole HU, which halves the
            memory and disk of a cache.

    Raises:
        ValueError: If the dtype is another one.
    """

    def __init__(self, reader: Callable[[Any], np.ndarray], *, dtype: str = "float32") -> None:
        if dtype not in ("float32", "int16"):
            raise ValueError(f"Expected the dtype float32 or int16, got {dtype!r}.")
        self.reader = reader
        self.dtype = dtype

    def __call__(self, record: ImageRecord) -> Sample:
        """Return the sample of ``record``, its ``image`` in HU.

        Raises:
            FileNotFoundError: If a slice does not exist.
            ValueError: If a slice cannot be used, or its size is not the one in the labels.
        """
        slab = self.reader(record)
        return self.sample(record, torch.from_numpy(np.rint(slab).astype(np.int16) if self.dtype == "int16" else slab))

    def sample(self, record: ImageRecord, image: torch.Tensor) -> Sample:
        """The sample of ``record`` with ``image`` ``(D, H, W)``; see a call."""
        height, width = image.shape[1:]
        # Square in all of DeepLesion, so nothing shows which side its sizes name first.
        if sorted(record["image_size"]) != sorted((height, width)):
            raise ValueError(
                f"Expected an image of {tuple(record['image_size'])} pixels as in its labels, got {(height, width)} "
                f"in {record['image']}."
            )
        changes = {
            "image": image,
            "image_size": (height, width),
            "scale_factor": torch.ones(2, dtype=torch.float32),
            "instances": to(record["instances"]),
            **({"thickness": self.reader.thickness(record)} if hasattr(self.reader, "thickness") else {}),
        }
        return cast(Sample, {**record, **changes})


class IntensityWindowd(Transform):
    """Turn HU into network values, see `IntensityWindow`.

    Args:
        window: The window; the paper's if None.
    """

    def __init__(self, window: IntensityWindow | None = None) -> None:
        self.window = IntensityWindow() if window is None else window

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample with its image normalised, float32."""
        return {**sample, "image": self.window(sample["image"])}


def _checked_pixels(size: float | None) -> float | None:
    if size is not None and not (math.isfinite(size) and size > 0):
        raise ValueError(f"Expected a pixel size in mm above zero, or None, got {size!r}.")
    return size


def _checked_scale(scale: int) -> int:
    """Return ``scale`` if it is a whole number of pixels, at least 1; raise ValueError otherwise."""
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise ValueError(f"Expected a scale of at least 1 pixel, got {scale!r}.")
    return scale


def _checked_axis(axis: str) -> str:
    """Return ``axis`` if it is one of `AXES`; raise ValueError otherwise."""
    if axis not in AXES:
        raise ValueError(f"Expected one of the axes {', '.join(AXES)}, got {axis!r}.")
    return axis


def resize_slab(sample: Sample, scale: int, pixel_spacing: float | None = None) -> Sample:
    """Resize a sample so that its longer side has ``scale`` pixels, keeping the aspect ratio, or to one pixel size.

    Sides are rounded to the nearest pixel and boxes follow the rounded sides, as in mmdetection. Bilinear,
    with half-pixel centres and without low-pass filter, slice by slice.

    Args:
        sample: ``image`` ``(D, H, W)`` of floats, ``instances`` and ``scale_factor`` are changed.
        scale: Longer side in pixels, at least 1.
        pixel_spacing: mm of a pixel; ``scale`` has no effect then. The sample must have its ``spacing`` (x, y) in mm.

    Raises:
        ValueError: If the image is not ``(D, H, W)`` floats: integers must be windowed first; or it has no spacing.
    """
    image = sample["image"]
    if image.ndim != 3 or not image.is_floating_point():
        raise ValueError(f"Expected a slab (D, H, W) of floats to resize, got {tuple(image.shape)} {image.dtype}.")
    height, width = image.shape[-2:]
    across = down = scale / max(height, width)
    if pixel_spacing is not None:
        across, down = (edge / pixel_spacing for edge in pixel_size(sample))
    new_height, new_width = max(int(height * down + 0.5), 1), max(int(width * across + 0.5), 1)
    factor_x, factor_y = new_width / width, new_height / height
    if (new_height, new_width) != (height, width):
        image = torch.nn.functional.interpolate(
            image[None], size=(new_height, new_width), mode="bilinear", align_corners=False
        )[0]
    return {
        **sample,
        "image": image,
        "instances": move(sample["instances"], Affine(factor_x, factor_y)),
        "scale_factor": sample["scale_factor"] * torch.tensor([factor_x, factor_y], dtype=torch.float32),
    }


def flip_slab(sample: Sample, axis: str) -> Sample:
    """Flip a sample's ``image`` ``(D, H, W)`` and ``instances``.

    Args:
        sample: The sample.
        axis: ``"horizontal"`` (left to right), ``"vertical"`` (top to bottom) or ``"z"`` (order of slices,
            which leaves instances as they are; the key slice stays in the centre).

    Raises:
        ValueError: If the axis is another one, or the number of slices is even in a flip of z.
    """
    image, instances = sample["image"], sample["instances"]
    depth, height, width = image.shape
    if axis == "horizontal":
        return {**sample, "image": image.flip(-1), "instances": move(instances, Affine(scale_x=-1, shift_x=width))}
    if axis == "vertical":
        return {**sample, "image": image.flip(-2), "instances": move(instances, Affine(scale_y=-1, shift_y=height))}
    if depth % 2 == 0:
        raise ValueError(f"Expected an odd number of slices to flip in z, got {depth}.")
    return {**sample, "image": image.flip(-3)}


class ResizeSlabd(Transform):
    """Resize every sample to one scale (512 for testing in the paper) or to one pixel size, see `resize_slab`.

    Args:
        scale: Longer side in pixels.
        pixel_spacing: mm of a pixel, for networks that were trained at one pixel size; ``scale`` has no effect then.

    Raises:
        ValueError: If the scale is not at least 1, or the pixel size not above zero.
    """

    def __init__(self, scale: int = 512, pixel_spacing: float | None = None) -> None:
        self.scale = _checked_scale(scale)
        self.pixel_spacing = _checked_pixels(pixel_spacing)

    def __call__(self, sample: Sample) -> Sample:
        """Return the resized sample."""
        return resize_slab(sample, self.scale, self.pixel_spacing)


class RandResizeSlabd(RandomizableTransform):
    """Resize each sample to one scale chosen at random with equal chances, see `resize_slab`.

    Args:
        scales: Longer sides in pixels (448, 512 and 576 in the released code).
        pixel_spacing: mm of a pixel at the middle one of the scales, whatever the size of the images; the others make
            pixels smaller or larger by as much as they differ from it. None for longer sides.

    Raises:
        ValueError: If no scale is given, one is not at least 1, or the pixel size is not above zero.
    """

    def __init__(self, scales: Sequence[int] = (448, 512, 576), pixel_spacing: float | None = None) -> None:
        super().__init__(prob=1.0)
        if not scales:
            raise ValueError("Expected at least one scale to draw from, got none.")
        self.scales = tuple(_checked_scale(scale) for scale in scales)
        self.scale = self.scales[0]
        self.pixel_spacing = _checked_pixels(pixel_spacing)

    def randomize(self, data: Any | None = None) -> None:
        """Draw `scale`."""
        self.scale = self.scales[self.R.randint(len(self.scales))]

    def __call__(self, sample: Sample, randomize: bool = True) -> Sample:
        """Return the resized sample; without ``randomize`` the last scale is used again."""
        if randomize:
            self.randomize()
        if self.pixel_spacing is None:
            return resize_slab(sample, self.scale)
        middle = sorted(self.scales)[len(self.scales) // 2]
        return resize_slab(sample, self.scale, self.pixel_spacing * middle / self.scale)


class FlipSlabd(Transform):
    """Flip every sample, see `flip_slab`.

    Args:
        axis: ``"horizontal"``, ``"vertical"`` or ``"z"``.

    Raises:
        ValueError: If the axis is another one.
    """

    def __init__(self, axis: str) -> None:
        self.axis = _checked_axis(axis)

    def __call__(self, sample: Sample) -> Sample:
        """Return the flipped sample."""
        return flip_slab(sample, self.axis)


class RandFlipSlabd(RandomizableTransform):
    """Flip a sample with some probability, see `flip_slab`.

    The released code flips horizontally and in z, each with 0.5; the paper names horizontal and vertical flips
    (section 3.1).

    Args:
        axis: ``"horizontal"``, ``"vertical"`` or ``"z"``.
        prob: Probability in [0, 1]; 0 switches the flip off.

    Raises:
        ValueError: If the axis is another one, or the probability is not in [0, 1].
    """

    def __init__(self, axis: str, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"Expected a probability from 0 to 1, got {prob!r}.")
        super().__init__(prob=prob)
        self.axis = _checked_axis(axis)

    @property
    def flips(self) -> bool:
        """Whether the last draw was for a flip."""
        return self._do_transform

    def __call__(self, sample: Sample, randomize: bool = True) -> Sample:
        """Return the sample, flipped or not; without ``randomize`` the last draw is used again."""
        if randomize:
            self.randomize(None)
        return flip_slab(sample, self.axis) if self.flips else {**sample}


class ClipBoxesd(Transform):
    """Clip boxes to the image and drop those that are left too small, for training.

    Boxes less than a pixel wide or high, or wholly outside, are not targets in the released code.
    Each image that loses boxes is logged once per process.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample with its instances clipped and filtered; the result may be empty."""
        height, width = sample["image"].shape[-2:]
        clipped = clip(sample["instances"], height, width)
        sides = clipped["boxes"][:, 2:] - clipped["boxes"][:, :2]
        keep = (sides >= 1).all(dim=1)
        dropped = int((~keep).sum())
        if dropped and sample["file_name"] not in self._told:
            self._told.add(sample["file_name"])
            logger.warning(
                "%s: %d of %d boxes are not used in training: less than 1 pixel(s) wide or high in the image.",
                sample["file_name"],
                dropped,
                len(keep),
            )
        return {**sample, "instances": select(clipped, keep)}


# They compute with torch alone, on whichever device the slab is.
_ON_ANY_DEVICE = (IntensityWindowd, ResizeSlabd, RandResizeSlabd, FlipSlabd, RandFlipSlabd, ClipBoxesd)
# What a sample carries that is to be finished on the device: the seed of its random numbers, and its blends.
_SEED, _BLENDS = "transform_seed", "blends"


class SampleDataset(Dataset):
    """Records and their transforms, with random numbers that depend on (seed, epoch, index) alone.

    So the same epoch gives the same samples whatever the number of workers, and a run that was
    interrupted resumes with exactly the samples it would have had. Each sample carries its untouched
    record under ``record``, and under ``seed`` the seed of the random choice of its boxes in training.

    With ``deferred`` the loader only reads, and `finish` does the rest on the device of the network: the transforms at
    the end that compute with torch alone, and the blending of slices where a `LoadSlabd` with a `SlabReader` is all
    that comes before. The loader then hands over the stored slices as int16; the samples are the same.

    Args:
        data: Records.
        transform: Transform, or sequence of transforms, of one record.
        seed: Seed of the run.
        deferred: Whether `finish` has to be called.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Sequence[Callable] | Callable | None = None,
        *,
        seed: int = 0,
        deferred: bool = False,
    ) -> None:
        super().__init__(data, transform)
        self.seed = seed
        self.deferred = deferred
        # Shared memory: workers that outlive an epoch see the new number too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        steps = self.transform.transforms
        waiting = itertools.takewhile(lambda step: deferred and isinstance(step, _ON_ANY_DEVICE), reversed(steps))
        self._start = len(steps) - len(list(waiting))

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of ``epoch`` (1-based) for the samples read from now on."""
        self._epoch[0] = epoch

    def finish(self, sample: Sample, device: torch.device | str | None, *, non_blocking: bool = False) -> Sample:
        """Do on ``device``, where the slab then is, what is left to do; a finished sample stays as it is."""
        if _SEED not in sample:
            return sample
        rest: dict[str, Any] = dict(sample)
        rest["image"] = rest["image"].to(device, non_blocking=non_blocking)
        if _BLENDS in rest:
            rest["image"] = blend_on(rest["image"], rest.pop(_BLENDS))
        return self._apply(rest, rest.pop(_SEED), start=self._start)

    def _transform(self, index: int) -> Any:
        record = self.data[index]
        sequence = np.random.SeedSequence((self.seed, int(self._epoch[0]), index))
        seed, of_boxes = (int(number) for number in sequence.generate_state(2))
        load = self.transform.transforms[0] if self.deferred and self._start == 1 else None
        if isinstance(load, LoadSlabd) and isinstance(load.reader, SlabReader) and load.dtype == "float32":
            slices, blends = load.reader.read_slices(record)
            sample: Any = {**load.sample(record, torch.from_numpy(np.stack(slices))), _BLENDS: blends}
        else:
            sample = self._apply(record, seed, end=self._start)
        return {**sample, **({_SEED: seed} if self.deferred else {}), "record": record, "seed": of_boxes}

    def _apply(self, data: Any, seed: int, start: int = 0, end: int | None = None) -> Any:
        self.transform.set_random_state(seed=seed)
        try:
            return self.transform(data, start=start, end=end)
        except RuntimeError as error:
            # MONAI hides the reader's own message, which names the file, behind the transform's name.
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None
