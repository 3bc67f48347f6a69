"""Factories of whole detectors: the paper's numbers as defaults, every part replaceable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from .backbones.resnet2d import ResNet2d
from .backbones.resnet3d import ResNet3d
from .backbones.slab_backbone import GroupTransform, SlabBackbone
from .heads.box_rules import Sampling
from .heads.roi_heads import BoxPredictor, DetectionLimits, FieldHead, PyramidRoIAlign, RoIHeads
from .heads.rpn import ProposalLimits, PyramidAnchors, RegionProposalNetwork
from .late_fusion import LateFusionRCNN, TripletBackbone
from .sizes import check_anchors, check_sizes
from .two_stage import FasterRCNN

_COUNTS = (
    *("fc_channels", "rpn_samples", "roi_samples"),
    *("train_per_level", "test_per_level", "proposals", "detections"),
)


@dataclass(frozen=True)
class TwoStageHead:
    """Numbers of the two-stage head; the defaults are those of the released code.

    Attributes:
        anchor_scale: Side of the square anchors in strides: 4 gives the paper's 16, 32, 64, 128, 256 pixels.
        anchor_ratios: Heights over widths of the anchors.
        fc_channels: Width of the two fully connected layers.
        rpn_samples: Anchors per image in the loss, at most half of them positive.
        roi_samples: Proposals per image in the loss, at most a quarter of them positive.
        train_per_level: Anchors per level that enter NMS in training.
        test_per_level: The same in evaluation.
        proposals: Proposals per image handed to the second stage.
        score: Only boxes that score higher are reported.
        detections: Boxes reported per image, at most.
        fields: Further heads by the name of the field that each gives a box: functions of the length of a box's
            feature vector and the channels of the pyramid, in a config an entry with ``_mode_: callable``.
    """

    anchor_scale: float = 4.0
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    fc_channels: int = 1024
    rpn_samples: int = 256
    roi_samples: int = 512
    train_per_level: int = 2000
    test_per_level: int = 1000
    proposals: int = 1000
    score: float = 0.0
    detections: int = 100
    fields: Mapping[str, Callable[[int, int], FieldHead]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject sizes and counts of which nothing could be built or found.

        Raises:
            ValueError: If one is not a whole number above 0, or an anchor has no size.
        """
        check_sizes(**{name: getattr(self, name) for name in _COUNTS})
        check_anchors([self.anchor_scale], self.anchor_ratios)


def faster_rcnn(backbone: SlabBackbone, num_classes: int = 1, *, head: TwoStageHead | None = None) -> FasterRCNN:
    """Put the paper's RPN and RoI head on a backbone.

    Args:
        backbone: Gives the pyramid levels.
        num_classes: Classes without background: 1 for DeepLesion, 80 for COCO.
        head: Numbers of the head; the paper's if left out.

    Raises:
        ValueError: If ``num_classes`` is below 1.
    """
    return FasterRCNN(backbone, *_two_stages(backbone.out_channels, num_classes, head or TwoStageHead()))


def _two_stages(channels: int, num_classes: int, head: TwoStageHead) -> tuple[RegionProposalNetwork, RoIHeads]:
    anchors = PyramidAnchors(scale=head.anchor_scale, ratios=head.anchor_ratios)
    rpn = RegionProposalNetwork(
        RPNHead(channels, anchors.per_cell),
        anchors,
        sampling=Sampling(head.rpn_samples, 0.5),
        train_limits=ProposalLimits(head.train_per_level, head.proposals),
        test_limits=ProposalLimits(head.test_per_level, head.proposals),
    )
    pool = PyramidRoIAlign()
    roi_heads = RoIHeads(
        pool,
        TwoMLPHead(channels * pool.output_size**2, head.fc_channels),
        BoxPredictor(head.fc_channels, num_classes),
        sampling=Sampling(head.roi_samples, 0.25),
        limits=DetectionLimits(score=head.score, per_image=head.detections),
        fields={name: make(head.fc_channels, channels) for name, make in head.fields.items()},
    )
    return rpn, roi_heads


def mp3d_fpn(
    num_slices: int = 9,
    num_classes: int = 1,
    *,
    body: ResNet3d | None = None,
    conversion: Callable[[int, int], nn.Module] = GroupTransform,
    fpn_channels: int = 256,
    head: TwoStageHead | None = None,
) -> FasterRCNN:
    """MP3D FPN, the paper's detector: 45,156,437 parameters at nine slices.

    Args:
        num_slices: Slices of a slab, odd.
        num_classes: Classes without background.
        body: 3D body; MP3D ResNet-63 if left out.
        conversion: 3D-to-2D module, made from (channels, num_slices): ``GroupTransform`` or ``CenterCrop``.
        fpn_channels: Channels of the pyramid.
        head: Numbers of the two-stage head.

    Raises:
        ValueError: If ``num_slices`` is not an odd number >= 1, or ``num_classes`` is below 1.
    """
    backbone = SlabBackbone(body or ResNet3d(), num_slices, conversion=conversion, out_channels=fpn_channels)
    return faster_rcnn(backbone, num_classes, head=head)


def fpn_3dce(
    num_slices: int = 9,
    num_classes: int = 1,
    *,
    body: ResNet2d | None = None,
    fpn_channels: int = 256,
    head: TwoStageHead | None = None,
) -> LateFusionRCNN:
    """FPN+3DCE, the paper's re-implemented baseline: 41.41, 41.55 and 41.94 M parameters at 3, 9 and 27 slices.

    Args:
        num_slices: Slices of a slab, three times an odd number.
        num_classes: Classes without background.
        body: 2D body; ResNet-50 with group normalisation if left out.
        fpn_channels: Channels of the pyramid.
        head: Numbers of the two-stage head.

    Raises:
        ValueError: If ``num_slices`` is not three times an odd number, or ``num_classes`` is below 1.
    """
    backbone = TripletBackbone(body or ResNet2d(), num_slices, out_channels=fpn_channels)
    return LateFusionRCNN(backbone, *_two_stages(fpn_channels, num_classes, head or TwoStageHead()))
