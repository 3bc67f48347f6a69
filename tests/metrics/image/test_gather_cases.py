"""Cases of an epoch: gathered, in order, each once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ignite.engine import Engine

from scripts.metrics.cases import Case, check_cases
from scripts.metrics.image.gather_cases import CaseMetrics
from support.fake_evaluations import image_cases


class Sums(CaseMetrics[Case]):
    """Number of images and of lesions."""

    names = ("images", "lesions")
    check = staticmethod(check_cases)

    def compute(self) -> dict[str, float]:
        """Count."""
        return {"images": len(self.cases), "lesions": sum(len(case["true_boxes"]) for case in self.cases)}


def run(batches: list[Any]) -> dict[str, float]:
    engine = Engine(lambda _, batch: batch)
    Sums().attach(engine, "lesions")
    return engine.run(batches).metrics


def test_every_metric_is_set_whatever_the_batches_and_their_order() -> None:
    cases = image_cases(9)
    assert run([cases]) == run([cases[5:], [], cases[:5][::-1]]) == {"images": 9, "lesions": 9}


def test_cases_come_in_the_order_of_their_ids_and_repeated_ones_once() -> None:
    metric, cases = Sums(), image_cases(4)
    metric.update([cases[3], cases[1]])
    metric.update([cases[1], cases[0]])
    assert [case["id"] for case in metric.cases] == ["000.png", "001.png", "003.png"]
    metric.update([cases[2]])
    assert len(metric.cases) == 4


def test_two_images_of_one_id_are_rejected() -> None:
    metric, (first, second, *_) = Sums(), image_cases(4)
    metric.update([first])
    metric.update([{**second, "id": first["id"]}])
    with pytest.raises(ValueError, match=r"Expected one image for each id, got two of 000\.png with 0 and 1"):
        _ = metric.cases


def test_a_malformed_case_is_rejected_when_it_comes() -> None:
    metric = Sums()
    with pytest.raises(ValueError, match="one score per box"):
        metric.update([{**image_cases(1)[0], "scores": np.zeros(0)}])
    metric.reset()
    assert metric.cases == []


def test_a_name_that_is_not_a_metric_is_rejected() -> None:
    with pytest.raises(ValueError, match="Expected one of images, lesions as the metric's name, got 'ap50'"):
        Sums().attach(Engine(lambda _, batch: batch), "ap50")
