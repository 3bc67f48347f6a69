"""What the boxes of a set say about the settings of a network: scale, anchors, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STRIDES = (4, 8, 16, 32, 64)
PAPER_SCALE, PAPER_ANCHORS, PAPER_RATIOS = 512, 4.0, (0.5, 1.0, 2.0)
ANCHOR_SCALES = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
RATIOS = (PAPER_RATIOS, (0.67, 1.0, 1.5), (0.33, 1.0, 3.0), (0.4, 0.7, 1.0, 1.4, 2.5))
# Other anchors than the paper's are advised where they fit so much better on average.
_WORTH_IT = 0.02
# The network halves images five times or six.
_MULTIPLE = 32
_SMALLEST_SCALE = 96
_FEW_PATIENTS = 200
_POSITIVE_IOU = 0.5
# Pixels that differ by no more than this are of one size.
_ALIKE = 1.25
# Images are crops if each edge is this close (in pixels) to one distance from the lesions in so many of them.
_CROP_PIXELS, _CROP_SHARE, _CROP_SCANS = 2.0, 0.75, 5
# Windows are halved while the smallest lesions (5 %) keep three pixels of the network's finest map.
_SMALLEST_LESION = 12.0
_SMALLEST_WINDOW = 64


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit boxes.

    Attributes:
        scale: Side of the square anchors in strides.
        ratios: Heights over widths.
        mean_iou: Mean over the boxes of the IoU with the anchor that fits best, both about one centre.
        reached: Share of the boxes with an IoU of at least 0.5.
    """

    scale: float
    ratios: tuple[float, ...]
    mean_iou: float
    reached: float


def fit_anchors(sides: np.ndarray, scale: float, ratios: Sequence[float] = PAPER_RATIOS) -> AnchorFit:
    """How well the anchors of a scale and some ratios fit boxes.

    Args:
        sides: ``(N, 2)`` width and height in pixels as the network sees them, N at least 1.
        scale: See `AnchorFit`.
        ratios: Likewise.
    """
    root = np.sqrt(np.asarray(ratios, dtype=np.float64))
    shapes = np.stack([1 / root, root], axis=1)
    anchors = (scale * np.array(STRIDES)[:, None, None] * shapes[None]).reshape(-1, 2)
    shared = np.minimum(sides[:, None, :], anchors[None]).prod(axis=2)
    iou = shared / (sides.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - shared)
    best = iou.max(axis=1)
    return AnchorFit(scale, tuple(ratios), float(best.mean()), float((best >= _POSITIVE_IOU).mean()))


@dataclass(frozen=True)
class Advice:
    """Settings for a set, and why.

    Attributes:
        image_scale: Longer side of the images for the network, in pixels.
        anchors: The anchors.
        paper: The paper's anchors at that scale, for comparison.
        num_slices: Slices of a slab.
        window: Side in stored pixels of windows at random, which become ``image_scale`` pixels, for images that are
            crops around their lesions; None for whole images.
        overlays: Names of files in ``configs/variants``.
        reasons: A sentence on each.
        pixel_spacing: mm of a pixel for all images, where their own differ; None for one size in pixels.
    """

    image_scale: int
    anchors: AnchorFit
    paper: AnchorFit
    num_slices: int
    overlays: tuple[str, ...]
    reasons: tuple[str, ...]
    window: int | None = None
    pixel_spacing: float | None = None

    def options(self) -> list[str]:
        """The advice as options of a training, two words each."""
        words = [] if self.window is None else ["--random_window", str(self.window)]
        if self.pixel_spacing is not None:
            words += ["--pixel_spacing", f"{self.pixel_spacing:g}"]
        else:
            words += ["--train_scales", f"[{self.image_scale}]", "--test_scale", str(self.image_scale)]
        if self.anchors.scale != PAPER_ANCHORS or "size_narrow" in self.overlays:
            words += ["--network_def#head#anchor_scale", f"{self.anchors.scale:g}"]
        if self.anchors.ratios != PAPER_RATIOS:
            words += ["--network_def#head#anchor_ratios", str(list(self.anchors.ratios))]
        return words


