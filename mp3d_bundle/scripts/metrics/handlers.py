"""The detection metrics as an Ignite metric, for validation in training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine
from ignite.metrics import Metric
from ignite.metrics.metric import EpochWise, MetricUsage

from .average_precision import average_precision
from .bootstrap import mean_sensitivity
from .cases import check_cases
from .evaluation import target_name
from .froc import FPS_PER_IMAGE, froc_curve, sensitivity_at
from .matching import RELEASED, FrocRule

# Names in `engine.state.metrics`; the first is the one to choose the best checkpoint by.
METRIC_NAMES = ("mean_sensitivity", *(f"sensitivity@{target_name(target)}" for target in FPS_PER_IMAGE), "ap50")


class DetectionMetrics(Metric):
    """FROC and AP50 over all images of an epoch.

    Sets every name of `METRIC_NAMES` in ``engine.state.metrics``, as floats in [0, 1]; NaN when no image
    has a lesion. `cases` keeps the cases for a report until the next epoch starts.

    In several processes each one adds its own images; the cases are gathered when the metric is computed,
    put in the order of their ``id`` and freed of the repetitions with which a sampler evens out its
    shares, so the result does not depend on the number of processes.

    Example::

        key_val_metric={"mean_sensitivity": DetectionMetrics(output_transform=to_cases)}

    Args:
        output_transform: Makes of the engine's output a list of cases (see `scripts.metrics.cases`).
        rule: Matching of the FROC.
    """

    def __init__(
        self, output_transform: Callable[[Any], Sequence[Mapping[str, Any]]] = lambda output: output,
        rule: FrocRule = RELEASED,
    ) -> None:  # fmt: skip
        self.rule = rule
        self._own: list[dict[str, Any]] = []
        self._cases: list[dict[str, Any]] | None = None
        # Ignite would otherwise take an empty list of cases for a pair of tensors.
        super().__init__(output_transform, skip_unrolling=True)

    def reset(self) -> None:
        """Forget all cases."""
        self._own = []
        self._cases = None

    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Add the cases of one batch.

        Raises:
            ValueError: If a case is malformed.
        """
        if len(output) > 0:
            self._own += check_cases(output)
            self._cases = None

    @property
    def cases(self) -> list[dict[str, Any]]:
        """All cases of the epoch, in the order of their ``id``; gathers them from all processes at first."""
        if self._cases is None:
            parts: Any = idist.all_gather(self._own) if idist.get_world_size() > 1 else [self._own]
            by_id = {case["id"]: case for part in parts for case in part}
            self._cases = [by_id[name] for name in sorted(by_id)]
        return self._cases

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

    def attach(self, engine: Engine, name: str, usage: str | MetricUsage = EpochWise()) -> None:  # noqa: B008
        """Attach to an engine as ``name``, one of `METRIC_NAMES`; the others are set beside it.

        Raises:
            ValueError: If the name is none of `METRIC_NAMES` (an engine would look for its value in vain).
        """
        if name not in METRIC_NAMES:
            raise ValueError(f"Expected one of {', '.join(METRIC_NAMES)} as the metric's name, got {name!r}.")
        super().attach(engine, name, usage)

    def completed(self, engine: Engine, name: str) -> None:
        """Put every metric into ``engine.state.metrics``."""
        engine.state.metrics.update(self.compute())
