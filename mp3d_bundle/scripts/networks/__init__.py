"""Networks: 3D body, conversion to 2D, pyramid, detection heads; and the factories that configs name."""

from .backbones.resnet2d import FixedBatchNorm2d, ResNet2d, Stem2d
from .backbones.resnet3d import FullBottleneck, PseudoBasicBlock, PseudoBottleneck, ResNet3d, Stem, isotropic_pools
from .backbones.slab_backbone import CenterCrop, FullTransform, GroupTransform, SlabBackbone
from .detectors import TwoStageHead, faster_rcnn, fpn_3dce, mp3d_fpn
from .heads.roi_heads import FieldHead, RoIs
from .heads.rpn import AnchorShapes
from .heads.score_refinement import Patient
from .late_fusion import LateFusionRCNN, TripletBackbone
from .one_stage import OneStageDetector, OneStageHead, mp3d_retinanet, retinanet_2d
from .published.align_shift import a3d, align_shift, temporal_shift
from .published.mulan import MULAN, mulan
from .published.multi_scale_booster import multi_scale_booster
from .published.mvp_net import MVPNet, mvp_net
from .published.retinanet_masks import retinanet_masks
from .published.slice_attention import slice_attention
from .published.three_dce import ThreeDCE, three_dce
from .published.vgg_detectors import rfcn, vgg_faster_rcnn
from .two_stage import FasterRCNN

__all__ = [
    "MULAN",
    "AnchorShapes",
    "CenterCrop",
    "FasterRCNN",
    "FieldHead",
    "FixedBatchNorm2d",
    "FullBottleneck",
    "FullTransform",
    "GroupTransform",
    "LateFusionRCNN",
    "MVPNet",
    "OneStageDetector",
    "OneStageHead",
    "Patient",
    "PseudoBasicBlock",
    "PseudoBottleneck",
    "ResNet2d",
    "ResNet3d",
    "RoIs",
    "SlabBackbone",
    "Stem",
    "Stem2d",
    "ThreeDCE",
    "TripletBackbone",
    "TwoStageHead",
    "a3d",
    "align_shift",
    "faster_rcnn",
    "fpn_3dce",
    "isotropic_pools",
    "mp3d_fpn",
    "mp3d_retinanet",
    "mulan",
    "multi_scale_booster",
    "mvp_net",
    "retinanet_2d",
    "retinanet_masks",
    "rfcn",
    "slice_attention",
    "temporal_shift",
    "three_dce",
    "vgg_faster_rcnn",
]
