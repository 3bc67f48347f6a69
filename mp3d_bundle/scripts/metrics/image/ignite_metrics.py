"""The detection metrics as an Ignite metric, for validation in training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..average_precision import average_precision
from ..bootstrap import mean_sensitivity
from ..cases import Case, check_cases
from ..froc import FPS_PER_IMAGE, froc_curve, sensitivity_at, target_name
from ..matching import RELEASED, FrocRule
from .gather_cases import CaseMetrics, Cases

# Names in `engine.state.metrics`; the first is the one to choose the best checkpoint by.
METRIC_NAMES = ("mean_sensitivity", *(f"sensitivity@{target_name(target)}" for target in FPS_PER_IMAGE), "ap50")


class DetectionMetrics(CaseMetrics[Case]):
    """FROC and AP50 over all images of an epoch.

    Sets every name of `METRIC_NAMES` in ``engine.state.metrics``, as floats in [0, 1]; NaN when no image
    has a lesion. See `CaseMetrics`.

    Example::

        key_val_metric={"mean_sensitivity": DetectionMetrics(output_transform=to_cases)}

    Args:
        output_transform: Makes of the engine's output a list of cases (see `scripts.metrics.cases`).
        rule: Matching of the FROC.
    """

    names = METRIC_NAMES
    check = staticmethod(check_cases)

    def __init__(
        self, output_transform: Callable[[Any], Cases] = lambda output: output, rule: FrocRule = RELEASED
    ) -> None:
        self.rule = rule
        super().__init__(output_transform)

    def compute(self) -> dict[str, float]:
        """Compute the metrics of all cases.

        Returns:
            A float for each of `METRIC_NAMES`.

        Raises:
            ValueError: If there is no case.
        """
        values = sensitivity_at(froc_curve(self.cases, self.rule))
        numbers = [mean_sensitivity(values, FPS_PER_IMAGE), *values, average_precision(self.cases).ap50]
        return {name: float(np.asarray(number)) for name, number in zip(METRIC_NAMES, numbers, strict=True)}
