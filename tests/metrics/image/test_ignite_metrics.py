"""The metrics in an engine, in one process and in two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ignite.engine import Engine
from monai.engines import Evaluator

from scripts.metrics.average_precision import average_precision
from scripts.metrics.froc import froc_curve, sensitivity_at
from scripts.metrics.image.ignite_metrics import METRIC_NAMES, DetectionMetrics
from scripts.metrics.matching import MULAN
from support.two_processes import in_two_processes


def random_cases(images: int = 12) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    cases = []
    for number in range(images):
        corners = generator.uniform(0, 420, (6, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(15, 60, (6, 2))], axis=1)
        cases.append(
            {
                "id": f"{number:03d}",
                "patient": str(number),
                "boxes": boxes.astype(np.float32),
                "scores": generator.uniform(size=6).round(1),
                "true_boxes": boxes[: number % 3] + 1,
                "width": 512,
                "height": 512,
            }
        )
    return cases


def run(metric: DetectionMetrics, batches: list[Any], epochs: int = 1) -> dict[str, float]:
    engine = Engine(lambda _, batch: batch)
    metric.attach(engine, "mean_sensitivity")
    return engine.run(batches, max_epochs=epochs).metrics


def test_all_metrics_are_set_as_floats() -> None:
    cases = random_cases()
    metrics = run(DetectionMetrics(), [cases[:5], cases[5:]])
    values = sensitivity_at(froc_curve(cases))
    assert tuple(metrics) == METRIC_NAMES
    assert all(type(value) is float for value in metrics.values())
    assert metrics["sensitivity@0.5"] == values[0]
    assert metrics["sensitivity@16"] == values[5]
    assert metrics["mean_sensitivity"] == pytest.approx(values[:4].mean())
    assert metrics["ap50"] == average_precision(cases).ap50


def test_batches_and_their_order_do_not_matter() -> None:
    cases = random_cases()
    assert run(DetectionMetrics(), [cases]) == run(DetectionMetrics(), [[case] for case in cases[::-1]])


def test_every_epoch_starts_anew_and_keeps_its_cases() -> None:
    metric = DetectionMetrics()
    cases = random_cases()
    assert run(metric, [cases[6:], cases[:6]], epochs=3) == run(DetectionMetrics(), [cases])
    assert [case["id"] for case in metric.cases] == [case["id"] for case in cases]
    metric.reset()
    assert metric.cases == []


def test_output_transform_and_rule() -> None:
    cases = random_cases()
    metric = DetectionMetrics(output_transform=lambda output: output["cases"], rule=MULAN)
    metrics = run(metric, [{"cases": cases}, {"cases": []}])
    assert metrics["sensitivity@1"] == sensitivity_at(froc_curve(cases, MULAN), [1.0])[0]


def test_monai_takes_it_as_key_metric() -> None:
    cases = random_cases()
    evaluator = Evaluator(
        device="cpu",  # pyright: ignore[reportArgumentType]
        val_data_loader=[cases],  # pyright: ignore[reportArgumentType]
        iteration_update=lambda _, batch: batch,
        key_val_metric={"mean_sensitivity": DetectionMetrics()},
    )
    evaluator.run()
    assert evaluator.state.best_metric == evaluator.state.metrics["mean_sensitivity"] > 0
    assert evaluator.state.metrics["ap50"] > 0


def test_a_repeated_image_counts_once() -> None:
    cases = random_cases()
    assert run(DetectionMetrics(), [cases, cases[:2]]) == run(DetectionMetrics(), [cases])


def test_two_images_of_one_name_are_an_error_whatever_the_batches() -> None:
    cases = random_cases()
    other = {**cases[4], "true_boxes": cases[4]["true_boxes"] + 1}
    for batches in ([cases, [other]], [[other], cases], [cases[:4], cases[4:], cases[:1], [other]]):
        with pytest.raises(ValueError, match="got two of 004 with 1 and 1 true boxes") as caught:
            run(DetectionMetrics(), batches)
        assert "\n" not in str(caught.value)


def test_an_unknown_name_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"Expected one of mean_sensitivity.*got 'froc'"):
        DetectionMetrics().attach(Engine(lambda _, batch: batch), "froc")


def test_a_malformed_case_is_named() -> None:
    with pytest.raises(ValueError, match=r"finite scores.*003"):
        DetectionMetrics().update([{**random_cases()[3], "scores": np.full(6, np.nan)}])


def test_an_epoch_without_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        DetectionMetrics().compute()


def share(rank: int, expected: dict[str, float]) -> None:
    """Every second image in each of two processes, and one image in both."""
    cases = random_cases()
    metrics = run(DetectionMetrics(), [cases[rank::2], cases[:1]])
    if metrics != expected:
        raise RuntimeError(f"process {rank} got {metrics} and not {expected}")


def test_two_processes_see_all_images() -> None:
    expected = run(DetectionMetrics(), [random_cases()])
    in_two_processes(share, expected)
