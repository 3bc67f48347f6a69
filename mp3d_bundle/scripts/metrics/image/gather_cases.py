"""What the detection metrics share as Ignite metrics: the cases of an epoch, gathered from all processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine
from ignite.metrics import Metric
from ignite.metrics.metric import EpochWise, MetricUsage

Cases = Sequence[Mapping[str, Any]]
CaseT = TypeVar("CaseT", bound=Mapping[str, Any])


def _truth(case: Mapping[str, Any]) -> Any:
    """True boxes of a checked case, COCO's under their own name."""
    return case["true_boxes"] if "true_boxes" in case else case["truth"]["bbox"]


class CaseMetrics(Metric, Generic[CaseT]):
    """Metrics of all images of an epoch, each set under its own name in ``engine.state.metrics``.

    In several processes each one adds its own images; the cases are gathered when the metrics are computed,
    put in the order of their ``id`` and without the repetitions that a sampler adds to even out its shares, so
    the result does not depend on the number of processes. `cases` keeps them for a report until the next
    epoch starts.

    Args:
        output_transform: Makes of the engine's output a list of cases.

    Attributes:
        names: Names of the metrics; the first is the one to choose the best checkpoint by.
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, output_transform: Callable[[Any], Cases] = lambda output: output) -> None:
        self._own: list[CaseT] = []
        self._cases: list[CaseT] | None = None
        # Ignite would otherwise take an empty list of cases for a pair of tensors.
        super().__init__(output_transform, skip_unrolling=True)

    @staticmethod
    @abstractmethod
    def check(cases: Cases) -> list[CaseT]:
        """Check cases and bring them to plain arrays.

        Raises:
            ValueError: If a case is malformed.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Compute the metrics of all `cases`.

        Returns:
            A float for each of `names`.

        Raises:
            ValueError: If there is no case.
        """

    def reset(self) -> None:
        """Forget all cases."""
        self._own = []
        self._cases = None

    def update(self, output: Cases) -> None:
        """Add the cases of one batch.

        Raises:
            ValueError: If a case is malformed.
        """
        if len(output) > 0:
            self._own += self.check(output)
            self._cases = None

    @property
    def cases(self) -> list[CaseT]:
        """All cases of the epoch, in the order of their ``id``; gathers them from all processes at first.

        Raises:
            ValueError: If two cases of one ``id`` differ in their lesions: no repetition, but two images of one name.
        """
        if self._cases is None:
            parts: Any = idist.all_gather(self._own) if idist.get_world_size() > 1 else [self._own]
            by_id: dict[str, CaseT] = {}
            for case in (case for part in parts for case in part):
                first = by_id.setdefault(case["id"], case)
                if not np.array_equal(_truth(first), _truth(case)):
                    raise ValueError(
                        f"Expected one image for each id, got two of {case['id']} with {len(_truth(first))} and "
                        f"{len(_truth(case))} true boxes that are not the same."
                    )
            self._cases = [by_id[name] for name in sorted(by_id)]
        return self._cases

    def attach(self, engine: Engine, name: str, usage: str | MetricUsage = EpochWise()) -> None:  # noqa: B008
        """Attach to an engine as ``name``, one of `names`; the others are set as well.

        Raises:
            ValueError: If it is another name: an engine would find no value under it.
        """
        if name not in self.names:
            raise ValueError(f"Expected one of {', '.join(self.names)} as the metric's name, got {name!r}.")
        super().attach(engine, name, usage)

    def completed(self, engine: Engine, name: str) -> None:
        """Put every metric into ``engine.state.metrics``."""
        engine.state.metrics.update(self.compute())
