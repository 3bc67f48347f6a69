"""What an evaluation does beside running the network: load its weights first, write its report last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from ..metrics.bootstrap import Bootstrap
from ..metrics.handlers import DetectionMetrics
from ..metrics.report import write_report
from ..metrics.tables import format_table
from ..weights import load_state, read_tensors

logger = logging.getLogger(__name__)


class WeightsLoader:
    """Loads a network's weights when an engine starts, every tensor accounted for.

    Not before: a config can then be built and looked at without weights.

    Args:
        network: The network, on any device.
        path: File of :mod:`scripts.weights`, ``last.pt`` of a training run, or a bare state dict.

    Attributes:
        info: What the file says about its weights; empty before they are loaded.
    """

    def __init__(self, network: nn.Module, path: str | Path) -> None:
        self.network = network
        self.path = Path(path)
        self.info: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Load when ``engine`` starts."""
        engine.add_event_handler(Events.STARTED, self.load)

    def load(self) -> None:
        """Load the weights.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or belongs to another architecture or number of slices.
        """
        content = read_tensors(self.path)
        if not isinstance(content, Mapping):
            raise ValueError(f"Expected weights of a network, got {type(content).__name__} in {self.path}.")
        definition = content.get("network", content.get("definition"))
        try:
            load_state(self.network, content.get("model", content), str(self.path))
        except ValueError as error:
            if definition is None:
                raise
            raise ValueError(f"{error} They belong to the network {definition}.") from None
        self.info = dict(content.get("info", {}))
        notice = self.info.get("notice")
        logger.info("Loaded the weights of %s.%s", self.path, f" {notice}" if notice else "")


class EvaluationReport:
    """Writes the report of an evaluation and shows its table, when the engine is done.

    Args:
        output_dir: Folder of the report.
        metric: The metric that gathered the cases.
        weights: Loader of the weights; their notice, if any, goes into the report.
        dataset_name: What was evaluated, for titles.
        bootstrap: How to resample patients; 1,000 resamples by default.
    """

    def __init__(
        self,
        output_dir: str | Path,
        metric: DetectionMetrics,
        *,
        weights: WeightsLoader | None = None,
        dataset_name: str = "test",
        bootstrap: Bootstrap | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.metric = metric
        self.weights = weights
        self.dataset_name = dataset_name
        self.bootstrap = bootstrap

    def attach(self, engine: Engine) -> None:
        """Report on ``engine``, an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self.write)

    def write(self) -> None:
        """Write the files and log the table; in several processes the first one writes."""
        cases = self.metric.cases
        if idist.get_rank() != 0:
            return
        metrics = write_report(
            cases,
            self.output_dir,
            rule=self.metric.rule,
            bootstrap=self.bootstrap,
            dataset_name=self.dataset_name,
            notice=self.weights.info.get("notice") if self.weights is not None else None,
        )
        logger.info("Results on %s:\n%s", self.dataset_name, format_table(metrics))
