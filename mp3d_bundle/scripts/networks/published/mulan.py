"""MULAN, the multitask universal lesion analysis network (Yan et al., MICCAI 2019, arXiv 1908.04373).

Detects, tags and outlines lesions on nine slices read as three images. Scores of lesion and tags refine each other in
one linear layer, with what is known of the patient if it is wanted. 94,326,808 parameters. The MP3D paper's reference
[5]. Numbers by the released code (rsummers11/CADLab, MULAN_universal_lesion_analysis).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead

from ...instances import Instances, num_instances, select
from ..backbones.densenet_images import DenseImagesBackbone
from ..batching import Detections, Targets, check_finite, pad_slabs
from ..heads.box_rules import CLAIMS_AT_ANY_OVERLAP, BoxRules, Sampling
from ..heads.inclusive_boxes import FixedAnchors, UnalignedRoIAlign, detectron_anchors
from ..heads.mask_head import MaskHead
from ..heads.roi_heads import Batch, BoxPredictor, DetectionLimits, PyramidRoIAlign, RoIHeads, RoIs, Sampled
from ..heads.rpn import ProposalLimits, RegionProposalNetwork
from ..heads.score_refinement import Patient, ScoreRefinement
from ..heads.tag_head import TagHead, mining_loss, tag_loss
from ..sizes import check_sizes
from ..two_stage import FasterRCNN
from ..whole_batch import mean_count
from .authors_names import DENSE_BODY, Rules

logger = logging.getLogger(__name__)

STRIDE = 4
UNKNOWN = Patient()
RULES = BoxRules(inclusive=True, deviations=(1.0, 1.0, 1.0, 1.0), both_ways=False)

MULAN_BACKBONE: Rules = (
    (r"backbone\.conv_ilf2\.", "backbone.body.after.1.conv."),
    (r"feature_fuse\.conv\.", "backbone.fusion."),
    *DENSE_BODY,
)
MULAN_NAMES: Rules = (
    *MULAN_BACKBONE,
    (r"rpn\.head\.conv\.", "rpn.head.conv.0.0."),
    (r"rpn\.head\.(cls_logits|bbox_pred)\.", r"rpn.head.\1."),
    (r"roi_heads\.box\.feature_extractor\.(fc6|fc7)\.", r"roi_heads.box_head.\1."),
    (r"roi_heads\.box\.predictor\.(cls_score|bbox_pred)\.", r"roi_heads.predictor.\1."),
    *(
        (rf"roi_heads\.mask\.feature_extractor\.mask_fcn{i + 1}\.", rf"roi_heads.mask_head.convs.{i}.")
        for i in range(4)
    ),
    (r"roi_heads\.mask\.predictor\.conv5_mask\.", "roi_heads.mask_head.upsample."),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits\.", "roi_heads.mask_head.logits."),
    (r"roi_heads\.tag\.feature_extractor\.fc8\.", "roi_heads.tag_head.fc1."),
    (r"roi_heads\.tag\.feature_extractor\.fc9\.", "roi_heads.tag_head.fc2."),
    (r"roi_heads\.tag\.predictor\.cls_score\.", "roi_heads.tag_head.logits."),
    (r"roi_heads\.refine\.score_propa_tag\.", "roi_heads.refine.tags."),
    (r"roi_heads\.refine\.score_propa_clsf\.", "roi_heads.refine.classes."),
)


class MulanHeads(RoIHeads):
    """Second stage with masks, tags and the refinement of scores.

    Masks and tags learn from fields of the lesions where these have them: ``masks`` ``(N, h, w)`` over the boxes;
    ``tags`` ``(N, T)``, 1, 0 or -1 (unknown), with ``tag_weights`` ``(N, T)`` and ``tag_exclusions`` ``(N, T)`` if
    there are any. A batch that lacks them leaves the loss out.

    Args:
        pool: As in `RoIHeads`.
        box_head: Likewise.
        predictor: Likewise.
        mask_head: Outlines boxes.
        tag_head: Tags boxes.
        refine: Refines the scores of both.
    """

    box_weight = 10.0

    def __init__(
        self,
        pool: PyramidRoIAlign,
        box_head: nn.Module,
        predictor: BoxPredictor,
        *,
        mask_head: MaskHead,
        tag_head: TagHead,
        refine: ScoreRefinement,
    ) -> None:
        limits = DetectionLimits(score=0.05, per_image=50)
        super().__init__(pool, box_head, predictor, sampling=Sampling(64, 0.25), limits=limits, rules=RULES)
        self.mask_head, self.tag_head, self.refine = mask_head, tag_head, refine
        self.missed: set[str] = set()

    def used(self, targets: Targets | None) -> tuple[str, ...]:
        """Of masks, tags and what belongs to tags, the fields that all targets have."""
        names = ("masks", "tags", "tag_weights", "tag_exclusions")
        return tuple(name for name in names if targets and all(name in each for each in targets))

    def further_losses(self, sampled: Sampled, batch: Batch) -> dict[str, Tensor]:
        """Losses of masks and tags where the targets have them, and of the refined scores; see `RoIHeads`."""
        lesions, positive = sampled.lesions, sampled.labels > 0
        tags = self.tag_head(RoIs(sampled.vectors, sampled.boxes, batch.features))
        patients = [Patient.of(target) for target in batch.targets]
        rows = zip(sampled.boxes, batch.image_sizes, patients, strict=True)
        classes, refined = self.refine(sampled.logits, tags, torch.cat([self.refine.read(*row) for row in rows]))
        total = F.cross_entropy(classes, sampled.labels, reduction="sum")
        losses = {"loss_refined_classifier": total / mean_count(len(sampled.labels), classes)}
        idle: list[Tensor] = []
        if "masks" in lesions:
            kept = positive.split([len(boxes) for boxes in sampled.boxes])
            boxes = [boxes[rows] for boxes, rows in zip(sampled.boxes, kept, strict=True)]
            grids = self.mask_head(RoIs(sampled.vectors[positive], boxes, batch.features))
            losses["loss_masks"] = self.mask_head.loss(grids, lesions)
        else:
            self._leave_out("masks")
            idle += [parameter.sum() for parameter in self.mask_head.parameters()]
        if "tags" in lesions:
            losses |= self._tag_losses(tags[positive], refined[positive], lesions)
        else:
            self._leave_out("tags")
            idle.append(refined.sum())
        if idle:  # every parameter has a gradient, which training on several devices needs
            losses["loss_refined_classifier"] = losses["loss_refined_classifier"] + torch.stack(idle).sum() * 0
        return losses

    def _tag_losses(self, tags: Tensor, refined: Tensor, lesions: Instances[Tensor]) -> dict[str, Tensor]:
        wanted, weights = lesions["tags"], lesions.get("tag_weights")
        if wanted.shape != tags.shape:
            raise ValueError(f"Expected tags of shape {tuple(tags.shape)}, got {tuple(wanted.shape)}.")
        losses = {
            "loss_tags": tag_loss(tags, wanted, weights) + tags.sum() * 0,
            "loss_refined_tags": tag_loss(refined, wanted, weights) + refined.sum() * 0,
        }
        if "tag_exclusions" in lesions:
            losses["loss_tag_mining"] = mining_loss(tags, wanted, lesions["tag_exclusions"])
        else:
            self._leave_out("tag_exclusions")
        return losses

    def _leave_out(self, name: str) -> None:
        if name not in self.missed:
            self.missed.add(name)
            logger.warning("The lesions have no field %s: MULAN's loss of it is left out.", name)

    @torch.no_grad()
    def _with_fields(
        self, found: Detections, vectors: Sequence[Tensor], logits: Sequence[Tensor], features: Sequence[Tensor]
    ) -> Detections:
        """Masks, and the logits of class and tags that are to be refined."""
        rows, counts = [one.pop("proposals") for one in found], [num_instances(one) for one in found]
        chosen = torch.cat([each[row] for each, row in zip(vectors, rows, strict=True)])
        rois = RoIs(chosen, [one["boxes"] for one in found], features)
        masks = self.mask_head.predict(self.mask_head(rois)).split(counts)
        tags = self.tag_head(rois).split(counts)
        for one, row, each, *fields in zip(found, rows, logits, masks, tags, strict=True):
            one |= {"class_logits": each[row], "masks": fields[0], "tag_logits": fields[1]}
        return found

    @torch.no_grad()
    def refined(self, found: Instances[Tensor], size: tuple[int, int], patient: Patient) -> Instances[Tensor]:
        """Detections of a slab of (height, width) pixels with refined scores, best first, and scores of tags.

        Fields of a head that was never trained, because targets were missing, are left out.

        Raises:
            ValueError: If a score or a mask is not finite.
        """
        extras = self.refine.read(found["boxes"], size, patient)
        classes, tags = self.refine(found.pop("class_logits"), found.pop("tag_logits"), extras)
        scores = classes.softmax(dim=1).gather(1, found["labels"][:, None])[:, 0]
        found |= {"scores": scores, "tag_scores": tags.sigmoid()}
        for name, head in (("masks", self.mask_head), ("tag_scores", self.tag_head)):
            # The last bias starts at zero and moves with the first step of training.
            if not bool(head.logits.bias.any()):  # type: ignore[union-attr]
                del found[name]
        for name in found:
            check_finite(found[name], f"{name} of the detections")
        return select(found, found["scores"].sort(descending=True, stable=True).indices)


class MULAN(FasterRCNN):
    """Two-stage detector whose scores are refined at the end; see `mulan`."""

    roi_heads: MulanHeads
    _said = False

    @property
    def patient_facts(self) -> tuple[str, ...]:
        """What the refinement reads of patients: ``"position"``, ``"patient"`` (sex and age), both or nothing."""
        return tuple(name for name in self.roi_heads.refine.extras if name in ("position", "patient"))

    @property
    def reads_patients(self) -> bool:
        """Whether the refinement reads anything of patients."""
        return bool(self.patient_facts)

    def forward(
        self,
        slabs: Tensor | Sequence[Tensor],
        targets: Targets | None = None,
        patients: Sequence[Patient] | None = None,
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation; see `FasterRCNN.forward`.

        Args:
            slabs: As there.
            targets: As there. A network that reads extras takes them from the fields ``male``, ``age`` and
                ``position`` ``(N,)`` of `Patient`, alike for all lesions of a slab, where these are there.
            patients: In evaluation, what is known of the patient of each slab, for a network that reads extras; in
                training it is not read.

        Returns:
            Detections have ``tag_scores`` ``(M, T)`` and ``masks`` ``(M, 28, 28)``, grids over the boxes, as well.

        Raises:
            ValueError: As there; or if there is not one patient for each slab.
        """
        if not self.training and patients is None and self.reads_patients and not self._said:
            self._said = True
            logger.warning("Scores are refined without the patient's sex, age or position, which are not given.")
        if self.training or patients is None:
            return super().forward(slabs, targets)
        if len(patients) != len(slabs):
            raise ValueError(f"Expected a patient for each of {len(slabs)} slabs, got {len(patients)}.")
        check_finite(torch.cat([slab.flatten() for slab in slabs]), "pixels in the slabs")
        pairs = zip(slabs, patients, strict=True)
        return [found for slab, one in pairs for found in self._detect(pad_slabs([slab]), one)]

    def _detect(self, images: ImageList, patient: Patient = UNKNOWN) -> Detections:
        rows = zip(super()._detect(images), images.image_sizes, strict=True)
        return [self.roi_heads.refined(found, size, patient) for found, size in rows]


