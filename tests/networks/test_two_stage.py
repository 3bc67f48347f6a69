"""The whole detector: both modes, any sizes, any precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scripts.networks import FasterRCNN

LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
ONE = {"boxes": torch.tensor([[10.0, 12.0, 30.0, 44.0]]), "labels": torch.tensor([1])}
Make = Callable[..., FasterRCNN]


def slabs() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(3, 50, 70), torch.randn(3, 64, 64)]


def backward(losses: dict[str, Tensor] | list[dict[str, Tensor]]) -> None:
    assert isinstance(losses, dict)
    torch.stack([value.float() for value in losses.values()]).sum().backward()


@pytest.mark.parametrize("targets", [[ONE, ONE], [ONE, NONE], [NONE, NONE]], ids=["lesions", "one empty", "all empty"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
def test_training_gives_named_finite_losses_and_reaches_every_parameter(
    narrow: Make, targets: list[dict[str, Tensor]], dtype: torch.dtype | None
) -> None:
    network = narrow().train()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        losses = network(slabs(), targets)
    assert set(losses) == LOSSES
    assert all(value.ndim == 0 and value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    backward(losses)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_lesions_move_every_parameter(narrow: Make) -> None:
    network = narrow().train()
    backward(network(torch.randn(1, 3, 192, 192), [ONE]))  # large enough for anchors of every level
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []  # type: ignore[union-attr]


def test_a_step_down_the_gradient_lowers_the_loss(narrow: Make) -> None:
    network = narrow().train()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    totals = []
    for _ in range(6):
        torch.manual_seed(0)
        losses = network(slabs(), [ONE, ONE])
        optimizer.zero_grad()
        backward(losses)
        optimizer.step()
        totals.append(sum(value.item() for value in losses.values()))
    assert totals[-1] < 0.95 * totals[0]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
@torch.no_grad()
def test_detections_lie_in_the_slab_best_first(narrow: Make, dtype: torch.dtype | None) -> None:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        found = narrow().eval()(slabs())
    for result, slab in zip(found, slabs(), strict=True):
        assert set(result) == {"boxes", "scores", "labels"}
        boxes, scores = result["boxes"], result["scores"]
        assert 0 < len(boxes) <= 100
        assert boxes.dtype == scores.dtype == torch.float32
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([slab.shape[2], slab.shape[1]] * 2)).all()
        assert (scores.diff() <= 0).all()
        assert result["labels"].eq(1).all()


@torch.no_grad()
def test_a_batch_is_the_same_as_one_by_one(narrow: Make) -> None:
    network = narrow().eval()
    batch = [*slabs(), slabs()[1].flip(-1), slabs()[0][:, :47]]
    for together, slab in zip(network(batch), batch, strict=True):
        (alone,) = network([slab])
        for key in alone:
            torch.testing.assert_close(together[key], alone[key], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_tensor_is_the_same_as_a_list(narrow: Make) -> None:
    network = narrow().eval()
    tensor = torch.randn(2, 3, 50, 70)
    for one, other in zip(network(tensor), network(list(tensor)), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 95)])
def test_slabs_of_any_size(narrow: Make, size: tuple[int, int]) -> None:
    network = narrow()
    slab = torch.randn(1, 3, *size)
    (found,) = network.eval()(slab)
    assert found["boxes"].shape[1] == 4
    losses = network.train()(slab, [{"boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]]), "labels": torch.tensor([1])}])
    assert all(value.isfinite() for value in losses.values())


def test_no_proposal_at_all_is_legal(narrow: Make) -> None:
    """Offsets that put every box outside the image."""
    network = narrow()
    nn.init.zeros_(network.rpn.head.bbox_pred.weight)  # type: ignore[arg-type]
    nn.init.constant_(network.rpn.head.bbox_pred.bias, -1e3)  # type: ignore[arg-type]
    (found,) = network.eval()([slabs()[1]])
    assert [tuple(found[key].shape) for key in ("boxes", "scores", "labels")] == [(0, 4), (0,), (0,)]
    for targets in ([ONE], [NONE]):
        losses = network.train()([slabs()[1]], targets)
        network.zero_grad()
        backward(losses)
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_whole_networks_in_another_precision(narrow: Make, dtype: torch.dtype) -> None:
    network = narrow().to(dtype)
    batch = [slab.to(dtype) for slab in slabs()]
    backward(network.train()(batch, [ONE, NONE]))
    assert all(len(found["boxes"]) for found in network.eval()(batch))


def test_lesions_need_no_particular_dtype(narrow: Make) -> None:
    network = narrow().train()
    whole = {"boxes": ONE["boxes"].long(), "labels": ONE["labels"].int()}
    double = {"boxes": ONE["boxes"].double(), "labels": ONE["labels"]}
    values = []
    for target in (ONE, whole, double):
        torch.manual_seed(0)
        values.append([value.item() for value in network(slabs(), [target, NONE]).values()])
    assert values[1] == pytest.approx(values[0])
    assert values[2] == pytest.approx(values[0])


def test_a_bad_pixel_shows_in_the_losses_and_stops_an_evaluation(narrow: Make) -> None:
    network = narrow()
    bad = slabs()
    bad[1][0, 0, 0] = float("nan")
    assert network.train()(bad, [ONE, NONE])["loss_objectness"].isnan()
    with pytest.raises(ValueError, match="finite pixels in slab 1"):
        network.eval()(bad)


def test_bad_weights_stop_an_evaluation(narrow: Make) -> None:
    network = narrow().eval()
    nn.init.constant_(network.roi_heads.box_head.fc6.bias, float("nan"))
    with pytest.raises(ValueError, match="finite class scores"):
        network(slabs())


def test_training_needs_targets_and_the_right_slices(narrow: Make) -> None:
    network = narrow().train()
    with pytest.raises(ValueError, match="Expected 2 targets"):
        network(slabs())
    with pytest.raises(ValueError, match=r"reads 3 slices, got \(1, 5, 32, 32\)"):
        network(torch.zeros(1, 5, 32, 32), [ONE])


@pytest.mark.parametrize("count", [1, 2])
def test_a_network_tells_its_classes(narrow: Make, count: int) -> None:
    network = narrow(3, count).eval()
    assert network.num_classes == count
