"""RetinaNet with dense masks: gates, the masks that it learns, and a branch that evaluation does not have."""

from __future__ import annotations

import pytest
import torch

from scripts.networks import ResNet2d, retinanet_2d, retinanet_masks
from scripts.networks.published.retinanet_masks import AttentionGate, DenseMaskBranch, dense_masks, known_pixels

THIN = {"fpn_channels": 16}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return retinanet_masks(3, body=ResNet2d([1, 1, 1, 1], width=8), **THIN)  # type: ignore[arg-type]


def target() -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor([[8.0, 16.0, 24.0, 48.0]]),
        "labels": torch.ones(1, dtype=torch.int64),
        "masks": torch.ones(1, 28, 28),
    }


def test_masks_of_lesions_become_one_of_the_slab() -> None:
    half = torch.zeros(2, 28, 28)
    half[0], half[1, :, :14] = 1.0, 1.0
    found = dense_masks(
        [
            {"boxes": torch.tensor([[8.0, 16.0, 24.0, 48.0], [40.0, 0.0, 60.0, 20.0]]), "masks": half},
            {"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 28, 28)},
        ],
        (64, 64),
    )
    assert found.shape == (2, 64, 64)
    assert found[0, 18:46, 10:22].gt(0.99).all()
    assert found[0, :, 26:38].eq(0).all()
    assert found[0, 4:16, 42:48].gt(0.99).all()
    assert found[0, 4:16, 52:60].eq(0).all()
    assert not found[1].any()


def test_a_gate_weighs_positions_by_both_levels() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(4)
    level, above = torch.rand(2, 4, 8, 8), torch.rand(2, 4, 4, 4)
    weights = gate(level, above) / level
    assert torch.allclose(weights, weights[:, :1].expand_as(weights))
    assert ((weights > 0) & (weights < 1)).all()
    assert not torch.equal(gate(level, above), gate(level, above + 1))


def test_the_branch_learns_masks_at_twice_the_resolution() -> None:
    torch.manual_seed(0)
    branch = DenseMaskBranch(4)
    level, dense = torch.randn(1, 4, 8, 8), torch.zeros(1, 64, 64)
    dense[:, 16:48, 16:48] = 1
    assert branch(level).shape == (1, 16, 16)
    level[:, 0] = torch.nn.functional.adaptive_avg_pool2d(dense, 8) * 4
    optimizer = torch.optim.Adam(branch.parameters(), 0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = branch.loss(level, dense)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    with torch.no_grad():
        assert ((branch(level) > 0) == (torch.nn.functional.adaptive_avg_pool2d(dense, 16) > 0.5)).float().mean() > 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_has_a_loss_of_masks_and_gradients_everywhere(dtype: torch.dtype) -> None:
    detector = network().train()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = detector(torch.randn(2, 3, 64, 96), [target(), target()])
    assert sorted(losses) == ["loss_box_reg", "loss_classifier", "loss_masks"]
    total = torch.stack([*losses.values()]).sum()
    assert torch.isfinite(total)
    total.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in detector.parameters())


def test_masks_are_needed_in_training_only() -> None:
    detector = network()
    with torch.no_grad():
        (found,) = detector.eval()(torch.randn(1, 3, 64, 64))
    assert sorted(found) == ["boxes", "labels", "scores"]
    bare = {name: value for name, value in target().items() if name != "masks"}
    with pytest.raises(ValueError, match="masks"):
        detector.train()(torch.randn(1, 3, 64, 64), [bare])


def test_its_parts_are_those_of_the_plain_one_and_more() -> None:
    body = {"body": ResNet2d([1, 1, 1, 1], width=8), **THIN}
    plain = set(retinanet_2d(3, **body).state_dict())  # type: ignore[arg-type]
    more = set(network().state_dict()) - plain
    assert plain <= set(network().state_dict())
    assert {name.split(".")[0] if name.startswith("mask") else name.split(".")[2] for name in more} == {
        "mask_branch", "gates",
    }  # fmt: skip


def test_slices_and_strides_are_checked() -> None:
    with pytest.raises(ValueError, match="3 slices"):
        retinanet_masks(9)


def test_regions_to_ignore_are_unknown_but_for_their_lesions() -> None:
    dense = torch.zeros(2, 8, 10)
    dense[0, 2, 3] = 1
    regions = [torch.tensor([[2.0, 1.0, 5.0, 4.0], [8.6, 0.0, 10.0, 1.4]]), torch.zeros(0, 4)]
    known = known_pixels(regions, dense)
    wanted = torch.ones(2, 8, 10)
    wanted[0, 1:4, 2:5] = 0
    wanted[0, 2, 3] = 1
    wanted[0, 0, 9] = 0
    assert torch.equal(known, wanted)


def test_unknown_pixels_have_no_loss() -> None:
    torch.manual_seed(0)
    branch, level = DenseMaskBranch(4), torch.randn(2, 4, 8, 8)
    dense, known = torch.zeros(2, 32, 32), torch.ones(2, 32, 32)
    dense[:, 4:12, 4:12] = 1
    torch.testing.assert_close(branch.loss(level, dense, known), branch.loss(level, dense))
    known[0, 16:, :] = 0
    other = dense.clone()
    other[0, 16:, :] = 1
    torch.testing.assert_close(branch.loss(level, other, known), branch.loss(level, dense, known))
    assert not torch.isclose(branch.loss(level, other), branch.loss(level, dense))
    logits = branch(level).detach().requires_grad_()
    branch.forward = lambda _: logits  # type: ignore[method-assign]
    branch.loss(level, dense, known).backward()
    assert logits.grad is not None
    assert not logits.grad[0, 8:].any()
    assert logits.grad[0, :8].all()
    assert branch.loss(level, dense, torch.zeros_like(known)).item() == 0


def test_a_detector_learns_nothing_of_a_region() -> None:
    torch.manual_seed(0)
    slabs, detector = torch.randn(1, 3, 64, 64), network().train()
    lesion, whole = target(), torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    ignored = {name: torch.cat([values, values[:1]]) for name, values in lesion.items()}
    ignored |= {"boxes": torch.cat([lesion["boxes"], whole])}
    ignored |= {"ignored": torch.tensor([False] * len(lesion["boxes"]) + [True])}
    levels: list[torch.Tensor] = []
    detector.mask_branch.register_forward_pre_hook(lambda _, inputs: levels.append(inputs[0]))
    loss = detector(slabs, [ignored])["loss_masks"]
    dense = dense_masks([lesion], (64, 64))
    torch.testing.assert_close(loss, detector.mask_branch.loss(levels[0], dense, (dense > 0).float()))
    assert not torch.isclose(loss, detector.mask_branch.loss(levels[0], dense))