def mulan(
    num_slices: int = 9,
    num_classes: int = 1,
    *,
    tags: int = 171,
    extras: Sequence[str] = (),
    layers: Sequence[int] = (6, 12, 24),
    growth: int = 32,
    channels: int = 512,
    fc_channels: int = 2048,
) -> MULAN:
    """MULAN, whole: 94,326,808 parameters without extras, as its weights were published.

    Boxes are those of its authors, whose last pixel counts (`..heads.box_rules`).

    Args:
        num_slices: Three times an odd number.
        num_classes: Classes without background; the authors' weights are for one.
        tags: Number of tags, T.
        extras: What the refinement reads next to the scores: ``box`` (place and size in the slab), ``position``
            (along the body), ``patient`` (sex and age). The paper's row in MP3D's Table 1 has box and patient.
        layers: Dense layers of each block.
        growth: Channels that a dense layer adds; the stem has twice as many.
        channels: Channels of the map; the mask head has half as many.
        fc_channels: Width of the fully connected layers of the box head; the tag head's are half as wide.

    Raises:
        ValueError: If ``num_slices`` is another number, there is no tag, or an extra has another name.
    """
    check_sizes(fc_channels=fc_channels)
    backbone = DenseImagesBackbone(num_slices, out_channels=channels, layers=layers, growth=growth)
    anchors = FixedAnchors([detectron_anchors(STRIDE, (4, 6, 8, 12, 24), (0.5, 1.0, 2.0))], [STRIDE])
    rpn = RegionProposalNetwork(
        RPNHead(channels, anchors.per_cell),
        anchors,
        matching=CLAIMS_AT_ANY_OVERLAP,
        sampling=Sampling(32, 0.5),
        train_limits=ProposalLimits(12000, 2000, min_side=8.0),
        test_limits=ProposalLimits(6000, 300, min_side=8.0),
        rules=RULES,
    )
    pool = UnalignedRoIAlign([STRIDE])
    box_head = TwoMLPHead(channels * pool.output_size**2, fc_channels)
    predictor = BoxPredictor(fc_channels, num_classes, background=True)
    heads = MulanHeads(
        pool,
        box_head,
        predictor,
        mask_head=MaskHead(channels, UnalignedRoIAlign([STRIDE], output_size=14), width=channels // 2),
        tag_head=TagHead(channels, UnalignedRoIAlign([STRIDE]), tags=tags, width=fc_channels // 2),
        refine=ScoreRefinement(tags, extras, num_classes),
    )
    for layer in (box_head.fc6, box_head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.constant_(predictor.cls_score.bias, -math.log(99.0))
    return MULAN(backbone, rpn, heads)
