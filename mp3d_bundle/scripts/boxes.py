"""Box frames and box geometry: the one home of every conversion between coordinate frames.

The project's own frame is the *slab frame*: ``(N, 4)`` floats ``x1, y1, x2, y2`` in pixels, 0-based,
``x`` along the last axis (columns), edges half-open, so that a box's width is ``x2 - x1``. An image
without lesions has boxes of shape ``(0, 4)``. Every other frame exists only inside the function that
converts it.

All functions take and return either a ``numpy.ndarray`` or a ``torch.Tensor``, keep the dtype, and
never change their argument.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import torch

ArrayT = TypeVar("ArrayT", np.ndarray, torch.Tensor)

# DeepLesion's bounding boxes are the RECIST end points padded by this many pixels on every side.
RECIST_PADDING = 5.0


def join(*columns: ArrayT) -> ArrayT:
    """Put columns ``(...)`` side by side as ``(..., len(columns))``, for NumPy and PyTorch alike."""
    if isinstance(columns[0], torch.Tensor):
        return torch.stack(columns, dim=-1)  # type: ignore[return-value, arg-type]
    return np.stack(columns, axis=-1)  # type: ignore[return-value]


def check_boxes(boxes: np.ndarray | torch.Tensor, where: str = "boxes") -> None:
    """Check that ``boxes`` is a legal array of slab-frame boxes.

    Args:
        boxes: ``(N, 4)`` boxes ``x1, y1, x2, y2``; ``(0, 4)`` is legal.
        where: What the boxes belong to (file, series, row), for the error message.

    Raises:
        ValueError: If the shape is not ``(N, 4)``, a value is not finite, or a box has ``x2 <= x1``
            or ``y2 <= y1``. The message names the first bad box.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"Expected boxes of shape (N, 4), got {tuple(boxes.shape)} in {where}.")
    values = np.asarray(boxes.detach().cpu() if isinstance(boxes, torch.Tensor) else boxes, dtype=np.float64)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"Expected finite box coordinates, got {values[row].tolist()} as box {row} in {where}.")
    upright = (values[:, 2] > values[:, 0]) & (values[:, 3] > values[:, 1])
    if not upright.all():
        row = int(np.flatnonzero(~upright)[0])
        raise ValueError(
            f"Expected boxes with x1 < x2 and y1 < y2, got {values[row].tolist()} as box {row} in {where}."
        )


def from_coco(boxes: ArrayT) -> ArrayT:
    """Convert COCO boxes ``(N, 4)`` ``x, y, width, height`` (0-based) to the slab frame."""
    x, y, width, height = (boxes[..., column] for column in range(4))
    return join(x, y, x + width, y + height)


def to_coco(boxes: ArrayT) -> ArrayT:
    """Convert slab-frame boxes ``(N, 4)`` to COCO's ``x, y, width, height``."""
    x1, y1, x2, y2 = (boxes[..., column] for column in range(4))
    return join(x1, y1, x2 - x1, y2 - y1)


def swap_axes(boxes: ArrayT) -> ArrayT:
    """Swap the two image axes of ``(N, 4)`` boxes: slab frame <-> MONAI's array-axis order.

    MONAI's 2D boxes name the first array axis first (rows, then columns); the slab frame names columns
    first. The conversion is its own inverse.
    """
    return boxes[..., [1, 0, 3, 2]]


