"""RoIAlign with a faster backward pass on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torchvision.ops
from torch import Tensor
from torch.autograd.function import once_differentiable

# Cells of the largest map for which products of matrices were faster (docs/performance.md).
LARGEST_MAP = 64 * 64
# Boxes in one product, which bounds its memory: 59 MB for 256 channels of a map of that size.
AT_ONCE = 128


def roi_align(level_map: Tensor, rois: Tensor, cells: int, scale: float) -> Tensor:
    """torchvision's RoIAlign, half-pixel aligned, with adaptive sampling: the same values.

    Its backward pass on a CPU adds pixel by pixel in one thread. On maps that are not large it is two products of
    matrices here, whose gradients are the same but for the order of sums.

    Args:
        level_map: ``(B, C, h, w)``.
        rois: ``(R, 5)``: row of the map and ``x1, y1, x2, y2``, in pixels of the image; they get no gradient.
        cells: Side of a crop.
        scale: Cells of the map per pixel.

    Returns:
        ``(R, C, cells, cells)``.
    """
    learns = torch.is_grad_enabled() and level_map.requires_grad and not torch.compiler.is_compiling()
    if learns and level_map.device.type == "cpu" and level_map[0, 0].numel() <= LARGEST_MAP:
        return _RoiAlign.apply(level_map, rois, cells, scale)  # type: ignore[return-value]
    return _forward(level_map, rois, cells, scale)


def _forward(level_map: Tensor, rois: Tensor, cells: int, scale: float) -> Tensor:
    return torchvision.ops.roi_align(level_map, rois, cells, scale, sampling_ratio=0, aligned=True)


class _RoiAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, level_map: Tensor, rois: Tensor, cells: int, scale: float) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.scale = level_map.shape, scale
        return _forward(level_map, rois, cells, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        (rois,) = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            return _map_gradient(gradient, rois, ctx.scale, ctx.shape), None, None, None


def _map_gradient(gradient: Tensor, rois: Tensor, scale: float, shape: torch.Size) -> Tensor:
    """The map's gradient ``(B, C, h, w)`` from that of the crops ``(R, C, cells, cells)``.

    A crop is rows times map times columns, with bilinear weights for each axis, so that the gradient is the sum over
    crops of the transposed rows times the crop's gradient times the columns.
    """
    batch, channels, height, width = shape
    cells = gradient.shape[-1]
    x1, y1, x2, y2 = (rois[:, 1:] * scale - 0.5).unbind(1)
    of_rows, of_columns = _weights(y1, y2 - y1, cells, height), _weights(x1, x2 - x1, cells, width)
    found = gradient.new_zeros(batch, height, channels * width)
    for row in range(batch):
        for chosen in torch.nonzero(rois[:, 0] == row).flatten().split(AT_ONCE):
            crops = gradient[chosen].transpose(1, 2).reshape(-1, cells * channels, cells)
            wide = torch.bmm(crops, of_columns[chosen]).reshape(-1, channels * width)
            found[row].addmm_(of_rows[chosen].reshape(-1, height).t(), wide)
    return found.reshape(batch, height, channels, width).transpose(1, 2).contiguous()


def _weights(low: Tensor, size: Tensor, cells: int, length: int) -> Tensor:
    """Share of each of the map's pixels in each cell of a crop, along one axis.

    Args:
        low: ``(R,)``, where the boxes begin, in pixels of the map, whose first has its centre at 0.
        size: ``(R,)``.
        cells: Cells of a crop.
        length: Pixels of the map.

    Returns:
        ``(R, cells, length)``. As in torchvision, the mean over as many samples a cell as it has pixels, rounded up; a
        sample more than a pixel outside counts as 0, a nearer one as the pixel at the border.
    """
    samples = (size / cells).ceil()[:, None, None]
    steps = torch.arange(max(int(samples.max()), 1) if len(low) else 1, dtype=low.dtype)
    of_cell = low[:, None] + torch.arange(cells, dtype=low.dtype) * (size / cells)[:, None]
    at = of_cell[..., None] + (steps + 0.5) * ((size / cells)[:, None, None] / samples.clamp(min=1))
    share = ((steps < samples) & (at >= -1) & (at <= length)) / samples.clamp(min=1)
    at = at.clamp(0, length - 1)
    first = at.floor()
    weights = low.new_zeros(len(low), cells, length)
    weights.scatter_add_(2, first.long(), (1 - (at - first)) * share)
    return weights.scatter_add_(2, (first.long() + 1).clamp(max=length - 1), (at - first) * share)
