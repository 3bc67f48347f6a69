"""Plain R-FCN and Faster R-CNN on VGG-16, the baselines of 3DCE's own tables (Yan et al., MICCAI 2018).

Both read three slices as the colours of one image and share 3DCE's body, proposals, sampling and losses; they differ in
the second stage, by the released code (rsummers11/CADLab, MXNet). 16,431,748 and 71,516,836 parameters.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import roi_pool

from ..batching import check_classes
from ..heads.roi_heads import BoxPredictor
from ..sizes import check_sizes
from .three_dce import GROUP, OneLevelPool, PositionSensitivePool, ThreeDCE, TripletVgg, map_layer, vgg_detector


class BinVotes(nn.Module):
    """Class scores and offsets that are the means of the bins of a box: nothing is left to learn.

    Args:
        num_classes: Classes without background.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_classes(num_classes)
        self.num_classes = num_classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(R, 5 (1 + K))`` -> logits ``(R, 1 + K)`` with background at 0, offsets ``(R, K, 4)``."""
        logits, offsets = x.split([1 + self.num_classes, 4 * (1 + self.num_classes)], dim=1)
        # Those of the background, in front, are never read.
        return logits, offsets.unflatten(1, (-1, 4))[:, 1:]


class RoundedPool(OneLevelPool):
    """Largest value of each bin of a box with rounded corners: RoIPool, as in Caffe and MXNet."""

    def crop(self, level_map: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Crops ``(R, C, output_size, output_size)`` of rows and inclusive boxes ``(R, 5)``."""
        return roi_pool(level_map, rois, self.output_size, 1 / stride)


def rfcn(
    num_slices: int = 3, num_classes: int = 1, *, width: int = 64, rpn_channels: int = 256, fc_channels: int = 512
) -> ThreeDCE:
    """R-FCN: position-sensitive maps vote for class and box, without a layer of its own for each box.

    Args:
        num_slices: 3, or 1.
        num_classes: Classes without background.
        width: Channels of the first convolutions; 64 is VGG-16.
        rpn_channels: Channels inside the region proposal head.
        fc_channels: Channels between the body and the position-sensitive maps.

    Raises:
        ValueError: If ``num_slices`` is another number, or ``num_classes`` is below 1.
    """
    _check(num_slices, "R-FCN")
    check_sizes(width=width, rpn_channels=rpn_channels, fc_channels=fc_channels)
    maps = nn.Sequential(
        map_layer(8 * width, fc_channels), nn.ReLU(), map_layer(fc_channels, 5 * (1 + num_classes) * GROUP**2)
    )
    backbone = TripletVgg(num_slices, width=width, maps=maps)
    mean = nn.Sequential(nn.AvgPool2d(GROUP), nn.Flatten())
    return vgg_detector(backbone, PositionSensitivePool(), mean, BinVotes(num_classes), rpn_channels=rpn_channels)


def vgg_faster_rcnn(
    num_slices: int = 3, num_classes: int = 1, *, width: int = 64, rpn_channels: int = 256, fc_channels: int = 2048
) -> ThreeDCE:
    """Faster R-CNN: RoIPool and two fully connected layers with dropout.

    Args:
        num_slices: 3, or 1.
        num_classes: Classes without background.
        width: Channels of the first convolutions; 64 is VGG-16.
        rpn_channels: Channels inside the region proposal head.
        fc_channels: Width of the fully connected layers.

    Raises:
        ValueError: If ``num_slices`` is another number, or ``num_classes`` is below 1.
    """
    _check(num_slices, "Faster R-CNN")
    check_sizes(rpn_channels=rpn_channels, fc_channels=fc_channels)
    backbone = TripletVgg(num_slices, width=width, maps=nn.Identity())
    box_head = nn.Sequential(
        *(nn.Flatten(), nn.Linear(backbone.out_channels * GROUP**2, fc_channels), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(fc_channels, fc_channels), nn.ReLU(), nn.Dropout(0.5)),
    )
    predictor = BoxPredictor(fc_channels, num_classes, background=True)
    return vgg_detector(backbone, RoundedPool(), box_head, predictor, rpn_channels=rpn_channels)


def _check(num_slices: int, name: str) -> None:
    if num_slices not in (1, 3):
        raise ValueError(f"Expected 1 or 3 slices for {name} on VGG-16, got {num_slices!r}.")