class Affine(NamedTuple):
    """How an image was moved, in pixels: ``x -> scale_x * x + shift_x``, and likewise y; a negative scale mirrors."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0


def move(boxes: ArrayT, by: Affine) -> ArrayT:
    """Move ``(N, 4)`` slab-frame boxes with their image."""
    x1, x2 = (boxes[..., column] * by.scale_x + by.shift_x for column in ((0, 2) if by.scale_x > 0 else (2, 0)))
    y1, y2 = (boxes[..., column] * by.scale_y + by.shift_y for column in ((1, 3) if by.scale_y > 0 else (3, 1)))
    return join(x1, y1, x2, y2)


def warp(boxes: ArrayT, matrix: np.ndarray) -> ArrayT:
    """The upright boxes ``(N, 4)`` around boxes whose corners are moved by ``matrix`` ``(2, 3)``, see `warp_points`."""
    x1, y1, x2, y2 = (boxes[..., column] for column in range(4))
    corners = join(join(x1, x2, x2, x1), join(y1, y1, y2, y2))
    moved = warp_points(corners, matrix)
    x, y = (
        moved[..., axis].sort(-1)[0] if isinstance(moved, torch.Tensor) else np.sort(moved[..., axis])
        for axis in (0, 1)
    )
    return join(x[..., 0], y[..., 0], x[..., -1], y[..., -1])


def warp_points(points: ArrayT, matrix: np.ndarray) -> ArrayT:
    """Move points ``(..., 2)``, x and y in pixels, by ``matrix`` ``(2, 3)``: from old to new places ``(x, y, 1)``."""
    (a, b, c), (d, e, f) = np.asarray(matrix, dtype=np.float64).tolist()
    x, y = points[..., 0], points[..., 1]
    return join(a * x + b * y + c, d * x + e * y + f)


def scale(boxes: ArrayT, factor_x: float, factor_y: float) -> ArrayT:
    """Scale ``(N, 4)`` slab-frame boxes with an image resized by ``factor_x`` and ``factor_y`` (new / old)."""
    return move(boxes, Affine(factor_x, factor_y))


def clip(boxes: ArrayT, height: float, width: float) -> ArrayT:
    """Clip ``(N, 4)`` slab-frame boxes to an image of ``height`` x ``width`` pixels (number of boxes kept)."""
    x1, y1, x2, y2 = (boxes[..., column] for column in range(4))
    return join(x1.clip(0, width), y1.clip(0, height), x2.clip(0, width), y2.clip(0, height))


def area(boxes: ArrayT) -> ArrayT:
    """Area of ``(N, 4)`` slab-frame boxes in square pixels, ``(N,)``."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(boxes: np.ndarray, others: np.ndarray, extra: float = 0.0) -> np.ndarray:
    """Intersection over union of every pair of boxes, in float64.

    Args:
        boxes: ``(M, 4)`` slab-frame boxes.
        others: ``(N, 4)`` slab-frame boxes.
        extra: Pixels added to every width and height: 0 for continuous coordinates (the released MP3D
            code), 1 for inclusive pixel coordinates (MULAN, 3DCE).

    Returns:
        ``(M, N)`` float64 in [0, 1]; a pair without area gives 0.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    left_top = np.maximum(boxes[:, None, :2], others[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(right_bottom - left_top + extra, 0.0)
    overlap = sides[..., 0] * sides[..., 1]
    sizes = np.prod(boxes[:, 2:] - boxes[:, :2] + extra, axis=1)
    other_sizes = np.prod(others[:, 2:] - others[:, :2] + extra, axis=1)
    union = sizes[:, None] + other_sizes[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def pairwise_share(boxes: np.ndarray, others: np.ndarray, extra: float = 0.0) -> np.ndarray:
    """Intersection of every pair of boxes over the area of the first one, in float64.

    Args:
        boxes: ``(M, 4)`` slab-frame boxes.
        others: ``(K, 4)`` slab-frame boxes.
        extra: As in `pairwise_iou`.

    Returns:
        ``(M, K)`` float64 in [0, 1]; a box without area gives 0.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    overlap = np.maximum(np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - low + extra, 0.0).prod(axis=-1)
    sizes = np.broadcast_to(np.prod(boxes[:, 2:] - boxes[:, :2] + extra, axis=1)[:, None], overlap.shape)
    return np.divide(overlap, sizes, out=np.zeros_like(overlap), where=sizes > 0)
