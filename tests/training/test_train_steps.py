"""One iteration: clipping, accumulation, reduced precision, what is reported."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from torch import nn

from scripts.networks import ResNet2d, ResNet3d, TwoStageHead, fpn_3dce, mp3d_fpn
from scripts.training import mixed_precision
from scripts.training.mixed_precision import MixedPrecision
from scripts.training.train_handlers import StopOnNonFinite
from scripts.training.train_steps import TrainingStep, prepare_slabs, prepare_targets, slab_facts, total_loss
from support.fake_engines import Run

HEAD = TwoStageHead(anchor_scale=2.0, fc_channels=16, rpn_samples=32, roi_samples=32, train_per_level=60)


def recorded(run: Run) -> list[dict[str, float]]:
    rows = []
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda: rows.append({key: float(value) for key, value in run.trainer.state.output.items()}),
    )
    run.run()
    return rows


def test_a_batch_for_training() -> None:
    image = MetaTensor(torch.zeros(3, 4, 6))
    samples = [
        {
            "image": image,
            "instances": {"boxes": torch.tensor([[1, 2, 3, 4]]), "labels": torch.tensor([1]), "age": torch.tensor([7])},
        },
        {"image": image, "instances": {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "age": np.zeros(0, int)}},
    ]
    slabs, targets, args, kwargs = prepare_targets(samples, "cpu")
    assert [type(slab) for slab in slabs] == [torch.Tensor, torch.Tensor]
    assert slabs[0].shape == (3, 4, 6)
    assert [target["boxes"].shape for target in targets] == [(1, 4), (0, 4)]
    assert targets[0]["boxes"].dtype is torch.float32
    assert targets[1]["labels"].dtype is torch.int64
    assert [target["age"].tolist() for target in targets] == [[7], []]
    assert args == (targets,)
    assert kwargs == {}


def test_a_batch_for_evaluation_needs_no_boxes() -> None:
    slabs, targets = prepare_slabs([{"image": torch.zeros(3, 4, 6)}], "cpu")
    assert len(slabs) == 1
    assert targets is None


def test_named_losses_rate_and_norm_are_reported_without_a_graph() -> None:
    run = Run(epochs=1)
    rows = recorded(run)
    assert len(rows) == 3
    assert set(rows[0]) == {"loss", "loss_classifier", "loss_box_reg", "learning_rate", "gradient_norm"}
    assert rows[0]["loss"] == pytest.approx(rows[0]["loss_classifier"] + rows[0]["loss_box_reg"])
    assert rows[0]["learning_rate"] == pytest.approx(0.05 / 3)
    assert not any(getattr(value, "requires_grad", False) for value in run.trainer.state.output.values())


def test_the_loss_is_the_plain_sum() -> None:
    losses = {"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(2.0, dtype=torch.bfloat16)}
    assert total_loss(losses).item() == 3.0
    assert total_loss(losses).dtype is torch.float32


def test_the_norm_is_clipped_over_all_parameters_and_reported_as_it_was() -> None:
    run = Run(epochs=1, clip=0.01)
    before = run.weights()
    rate = run.optimizer.param_groups[0]["lr"]
    norms = []
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=1), lambda: norms.append(float(run.trainer.state.output["gradient_norm"]))
    )
    after = {}
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: after.update(run.weights()))
    run.run()
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before]).norm()
    assert norms[0] > 0.01
    assert moved.item() == pytest.approx(rate * 0.01, rel=1e-3)


def test_accumulation_steps_once_per_window_and_at_the_end_of_an_epoch() -> None:
    rows = recorded(Run(epochs=2, accumulation=2))
    assert ["gradient_norm" in row for row in rows] == [False, True, True] * 2


def test_accumulated_gradients_are_averaged() -> None:
    """Twice the same batch, half the weight each, moves the weights as that batch alone does."""
    moved = []
    for accumulation in (1, 2):
        run = Run(epochs=1, accumulation=accumulation, batch_size=6)
        run.network.spoil = lambda loss: loss * 0  # leaves the part without random numbers
        run.trainer.data_loader = [next(iter(run.loader))] * accumulation
        run.trainer.state.epoch_length = accumulation
        moved.append(run.run().weights())
    # The schedule has moved on by one iteration before the second run's only step.
    for name in moved[0]:
        start = Run(epochs=1).weights()[name]
        ratio = (moved[1][name] - start).norm() / (moved[0][name] - start).norm()
        assert ratio.item() == pytest.approx((1 / 3 + 1 / 6) / (1 / 3), rel=0.03)


def test_bfloat16_trains_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_precision, "cpu_has_bfloat16", lambda: True)
    run = Run(epochs=2, precision=MixedPrecision("cpu", enabled=True, dtype="bfloat16"))
    seen = []
    run.network.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    before = run.evaluator.run() or run.evaluator.state.metrics["mean_sensitivity"]
    run.run()
    assert set(seen) == {torch.bfloat16}
    assert all(value.dtype is torch.float32 for value in run.weights().values())
    assert run.evaluator.state.metrics["mean_sensitivity"] > before


def test_an_evaluation_leaves_one_case_per_image() -> None:
    run = Run(epochs=1)
    cases = []
    run.evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: cases.extend(image["case"] for image in run.evaluator.state.output)
    )
    run.evaluator.run()
    assert len({case["id"] for case in cases}) == 12
    assert run.network.training  # as it was before


def scaled() -> MixedPrecision:
    """Loss scaling as with float16 on a GPU, in arithmetic that a CPU has."""
    precision = MixedPrecision("cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    return precision


def test_loss_scaling_is_taken_out_before_the_norm_is_clipped_and_the_step_taken() -> None:
    plain = Run(epochs=1, clip=0.1)
    expected = recorded(plain)
    under_scale = Run(epochs=1, clip=0.1, precision=scaled())
    for row, other in zip(recorded(under_scale), expected, strict=True):
        assert row["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-5)
        assert row["gradient_norm"] > 0.1
    for name, value in under_scale.weights().items():
        torch.testing.assert_close(value, plain.weights()[name])


def test_an_overflowing_gradient_under_scale_skips_the_step_and_halves_the_scale() -> None:
    precision = scaled()
    assert precision.scaler is not None
    run = Run(epochs=1, precision=precision)
    StopOnNonFinite(precision).attach(run.trainer)
    run.network.spoil = lambda loss: loss * 1e37
    before = run.weights()
    run.run()
    assert precision.scaler.get_scale() == 512.0 / 2**3
    assert all(torch.equal(value, before[name]) for name, value in run.weights().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_trains_on_a_gpu() -> None:
    run = Run(epochs=2, device="cuda", precision=MixedPrecision("cuda", enabled=True))
    seen = []
    run.network.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run.run()
    assert set(seen) == {torch.float16}
    assert all(torch.isfinite(value).all() for value in run.weights().values())


def test_only_a_network_that_reads_it_gets_the_thickness() -> None:
    samples: Any = [{"thickness": 2.0}, {"thickness": 5.0}]
    reads = SimpleNamespace(reads_thickness=True)
    assert slab_facts(reads, samples) == {"thickness": [2.0, 5.0]}
    assert slab_facts(SimpleNamespace(module=reads), samples) == {"thickness": [2.0, 5.0]}
    assert slab_facts(SimpleNamespace(), samples) == {}
    assert slab_facts(reads, [{}]) == {}  # type: ignore[typeddict-item]


def test_elements_of_the_gradient_stay_within_a_value() -> None:
    seen = []
    for limit in (None, 1e-4):
        run = Run()
        step: Any = run.trainer._process_function
        step.max_gradient_value = limit
        run.trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda run=run: seen.append(max(float(each.grad.abs().max()) for each in run.network.parameters())),
        )
        run.run()
    assert seen[0] > 1e-4
    assert max(seen[len(seen) // 2 :]) <= 1e-4 * (1 + 1e-6)


def test_a_network_that_reads_patients_is_given_them() -> None:
    known = {"male": np.ones(2), "age": np.full(2, 61.0), "position": np.full(2, 0.5)}
    samples: Any = [{"instances": known}, {"instances": {name: values[:0] for name, values in known.items()}}]
    first, second = slab_facts(SimpleNamespace(reads_patients=True), samples)["patients"]
    assert first == (1.0, 61.0, 0.5)
    assert all(np.isnan(value) for value in second)
    assert slab_facts(SimpleNamespace(), samples) == {}
    assert slab_facts(SimpleNamespace(reads_patients=True), [{"instances": {}}]) == {}  # type: ignore[list-item]


def narrow() -> nn.Module:
    body = ResNet3d(layers=(1, 1, 1, 1), width=4)
    return mp3d_fpn(3, body=body, fpn_channels=8, head=HEAD)


def in_passes(
    images_per_pass: int | None, make: Callable[[], nn.Module] = narrow
) -> tuple[dict[str, float], torch.Tensor, nn.Module]:
    """Losses, gradient and network after a step on five images; a few of their boxes drawn at random."""
    torch.manual_seed(2)
    network = make().double()
    samples: list[Any] = [
        {
            "image": torch.randn(3, 32, 64 - 32 * (number % 2), dtype=torch.float64),
            "instances": {
                "boxes": torch.tensor([[4.0, 6.0, 20.0, 22.0]])[: number % 3],
                "labels": torch.ones(1)[: number % 3],
            },
            "seed": number,
        }
        for number in range(5)
    ]
    engine: Any = SimpleNamespace(
        network=network, prepare_batch=prepare_targets, non_blocking=False, inferer=SimpleInferer(),
        optimizer=torch.optim.SGD(network.parameters(), 0.0), loss_function=total_loss, accumulation_steps=1,
        data_loader=None, fire_event=lambda event: None,
        state=SimpleNamespace(device="cpu", iteration=1, epoch_length=1),
    )  # fmt: skip
    output = TrainingStep(MixedPrecision("cpu"), images_per_pass=images_per_pass, max_gradient_norm=None)(
        engine, samples
    )
    gradient = torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])
    return {name: float(value) for name, value in output.items()}, gradient, network


def test_a_batch_in_passes_has_the_losses_and_the_gradient_of_one_pass() -> None:
    whole, gradient, _ = in_passes(None)
    parts, added, _ = in_passes(2)
    assert set(parts) == set(whole)
    assert parts == {name: pytest.approx(value, rel=1e-6) for name, value in whole.items()}
    torch.testing.assert_close(added, gradient, rtol=1e-6, atol=1e-8 * float(gradient.norm()))


def test_batch_normalisation_counts_each_pass_once() -> None:
    def make() -> nn.Module:
        body = ResNet2d(layers=(1, 1, 1, 1), width=4, norm=nn.BatchNorm2d)
        return fpn_3dce(3, body=body, fpn_channels=8, head=HEAD)

    *_, network = in_passes(2, make)
    counts = {layer.num_batches_tracked for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)}
    assert [*map(int, filter(None, counts))] == [3] * len(counts)