def advise(records: Mapping[str, Mapping[str, Any]]) -> Advice | None:
    """Settings for a set, from its records; None where it has no lesion.

    Args:
        records: See `scripts.data.importing.set_records`.
    """
    keys = [(record, key) for record in records.values() for key in record["keys"] if key["boxes"]]
    if not keys:
        return None
    longest = np.array([max(record["shape"][1:]) for record in records.values()], dtype=np.float64)
    window, pixels = _window(records), None
    if window is None:
        image_scale = _image_scale(longest)
        pixels = _pixel_spacing(records, image_scale)
        sides = np.concatenate([_sides(key["boxes"]) * _factor(record, image_scale, pixels) for record, key in keys])
    else:
        stored = np.concatenate([_sides(key["boxes"]) for _, key in keys]).clip(max=window)
        image_scale = _window_scale(window, stored)
        sides = stored * image_scale / window
    paper = fit_anchors(sides, PAPER_ANCHORS)
    best = max((fit_anchors(sides, scale) for scale in ANCHOR_SCALES), key=lambda fit: fit.mean_iou)
    if best.mean_iou < paper.mean_iou + _WORTH_IT:
        best = paper
    other = max(
        (fit_anchors(sides, scale, ratios) for scale in ANCHOR_SCALES for ratios in RATIOS), key=lambda f: f.mean_iou
    )
    if other.mean_iou >= best.mean_iou + _WORTH_IT and len(other.ratios) == len(PAPER_RATIOS):
        best = other
    intervals = np.array([record["spacing"][2] for record in records.values()])
    patients = len({record["patient"] for record in records.values()})
    overlays = (*(("size_narrow", "optimizer_adamw") if patients < _FEW_PATIENTS else ()), "own_data")
    slices = 9 if float(np.median(intervals)) <= 5.0 and min(r["shape"][0] for r in records.values()) > 1 else 3
    reasons = (
        _scale_reason(longest, image_scale, records, pixels)
        if window is None
        else _window_reason(window, image_scale, records),
        _anchor_reason(sides, best, paper),
        _slice_reason(intervals, records, slices),
        f"{patients} patient{'s' if patients > 1 else ''}: "
        + (
            "the narrow network (0.43 M parameters) and AdamW learn from few images and on a CPU."
            if patients < _FEW_PATIENTS
            else "enough for the full network, on a GPU."
        ),
    )
    return Advice(image_scale, best, paper, slices, overlays, reasons, window, pixels)


def _image_scale(longest: np.ndarray) -> int:
    """The median longer side in whole steps of the network, neither reduced nor enlarged much."""
    steps = max(round(float(np.median(longest)) / _MULTIPLE), 1)
    return int(np.clip(steps * _MULTIPLE, _SMALLEST_SCALE, PAPER_SCALE))


def crop_margins(records: Mapping[str, Mapping[str, Any]]) -> np.ndarray | None:
    """How far the edges of images are from their lesions, where they are crops around these.

    Args:
        records: As for `advise`.

    Returns:
        ``(4,)`` pixels to the left, upper, right and lower edge, None unless most images have the same.
    """
    rows = []
    for record in records.values():
        boxes = np.array([lesion["box"] for lesion in record["lesions"] if "box" in lesion], dtype=np.float64)
        if len(boxes):
            height, width = record["shape"][1:]
            low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
            rows.append([*low, width - high[0], height - high[1]])
    if len(rows) < _CROP_SCANS:
        return None
    middle = np.median(rows, axis=0)
    alike = (np.abs(np.array(rows) - middle) <= _CROP_PIXELS).mean(axis=0)
    return middle if (alike >= _CROP_SHARE).all() else None


