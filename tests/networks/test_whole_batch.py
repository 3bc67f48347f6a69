"""A batch in parts, in passes and in processes: losses and gradients are those of the whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scripts.networks import (
    ResNet2d,
    ResNet3d,
    TwoStageHead,
    mp3d_fpn,
    mp3d_retinanet,
    retinanet_masks,
)
from scripts.networks.whole_batch import Part, common_size, draw_generator, mean_count, passing
from support.two_processes import in_two_processes
from support.whole_detectors import target

HEAD = TwoStageHead(anchor_scale=2.0, fc_channels=16, rpn_samples=32, roi_samples=32, train_per_level=60, proposals=60)
BODY = partial(ResNet3d, layers=(1, 1, 1, 1), width=4)
KINDS: dict[str, Callable[[], nn.Module]] = {
    "two stages": lambda: mp3d_fpn(3, body=BODY(), fpn_channels=8, head=HEAD),
    "one stage": lambda: mp3d_retinanet(3, body=BODY(), fpn_channels=8, head=HEAD),
    "masks": lambda: retinanet_masks(3, body=ResNet2d(layers=(1, 1, 1, 1), width=4), fpn_channels=8, head=HEAD),
}
BOXES = [[[4.0, 6.0, 20.0, 22.0]], [], [[10.0, 10.0, 30.0, 26.0], [2.0, 4.0, 10.0, 16.0]], [[2.0, 3.0, 14.0, 12.0]]]
SIZES = [(32, 32), (32, 64), (28, 32), (32, 32)]
SEEDS = [11, 12, 13, 14]


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    draw = torch.Generator().manual_seed(5)
    return [torch.randn(3, *size, generator=draw, dtype=torch.float64) for size in SIZES], [
        target(boxes) for boxes in BOXES
    ]


def network_of(kind: str) -> nn.Module:
    torch.manual_seed(3)
    # In double precision rounding hides nothing.
    return KINDS[kind]().double().train()


def losses_and_gradient(network: nn.Module, rows: list[int], part: Part) -> tuple[dict[str, float], Tensor]:
    slabs, targets = batch()
    network.zero_grad()
    with passing(part):
        losses = network([slabs[row] for row in rows], [targets[row] for row in rows])
    torch.stack([*losses.values()]).sum().backward()
    flat = [each.grad.flatten() for each in network.parameters() if each.grad is not None]
    return {name: loss.item() for name, loss in losses.items()}, torch.cat(flat)


def of_one_process(rank: int, kind: str, folder: Path) -> None:
    """Every second image, as a sampler shares them out."""
    torch.set_num_threads(1)
    rows = [rank, rank + 2]
    found = losses_and_gradient(network_of(kind), rows, Part([SEEDS[row] for row in rows]))
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.parametrize("kind", ["two stages", "one stage", pytest.param("masks", marks=pytest.mark.slow)])
def test_two_processes_have_the_losses_and_gradients_of_one(kind: str, tmp_path: Path) -> None:
    whole, gradient = losses_and_gradient(network_of(kind), [0, 1, 2, 3], Part(SEEDS))
    in_two_processes(of_one_process, kind, tmp_path)
    (first, one), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first != second
    for name, loss in whole.items():
        assert (first[name] + second[name]) / 2 == pytest.approx(loss, rel=1e-6), name
    assert gradient.norm() > 0
    torch.testing.assert_close((one + other) / 2, gradient, rtol=1e-6, atol=1e-8 * float(gradient.norm()))


@pytest.mark.parametrize("kind", ["two stages", pytest.param("masks", marks=pytest.mark.slow)])
def test_passes_that_know_the_whole_add_up_to_it(kind: str) -> None:
    network = network_of(kind)
    whole, gradient = losses_and_gradient(network, [0, 1, 2, 3], Part(SEEDS))
    passes = [[0, 1], [2, 3]]
    counts = []
    for rows in passes:
        part = Part.to_count([SEEDS[row] for row in rows], (32, 64))
        losses_and_gradient(network, rows, part)
        counts.append(part.noted)
    totals = [sum(numbers) for numbers in zip(*counts, strict=True)]
    parts = [Part([SEEDS[row] for row in rows], size=(32, 64), totals=totals, shares=2) for rows in passes]
    (first, one), (second, other) = (
        losses_and_gradient(network, rows, part) for rows, part in zip(passes, parts, strict=True)
    )
    for name, loss in whole.items():
        assert (first[name] + second[name]) / 2 == pytest.approx(loss, rel=1e-6), name
    torch.testing.assert_close((one + other) / 2, gradient, rtol=1e-6, atol=1e-8 * float(gradient.norm()))


def test_a_slab_has_the_same_random_choice_in_any_batch() -> None:
    def drawn(seeds: list[int], row: int) -> list[int]:
        with passing(Part(seeds)):
            draws = [torch.randperm(50, generator=draw_generator(row, torch.device("cpu"))) for _ in range(2)]
        assert not torch.equal(*draws)
        return torch.cat(draws).tolist()

    assert drawn([7, 8, 9], 2) == drawn([9], 0) != drawn([7], 0)
    assert draw_generator(0, torch.device("cpu")) is None


def test_alone_a_batch_is_what_it_is() -> None:
    like = torch.zeros(1)
    assert common_size((32, 64), like) == (32, 64)
    assert mean_count(5, like) == 5
    assert mean_count(0, like) == 1
    assert mean_count(torch.tensor(0), like) == 1
    with passing(Part(totals=[10, 0], shares=4)):
        assert mean_count(3, like) == 2.5
        assert mean_count(0, like) == 0.25
