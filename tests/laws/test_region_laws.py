"""Laws of regions to ignore: what lies in one has no loss and is not false, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scripts.boxes import pairwise_iou, pairwise_share
from scripts.instances import IGNORED
from scripts.metrics.average_precision import average_precision
from scripts.metrics.froc import FPS_PER_IMAGE, froc_curve, sensitivity_at
from scripts.metrics.matching import IN_REGION, MULAN, RELEASED, STRICT, FrocRule, match_detections
from scripts.networks import OneStageHead, ResNet3d, TwoStageHead, mp3d_fpn, mp3d_retinanet
from scripts.networks.heads.box_rules import BACKGROUND, HALF_OPEN, Matching
from scripts.networks.heads.box_rules import IGNORED as LEFT_OUT
from support.drawn_values import boxes, cases

RULES = st.sampled_from([RELEASED, MULAN, STRICT])
TARGETS = (0.0, 0.1, 0.25, *FPS_PER_IMAGE)
NONE = np.zeros((0, 4))


def without_free(case: dict[str, Any], rule: FrocRule) -> dict[str, Any]:
    """A case without its region, and without the detections that lie in it and overlap no lesion enough."""
    hits = pairwise_iou(case["boxes"], case["true_boxes"], rule.extra_pixels) >= rule.iou_threshold
    inside = pairwise_share(case["boxes"], case["ignored_boxes"], rule.extra_pixels) >= IN_REGION
    kept = hits.any(axis=1) | ~inside.any(axis=1)
    plain = {name: value for name, value in case.items() if name != "ignored_boxes"}
    return {**plain, "boxes": case["boxes"][kept], "scores": case["scores"][kept]}


@given(cases(), RULES, st.data())
def test_a_region_over_a_false_positive_removes_exactly_it(
    images: list[dict[str, Any]], rule: FrocRule, data: st.DataObject
) -> None:
    before = match_detections(images, rule)
    false = np.flatnonzero(before.outcomes == "false positive")
    if not len(false):
        return
    row = false[data.draw(st.integers(0, len(false) - 1))]
    image, number = before.image[row], before.detection[row]
    region = images[image]["boxes"][number][None]
    marked = [{**one, "ignored_boxes": region if at == image else NONE} for at, one in enumerate(images)]
    after = match_detections(marked, rule)
    assert after.outcomes[row] == "ignored"
    changed = after.outcomes != before.outcomes
    assert (after.outcomes[changed] == "ignored").all()
    assert (after.image[changed] == image).all()
    np.testing.assert_array_equal(after.found_by, before.found_by)
    # All figures are those without what lies in the region.
    plain = [without_free(one, rule) for one in marked]
    for have, want in (
        (sensitivity_at(froc_curve(marked, rule), TARGETS), sensitivity_at(froc_curve(plain, rule), TARGETS)),
        (after.false_positives.sum(), match_detections(plain, rule).false_positives.sum()),
    ):
        np.testing.assert_array_equal(have, want)


@given(cases(), st.data())
def test_regions_never_lower_a_figure(images: list[dict[str, Any]], data: st.DataObject) -> None:
    marked = [{**one, "ignored_boxes": data.draw(boxes(0, 3))} for one in images]
    before, after = (sensitivity_at(froc_curve(each), TARGETS) for each in (images, marked))
    assert (after >= before - 1e-12).all()


@settings(max_examples=15)
@given(cases())
def test_no_region_changes_nothing(images: list[dict[str, Any]]) -> None:
    marked = [{**one, "ignored_boxes": NONE} for one in images]
    for rule in (RELEASED, STRICT):
        one, other = match_detections(images, rule), match_detections(marked, rule)
        np.testing.assert_array_equal(one.outcomes, other.outcomes)
    np.testing.assert_array_equal(average_precision(images).ap50, average_precision(marked).ap50)


def test_average_precision_takes_regions_for_crowds() -> None:
    lesion, region = [[10.0, 10, 30, 30]], [[50.0, 50, 90, 90]]
    case = {"id": "1", "true_boxes": lesion, "width": 100, "height": 100, "scores": [0.9, 0.5]}
    found = {**case, "boxes": [[55.0, 55, 70, 70], *lesion]}
    assert average_precision([found]).ap50 == pytest.approx(0.5)
    precision = average_precision([{**found, "ignored_boxes": region}])
    assert precision.ap50 == pytest.approx(1.0)
    assert precision.lesions_per_image.tolist() == [1]


@given(boxes(0, 6), boxes(0, 3), boxes(0, 3))
def test_only_background_in_a_region_is_left_out(proposals: np.ndarray, truth: np.ndarray, regions: np.ndarray) -> None:
    rows, lesions, places = (torch.as_tensor(each, dtype=torch.float64) for each in (proposals, truth, regions))
    matches = Matching(0.5, 0.5)(HALF_OPEN.iou(lesions, rows))
    inside = (pairwise_share(proposals, regions) >= IN_REGION).any(axis=1)
    wanted = np.where((matches.numpy() == BACKGROUND) & inside, LEFT_OUT, matches.numpy())
    assert HALF_OPEN.without(matches, rows, places).tolist() == wanted.tolist()


def small_network(kind: str) -> Any:
    torch.manual_seed(0)
    body = ResNet3d(layers=(1, 1, 1, 1), width=8)
    if kind == "one stage":
        return mp3d_retinanet(3, body=body, fpn_channels=16, head=OneStageHead(anchor_scale=2.0))
    head = TwoStageHead(anchor_scale=2.0, fc_channels=16, rpn_samples=16, roi_samples=16, proposals=40)
    return mp3d_fpn(3, body=body, fpn_channels=16, head=head)


def losses(network: Any, target: dict[str, Tensor]) -> dict[str, float]:
    torch.manual_seed(1)
    slab = torch.randn(1, 3, 64, 64)
    return {name: float(value) for name, value in network.train()(slab, [target]).items()}


def test_training_without_regions_is_the_same_to_the_bit() -> None:
    lesion = {"boxes": torch.tensor([[8.0, 8, 24, 24]]), "labels": torch.tensor([1])}
    whole = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    for kind in ("two stages", "one stage"):
        network = small_network(kind)
        plain = losses(network, lesion)
        assert losses(network, {**lesion, IGNORED: torch.tensor([False])}) == plain
        marked = {"boxes": torch.cat([lesion["boxes"], whole]), "labels": torch.tensor([1, 1])}
        assert losses(network, {**marked, IGNORED: torch.tensor([False, True])}) != plain


def test_a_slab_that_is_one_region_teaches_nothing() -> None:
    target = {
        "boxes": torch.tensor([[-99.0, -99, 199, 199]]),
        "labels": torch.tensor([1]),
        IGNORED: torch.tensor([True]),
    }
    for kind in ("two stages", "one stage"):
        network = small_network(kind).train()
        found = network(torch.randn(1, 3, 64, 64), [target])
        torch.stack(list(found.values())).sum().backward()
        assert all(not parameter.grad.any() for parameter in network.parameters() if parameter.grad is not None)
