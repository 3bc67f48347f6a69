"""Instances: the boxes of one image and everything known about each box, one row per box.

``boxes`` ``(N, 4)`` are slab-frame boxes. Next to them are any fields by name, arrays or tensors of N rows:
``labels``, ``scores``, ``noisy``, ``tags``, ``masks`` ... An image without boxes has fields with 0 rows. Code that
selects, joins, moves, clips or writes boxes uses this module, and so keeps every field without knowing its name.

`RULES` says how fields of position or size follow their image. All other fields stay unchanged.

All functions take ``numpy.ndarray`` or ``torch.Tensor`` and leave their arguments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import grid_sample
from torchvision.ops import roi_align

from .boxes import Affine, ArrayT, check_boxes, join, warp_points
from .boxes import clip as clip_boxes
from .boxes import move as move_boxes
from .boxes import warp as warp_boxes

Instances = dict[str, ArrayT]

# The fields of every detector; all other fields of its detections are additional.
STANDARD = ("boxes", "scores", "labels")

# Field of truth, bool: the box is a region in which nothing is known, neither a lesion nor background.
IGNORED = "ignored"


def _stay(values: Any, *_: Any) -> Any:
    return values


@dataclass(frozen=True)
class Rule:
    """How the values of a field follow their image.

    Attributes:
        move: Values ``(N, ...)`` and the `Affine` of the image to new values.
        reframe: Values, the boxes ``(N, 4)`` they belong to, and the boxes after clipping, to new values.
        warp: Values, a matrix ``(2, 3)`` that moves, scales and turns the image, the boxes they belong to, and the
            boxes after it, to new values.
    """

    move: Callable[[Any, Affine], Any] = _stay
    reframe: Callable[[Any, Any, Any], Any] = _stay
    warp: Callable[[Any, np.ndarray, Any, Any], Any] = _stay


def _move_grids(grids: ArrayT, by: Affine) -> ArrayT:
    axes = tuple(axis for axis, factor in ((-1, by.scale_x), (-2, by.scale_y)) if factor < 0)
    return grids.flip(axes) if isinstance(grids, torch.Tensor) else np.flip(grids, axes)  # type: ignore[return-value, arg-type]


def _reframe_grids(grids: ArrayT, old: ArrayT, new: ArrayT) -> ArrayT:
    """Resample grids ``(N, h, w)`` from the boxes ``old`` to the boxes ``new``, bilinearly."""
    values, before, after = (torch.as_tensor(each) for each in (grids, old, new))
    if values.shape[0] == 0 or torch.equal(before, after):
        return grids
    height, width = values.shape[-2:]
    cells = before.new_tensor([width, height] * 2)
    corner, sides = before[:, [0, 1, 0, 1]], (before[:, 2:] - before[:, :2]).clamp(min=1e-6)
    rows = torch.arange(len(before), dtype=before.dtype, device=before.device)[:, None]
    rois = torch.cat([rows, (after - corner) / sides.repeat(1, 2) * cells], dim=1)
    read = roi_align(values[:, None].to(before.dtype), rois, (height, width), aligned=True)[:, 0]
    read = read >= 0.5 if values.dtype == torch.bool else read.to(values.dtype)
    return read if isinstance(grids, torch.Tensor) else read.numpy()  # type: ignore[return-value]


def _move_points(points: ArrayT, by: Affine) -> ArrayT:
    return join(points[..., 0] * by.scale_x + by.shift_x, points[..., 1] * by.scale_y + by.shift_y)


def _move_lengths(lengths: ArrayT, by: Affine) -> ArrayT:
    return lengths * abs(by.scale_x * by.scale_y) ** 0.5


def _warp_grids(grids: ArrayT, matrix: np.ndarray, old: ArrayT, new: ArrayT) -> ArrayT:
    """Read grids ``(N, h, w)``, laid over the boxes ``old``, anew over the boxes ``new`` of the moved image."""
    values, before, after = (torch.as_tensor(each) for each in (grids, old, new))
    if values.shape[0] == 0:
        return grids
    height, width = values.shape[-2:]
    rows, columns = (torch.arange(n, dtype=torch.float64).add(0.5) / n for n in (height, width))
    cells = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    before, after = before.double()[:, None, None], after.double()[:, None, None]
    places = after[..., :2] + cells * (after[..., 2:] - after[..., :2])
    back = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))[:2]
    inside = (warp_points(places, back) - before[..., :2]) / (before[..., 2:] - before[..., :2]).clamp(min=1e-6)
    read = grid_sample(values[:, None].double(), 2 * inside - 1, align_corners=False)[:, 0]
    read = read >= 0.5 if values.dtype == torch.bool else read.to(values.dtype)
    return read if isinstance(grids, torch.Tensor) else read.numpy()  # type: ignore[return-value]


def _warp_points(points: ArrayT, matrix: np.ndarray, *_: Any) -> ArrayT:
    return warp_points(points, matrix)


def _warp_lengths(lengths: ArrayT, matrix: np.ndarray, *_: Any) -> ArrayT:
    return lengths * float(abs(np.linalg.det(np.asarray(matrix)[:, :2]))) ** 0.5


# A new field of position or size is a new line here.
RULES: dict[str, Rule] = {
    "boxes": Rule(move_boxes),
    # (N, h, w): a grid of any size laid over the box, independent of the size of the box.
    "masks": Rule(_move_grids, _reframe_grids, _warp_grids),
    # (N, K, 2): x and y in pixels, for example the four ends of the two RECIST diameters.
    "recist": Rule(_move_points, warp=_warp_points),
    # (N, 4, 2): x and y in pixels, the ends of the long axis and those of the short one.
    "axes": Rule(_move_points, warp=_warp_points),
    # (N, K): lengths in pixels, long and short axis.
    "diameters": Rule(_move_lengths, warp=_warp_lengths),
}


def num_instances(instances: Mapping[str, ArrayT]) -> int:
    """Number of boxes."""
    return len(instances["boxes"])


def check(instances: Mapping[str, Any], where: str = "instances") -> None:
    """Check that instances have legal boxes, and every field a row for each of them.

    Args:
        instances: ``boxes`` and any fields.
        where: What they belong to, for the error message.

    Raises:
        ValueError: If the boxes are illegal (see `check_boxes`), or a field is not an array of as many rows.
    """
    if not isinstance(instances.get("boxes"), (np.ndarray, torch.Tensor)):
        raise ValueError(f"Expected an array or tensor 'boxes', got keys {sorted(instances)} in {where}.")
    check_boxes(instances["boxes"], where)
    check_rows(instances, len(instances["boxes"]), where)


def check_rows(fields: Mapping[str, Any], count: int, where: str) -> None:
    """Check that every field has ``count`` rows.

    Raises:
        ValueError: Naming the first field that is not an array, or has another number of rows.
    """
    for name, values in fields.items():
        shape = getattr(values, "shape", None)
        if shape is None or len(shape) == 0 or shape[0] != count:
            got = type(values).__name__ if shape is None else f"shape {tuple(shape)}"
            raise ValueError(
                f"Expected {name} as an array with one row for each of {count} boxes, got {got} in {where}."
            )


def further(instances: Mapping[str, ArrayT]) -> Instances[ArrayT]:
    """The fields of detections without those that every detector gives (`STANDARD`)."""
    return {name: values for name, values in instances.items() if name not in STANDARD}


def select(instances: Mapping[str, ArrayT], rows: Any) -> Instances[ArrayT]:
    """Some of the instances.

    Args:
        instances: N of them.
        rows: Indices in any order, ``(N,)`` bool, or a slice.
    """
    return {name: values[rows] for name, values in instances.items()}  # type: ignore[misc]


def cat(parts: Sequence[Mapping[str, ArrayT]]) -> Instances[ArrayT]:
    """Join the instances of several images or parts of one, in their order.

    Raises:
        ValueError: If there are no parts, or one has other fields than the first.
    """
    if not parts:
        raise ValueError("Expected at least one part to join, got none.")
    for index, part in enumerate(parts):
        if set(part) != set(parts[0]):
            raise ValueError(
                f"Expected the fields {sorted(parts[0])} in every part, got {sorted(part)} in part {index}."
            )
    joined: Any = {
        name: torch.cat([part[name] for part in parts])  # type: ignore[misc]
        if isinstance(first, torch.Tensor)
        else np.concatenate([part[name] for part in parts])
        for name, first in parts[0].items()
    }
    return joined


def map_boxes(instances: Mapping[str, ArrayT], function: Callable[[ArrayT], ArrayT]) -> Instances[ArrayT]:
    """The instances with ``function`` of their boxes ``(N, 4)``; for changes of frame that do not move pixels."""
    return {**instances, "boxes": function(instances["boxes"])}


def move(instances: Mapping[str, ArrayT], by: Affine) -> Instances[ArrayT]:
    """Move instances with their image, every field by its rule."""
    return {name: RULES[name].move(values, by) if name in RULES else values for name, values in instances.items()}


def clip(instances: Mapping[str, ArrayT], height: float, width: float) -> Instances[ArrayT]:
    """Clip boxes to an image of ``height`` x ``width`` pixels, every field by its rule (number of boxes kept)."""
    old = instances["boxes"]
    new = clip_boxes(old, height, width)
    fields = {
        name: RULES[name].reframe(values, old, new) if name in RULES else values for name, values in instances.items()
    }
    return {**fields, "boxes": new}


def warp(instances: Mapping[str, ArrayT], matrix: np.ndarray) -> Instances[ArrayT]:
    """Move, scale and turn instances with their image, every field by its rule.

    Args:
        instances: Boxes become the upright boxes around the moved ones.
        matrix: ``(2, 3)`` from old to new places ``(x, y, 1)`` in pixels.
    """
    old = instances["boxes"]
    new = warp_boxes(old, matrix)
    fields = {
        name: RULES[name].warp(values, matrix, old, new) if name in RULES else values
        for name, values in instances.items()
    }
    return {**fields, "boxes": new}


def to(instances: Mapping[str, Any], device: torch.device | str | None = None) -> Instances[torch.Tensor]:
    """Plain tensors on a device, from arrays or tensors, each of its own dtype."""
    return {
        name: torch.as_tensor(np.array(v) if isinstance(v, np.ndarray) else v).to(device)
        for name, v in instances.items()
    }


def to_arrays(instances: Mapping[str, Any]) -> Instances[np.ndarray]:
    """NumPy arrays, floating-point ones as float64, because NumPy lacks some of the types that networks run in."""
    tensors = {name: torch.as_tensor(values).detach() for name, values in instances.items()}
    return {name: (v.double() if v.is_floating_point() else v).cpu().numpy() for name, v in tensors.items()}


def true_rows(instances: Mapping[str, ArrayT]) -> ArrayT:
    """Which rows are lesions, ``(N,)`` bool: all but those that the field `IGNORED` marks as a region to ignore."""
    # Without the field, a comparison that holds for every row, in the library of the boxes.
    first: Any = instances["boxes"][:, 0]
    return first == first if IGNORED not in instances else instances[IGNORED] == 0  # type: ignore[return-value]