def _window(records: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The largest window in whole steps of the network that fits into every image, if these are crops."""
    shortest = min(min(record["shape"][1:]) for record in records.values())
    window = shortest // _MULTIPLE * _MULTIPLE
    return window if window >= _SMALLEST_WINDOW and crop_margins(records) is not None else None


def _window_scale(window: int, sides: np.ndarray) -> int:
    scale, small = window, float(np.percentile(np.sqrt(sides.prod(axis=1)), 5))
    while scale % (2 * _MULTIPLE) == 0 and scale >= 2 * _SMALLEST_WINDOW and small / 2 >= _SMALLEST_LESION:
        scale, small = scale // 2, small / 2
    return scale


def _window_reason(window: int, scale: int, records: Mapping[str, Mapping[str, Any]]) -> str:
    margins = crop_margins(records)
    seen = np.array([edge * window / scale for record in records.values() for edge in record["spacing"][:2]])
    ends = "" if margins is None else f" end {_range(margins, 'g')} pixels from their lesions, so that the edge"
    return (
        f"Most images{ends} tells where a lesion is: windows of {window} pixels at random do not show it. Brought to "
        f"{scale}, a pixel is {_range(seen, '.2f')} mm."
    )


def _sides(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return table[:, 2:] - table[:, :2]


def _seen(records: Mapping[str, Mapping[str, Any]], scale: int) -> np.ndarray:
    """mm of the pixels of every scan, in both directions, if its longer side becomes ``scale`` pixels."""
    rows = [[edge * max(each["shape"][1:]) / scale for edge in each["spacing"][:2]] for each in records.values()]
    return np.array(rows).ravel()


def _pixel_spacing(records: Mapping[str, Mapping[str, Any]], scale: int) -> float | None:
    """The median of the pixels that a scale makes, if they differ."""
    seen = _seen(records, scale)
    return None if seen.max() <= _ALIKE * seen.min() else float(f"{np.median(seen):.2g}")


def _factor(record: Mapping[str, Any], scale: int, pixels: float | None) -> np.ndarray:
    """Pixels of the network for each stored one, along x and y."""
    if pixels is not None:
        return np.array(record["spacing"][:2]) / pixels
    return np.full(2, scale / max(record["shape"][1:]))


def _scale_reason(
    longest: np.ndarray, scale: int, records: Mapping[str, Mapping[str, Any]], pixels: float | None
) -> str:
    seen = _range(_seen(records, scale), ".2f")
    if pixels is None:
        return f"Images of {_range(longest, 'g')} pixels, brought to {scale}: a pixel is {seen} mm."
    return (
        f"Images of {_range(longest, 'g')} pixels, brought to one size, would have pixels of {seen} mm: lesions would "
        f"look larger in smaller images. All are brought to pixels of {pixels:g} mm instead. Crops about a lesion "
        "still show where it is by their size."
    )


def _range(values: np.ndarray, form: str) -> str:
    """The smallest and the largest of some numbers, or their single value."""
    low, high = (format(float(value), form) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _anchor_reason(sides: np.ndarray, best: AnchorFit, paper: AnchorFit) -> str:
    low, middle, high = np.percentile(np.sqrt(sides.prod(axis=1)), [5, 50, 95])
    flat, tall = np.percentile(sides[:, 1] / sides[:, 0], [5, 95])
    return (
        f"In pixels as the network sees them nine of ten boxes measure {low:.0f} to {high:.0f} (median {middle:.0f}), "
        f"their height over width is {flat:.2f} to {tall:.2f}. Anchors of {best.scale:g} strides and ratios "
        f"{', '.join(f'{r:g}' for r in best.ratios)} overlap them by {best.mean_iou:.2f} on average, "
        f"{100 * best.reached:.0f} % of them by at least 0.5; the paper's (4 strides) by {paper.mean_iou:.2f}, "
        f"{100 * paper.reached:.0f} % of them by at least 0.5."
    )


def _slice_reason(intervals: np.ndarray, records: Mapping[str, Mapping[str, Any]], slices: int) -> str:
    heights = [lesion["size_mm"][2] for r in records.values() for lesion in r["lesions"] if lesion["form"] != "slices"]
    tall = f" Lesions are {np.median(heights):.0f} mm high (median)." if heights else ""
    return (
        f"Slices {_range(intervals, '.2f')} mm apart: {slices} slices, 2.5 mm apart, show "
        f"{(slices - 1) * 2.5:g} mm.{tall}"
    )
