"""The paper's two-stage detector: slab in, lesions of the middle slice out (paper Figure 1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from ..boxes import check_boxes
from .backbone import SIZE_DIVISIBLE
from .roi_heads import RoIHeads
from .rpn import RegionProposalNetwork

Targets = Sequence[dict[str, Tensor]]


def pad_slabs(slabs: Tensor | Sequence[Tensor], divisor: int = SIZE_DIVISIBLE) -> ImageList:
    """Put slabs of different sizes into one batch, padded at the right and the bottom with zeros.

    Zero is about -18 HU after the intensity transform, as in the released code.

    Args:
        slabs: ``(B, D, H, W)``, or B slabs ``(D, H_i, W_i)``.
        divisor: Height and width of the batch become multiples of this.

    Returns:
        torchvision's ImageList: ``tensors`` ``(B, D, H, W)`` and ``image_sizes``, the (H_i, W_i) before padding.

    Raises:
        ValueError: If there is no slab, or one is not a (D, H, W) tensor with the D of the first.
    """
    each = list(slabs)
    if not each:
        raise ValueError("Expected at least one slab, got an empty batch.")
    for index, slab in enumerate(each):
        if slab.ndim != 3 or slab.shape[0] != each[0].shape[0] or 0 in slab.shape:
            raise ValueError(
                f"Expected slabs of shape (D, H, W) with the same D, got {tuple(slab.shape)} as slab {index} "
                f"and {tuple(each[0].shape)} as slab 0."
            )
    sizes = [(int(slab.shape[1]), int(slab.shape[2])) for slab in each]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    height, width = (-(-side // divisor) * divisor for side in (height, width))
    if isinstance(slabs, Tensor) and sizes[0] == (height, width):
        return ImageList(slabs, sizes)
    batch = each[0].new_zeros((len(each), each[0].shape[0], height, width))
    for row, slab in enumerate(each):
        batch[row, :, : slab.shape[1], : slab.shape[2]] = slab
    return ImageList(batch, sizes)


def check_targets(targets: Targets | None, count: int, num_classes: int) -> Targets:
    """Check training targets against a batch.

    Args:
        targets: Dicts with ``boxes`` ``(N, 4)`` and ``labels`` ``(N,)`` int64 in 1..num_classes.
        count: Number of slabs.
        num_classes: Number of classes without background.

    Returns:
        The targets.

    Raises:
        ValueError: Naming the slab whose target is missing, malformed or has a label out of range.
    """
    if targets is None or len(targets) != count:
        raise ValueError(
            f"Expected {count} targets in training, one per slab, got {None if targets is None else len(targets)}."
        )
    for index, target in enumerate(targets):
        check_boxes(target["boxes"], f"the target of slab {index}")
        labels = target["labels"]
        if labels.shape != target["boxes"].shape[:1]:
            raise ValueError(
                f"Expected one label per box, got labels of shape {tuple(labels.shape)} for boxes of shape "
                f"{tuple(target['boxes'].shape)} in the target of slab {index}."
            )
        if labels.numel() and (int(labels.min()) < 1 or int(labels.max()) > num_classes):
            raise ValueError(
                f"Expected labels in 1..{num_classes} (0 is the background), got {labels.tolist()} "
                f"in the target of slab {index}."
            )
    return targets


class FasterRCNN(nn.Module):
    """Backbone, region proposal network and RoI heads.

    Args:
        backbone: Slabs ``(B, D, H, W)`` to pyramid levels.
        rpn: Pyramid levels to proposals.
        roi_heads: Proposals to detections.
    """

    def __init__(self, backbone: nn.Module, rpn: RegionProposalNetwork, roi_heads: RoIHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads

    def forward(
        self, slabs: Tensor | Sequence[Tensor], targets: Targets | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation.

        Args:
            slabs: Normalised slabs ``(B, D, H, W)``, or a list of ``(D, H_i, W_i)`` of any sizes.
            targets: In training, for each slab ``boxes`` float ``(N, 4)`` (x1, y1, x2, y2 in slab pixels; (0, 4)
                without lesions) and ``labels`` int64 ``(N,)`` (1 is the lesion class; 0 would be the background).

        Returns:
            In training a dict of scalars: ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier``,
            ``loss_box_reg``; their sum is the loss. In evaluation a list with a dict for each slab, best box first:
            ``boxes`` ``(M, 4)`` in slab pixels, clipped to the slab; ``scores`` ``(M,)`` in (0, 1]; ``labels`` ``(M,)``
            from 1 on.

        Raises:
            ValueError: If slabs or targets do not have these shapes; the message says which.
        """
        images = pad_slabs(slabs)
        if not self.training:
            features = self.backbone(images.tensors)
            proposals, _ = self.rpn(features, images.image_sizes)
            detections, _ = self.roi_heads(features, proposals, images.image_sizes)
            return detections
        targets = check_targets(targets, len(images.image_sizes), self.roi_heads.predictor.num_classes)
        features = self.backbone(images.tensors)
        proposals, rpn_losses = self.rpn(features, images.image_sizes, [target["boxes"] for target in targets])
        _, roi_losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        return {**rpn_losses, **roi_losses}
