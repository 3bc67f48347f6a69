"""Slabs and targets on their way into a detector: checks, and one padded batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from ..instances import IGNORED, Instances, check, select
from .backbones.slab_backbone import SIZE_DIVISIBLE

Targets = Sequence[Instances[Tensor]]
Detections = list[Instances[Tensor]]


def plain(tensor: Tensor) -> Tensor:
    """The tensor without a subclass: MONAI's MetaTensor would carry its metadata through every layer."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def check_tensors(slabs: Sequence[Tensor] | Tensor) -> None:
    """Check that slabs are tensors.

    Raises:
        TypeError: If one is not, such as an array of NumPy.
    """
    for index, slab in enumerate([slabs] if isinstance(slabs, Tensor) else slabs):
        if not isinstance(slab, Tensor):
            raise TypeError(
                f"Expected slabs as tensors, got {type(slab).__name__} as slab {index}: torch.from_numpy makes one of "
                "an array."
            )


def check_classes(num_classes: int) -> None:
    """Check the number of classes of a detector.

    Raises:
        ValueError: If it is below 1.
    """
    if num_classes < 1:
        raise ValueError(f"Expected at least one class besides background, got num_classes={num_classes!r}.")


def padded_size(slab: Tensor) -> tuple[int, int]:
    """Height and width of a ``(D, H, W)`` slab, rounded up to multiples of ``SIZE_DIVISIBLE``."""
    height, width = (-(-int(side) // SIZE_DIVISIBLE) * SIZE_DIVISIBLE for side in slab.shape[-2:])
    return height, width


def pad_slabs(
    slabs: Tensor | Sequence[Tensor], fit: Callable[[tuple[int, int], Tensor], tuple[int, int]] | None = None
) -> ImageList:
    """Put slabs of different sizes into one batch, padded at the right and the bottom with zeros.

    Zero is about -18 HU after the intensity transform, as in the released code.

    Args:
        slabs: ``(B, D, H, W)``, or B slabs ``(D, H_i, W_i)``; floating point.
        fit: Gives the size to pad to, from the size that the largest slab needs and a slab: `common_size` in training.

    Returns:
        torchvision's ImageList: ``tensors`` ``(B, D, H, W)`` and ``image_sizes``, the (H_i, W_i) before padding.

    Raises:
        ValueError: If there are no slabs, or one is not a floating-point (D, H, W) tensor with the D of the first.
        TypeError: If one is not a tensor.
    """
    check_tensors(slabs)
    return _pad(slabs, fit)


def _pad(
    slabs: Tensor | Sequence[Tensor], fit: Callable[[tuple[int, int], Tensor], tuple[int, int]] | None = None
) -> ImageList:
    """`pad_slabs` of what `check_tensors` has seen."""
    each = [plain(slab) for slab in slabs]
    if not each:
        raise ValueError("Expected at least one slab, got an empty batch.")
    for index, slab in enumerate(each):
        if slab.ndim != 3 or 0 in slab.shape:
            raise ValueError(
                f"Expected a batch (B, D, H, W) or a list of slabs (D, H, W) with pixels, got {tuple(slab.shape)} as "
                f"slab {index}."
            )
        if slab.shape[0] != each[0].shape[0]:
            raise ValueError(
                f"Expected slabs of shape (D, H, W) with the same D, got {tuple(slab.shape)} as slab {index} "
                f"and {tuple(each[0].shape)} as slab 0."
            )
        if not slab.is_floating_point():
            raise ValueError(f"Expected normalised slabs in floating point, got {slab.dtype} as slab {index}.")
    sizes = [(int(slab.shape[1]), int(slab.shape[2])) for slab in each]
    height, width = (max(side) for side in zip(*(padded_size(slab) for slab in each), strict=True))
    if fit is not None:
        height, width = fit((height, width), each[0])
    if isinstance(slabs, Tensor) and sizes[0] == (height, width):
        return ImageList(plain(slabs), sizes)
    batch = each[0].new_zeros((len(each), each[0].shape[0], height, width))
    for row, slab in enumerate(each):
        batch[row, :, : slab.shape[1], : slab.shape[2]] = slab
    return ImageList(batch, sizes)


def detect_by_size(detect: Callable[[ImageList], Detections], slabs: Tensor | Sequence[Tensor]) -> Detections:
    """Run a detector on slabs of any size, each padded only as much as it would be alone.

    Group normalisation looks at the whole map: padding to the size of a larger neighbour in the batch would change
    a slab's result. Slabs of the same padded size still share a batch. The released code evaluates one by one.

    Args:
        detect: Gives the detections of a padded batch.
        slabs: ``(B, D, H, W)``, or B slabs ``(D, H_i, W_i)``.

    Returns:
        The detections in the order of the slabs.

    Raises:
        ValueError: If the slabs are not what :func:`pad_slabs` expects, or one has a NaN or infinite pixel.
        TypeError: If one is not a tensor.
    """
    check_tensors(slabs)
    for row, slab in enumerate(slabs):
        check_finite(slab, f"pixels in slab {row}")
    if isinstance(slabs, Tensor):
        return detect(_pad(slabs))
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, slab in enumerate(slabs):
        groups.setdefault(padded_size(slab) if slab.ndim == 3 else (), []).append(row)
    if len(groups) < 2 or () in groups:
        return detect(_pad(slabs))
    found: dict[int, Instances[Tensor]] = {}
    for rows in groups.values():
        found.update(zip(rows, detect(_pad([slabs[row] for row in rows])), strict=True))
    return [found[row] for row in range(len(slabs))]


def check_targets(targets: Targets | None, count: int, num_classes: int, reads: Sequence[str] = ()) -> Targets:
    """Check training targets against a batch.

    Args:
        targets: Instances: ``boxes`` ``(N, 4)``, ``labels`` ``(N,)`` int64 in 1..num_classes, and any fields.
        count: Number of slabs.
        num_classes: Number of classes without background.
        reads: Further fields that every target must have.

    Returns:
        The targets as plain tensors.

    Raises:
        ValueError: Naming the slab whose target is missing, lacks a field, is malformed or has a label out of range.
    """
    if targets is None or len(targets) != count:
        raise ValueError(
            f"Expected {count} targets in training, one per slab, got {None if targets is None else len(targets)}."
        )
    for index, target in enumerate(targets):
        _check_target(target, index, num_classes, reads)
    return [
        {name: plain(values) for name, values in target.items() if isinstance(values, Tensor)} for target in targets
    ]


def split_regions(targets: Targets) -> tuple[Targets, list[Tensor] | None]:
    """Divide checked targets into lesions and regions to ignore.

    Args:
        targets: Those of every slab; rows whose field ``ignored`` is true are regions.

    Returns:
        The lesions with all other fields, and the boxes ``(K, 4)`` of the regions of every slab; None where no target
        has the field.
    """
    if not any(IGNORED in target for target in targets):
        return targets, None
    masks = [target[IGNORED].bool() if IGNORED in target else None for target in targets]
    regions = [
        target["boxes"][:0] if mask is None else target["boxes"][mask]
        for target, mask in zip(targets, masks, strict=True)
    ]
    lesions = [target if mask is None else select(target, ~mask) for target, mask in zip(targets, masks, strict=True)]
    return lesions, regions


def _check_target(target: Instances[Tensor], index: int, num_classes: int, reads: Sequence[str]) -> None:
    missing = [key for key in ("boxes", "labels", *reads) if not isinstance(target.get(key), Tensor)]
    if missing:
        raise ValueError(f"Expected a tensor '{missing[0]}' in the target of slab {index}, got keys {sorted(target)}.")
    where = f"the target of slab {index}"
    check({name: target[name] for name in ("boxes", *reads)}, where)
    labels = target["labels"]
    if labels.shape != target["boxes"].shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"Expected one integer label per box, got labels of shape {tuple(labels.shape)} and {labels.dtype} for "
            f"boxes of shape {tuple(target['boxes'].shape)} in the target of slab {index}."
        )
    if labels.numel() and (int(labels.min()) < 1 or int(labels.max()) > num_classes):
        raise ValueError(
            f"Expected labels in 1..{num_classes} (0 is the background), got {labels.tolist()} "
            f"in the target of slab {index}."
        )


def check_finite(values: Tensor, what: str) -> None:
    """Reject NaN and infinity in the inputs of detections: the result would look like an image without lesions.

    Args:
        values: Any shape.
        what: What the values are, for the error.

    Raises:
        ValueError: If one of them is not finite.
    """
    if not values.isfinite().all():
        raise ValueError(f"Expected finite {what}, got NaN or infinity.")
