"""The paper's two-stage detector: slab in, lesions of the middle slice out (paper Figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from .batching import Detections, Targets, check_targets, detect_by_size, pad_slabs, split_regions
from .heads.roi_heads import RoIHeads
from .heads.rpn import RegionProposalNetwork
from .whole_batch import common_size


class FasterRCNN(nn.Module):
    """Backbone, region proposal network and RoI heads.

    Args:
        backbone: Slabs ``(B, D, H, W)`` to pyramid levels.
        rpn: Pyramid levels to proposals.
        roi_heads: Proposals to detections.
    """

    # What is plain tensor code, in the order of its use: see `scripts.engines`.
    engine_parts: ClassVar[tuple[str, ...]] = ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.predictor")

    def __init__(self, backbone: nn.Module, rpn: RegionProposalNetwork, roi_heads: RoIHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.roi_heads.predictor.num_classes

    def features(self, slabs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Pyramid levels for the first and for the second stage: here the same.

        Args:
            slabs: ``(B, D, H, W)``, H and W multiples of 32.
        """
        levels = self.backbone(slabs)
        return levels, levels

    def forward(
        self, slabs: Tensor | Sequence[Tensor], targets: Targets | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation.

        Args:
            slabs: Normalised slabs ``(B, D, H, W)``, or a list of ``(D, H_i, W_i)`` of any sizes.
            targets: In training, for each slab ``boxes`` float ``(N, 4)`` (x1, y1, x2, y2 in slab pixels; (0, 4)
                without lesions), ``labels`` int64 ``(N,)`` (1 is the lesion class; 0 would be the background) and any
                fields; further heads read theirs. Boxes whose field ``ignored`` is true are not lesions: what lies in
                them has no loss.

        Returns:
            In training a dict of scalars: ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier``,
            ``loss_box_reg`` and ``loss_NAME`` of each further head; their sum is the loss. In evaluation a list with
            a dict for each slab, best box first: ``boxes`` ``(M, 4)`` in slab pixels, clipped to the slab; ``scores``
            ``(M,)`` in (0, 1]; ``labels`` ``(M,)`` from 1 on; and the fields of further heads by name.

        Raises:
            ValueError: If slabs or targets do not have these shapes (the message names it), or if in evaluation
                the network's output is NaN or infinite. In training the losses show that.
        """
        if not self.training:
            return detect_by_size(self._detect, slabs)
        images = pad_slabs(slabs, common_size)
        heads = self.roi_heads
        reads = (*heads.reads, *heads.used(targets))
        targets = check_targets(targets, len(images.image_sizes), self.num_classes, reads)
        targets, regions = split_regions(targets)
        first, second = self.features(images.tensors)
        proposals, rpn_losses = self.rpn(first, images.image_sizes, [target["boxes"] for target in targets], regions)
        _, roi_losses = heads(second, proposals, images.image_sizes, targets, regions)
        return {**rpn_losses, **roi_losses, **self.further_losses(second, targets)}

    def further_losses(self, levels: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Losses of a detector that learns more than boxes, by name; none here.

        Args:
            levels: Pyramid levels of the second stage.
            targets: Those of `forward`, checked, with all their fields.
        """
        del levels, targets
        return {}

    def _detect(self, images: ImageList) -> Detections:
        first, second = self.features(images.tensors)
        proposals, _ = self.rpn(first, images.image_sizes)
        detections, _ = self.roi_heads(second, proposals, images.image_sizes)
        return detections
