"""Networks: 3D body, conversion to 2D, pyramid, detection heads; and the factories that configs name."""

from .backbone import SlabBackbone
from .conversion import CenterCrop, FullTransform, GroupTransform
from .factories import TwoStageHead, faster_rcnn, mp3d_fpn
from .faster_rcnn import FasterRCNN
from .resnet3d import FullBottleneck, PseudoBasicBlock, PseudoBottleneck, ResNet3d, Stem, isotropic_pools
from .retinanet import OneStageDetector, OneStageHead, mp3d_retinanet

__all__ = [
    "CenterCrop",
    "FasterRCNN",
    "FullBottleneck",
    "FullTransform",
    "GroupTransform",
    "OneStageDetector",
    "OneStageHead",
    "PseudoBasicBlock",
    "PseudoBottleneck",
    "ResNet3d",
    "SlabBackbone",
    "Stem",
    "TwoStageHead",
    "faster_rcnn",
    "isotropic_pools",
    "mp3d_fpn",
    "mp3d_retinanet",
]
