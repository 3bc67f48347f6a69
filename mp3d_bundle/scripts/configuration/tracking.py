"""MONAI's ``--tracking mlflow`` for the engines of this bundle."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from monai.bundle import ConfigParser
from monai.handlers import MLFlowHandler

# How MONAI joins a folder that is not an expression with the name of the config that it saves.
_JOINED = re.compile(r"^([^$].*) \+ '(/config_\d+_\d+\.json)'$")
_STOCK = "MLFlowHandler"


class ExperimentLog(MLFlowHandler):
    """MONAI's handler, which expects other outputs of an engine than ours are.

    MLflow allows no ``@`` in the name of a metric, as in ``sensitivity@1``; it becomes `` at ``. Of an output that
    is one dict MONAI's stock setting makes a tuple. The rest is MONAI's.

    Args:
        artifacts: Files to keep with the run.
        settings: See MONAI's handler.
    """

    def __init__(self, *, artifacts: Any = None, **settings: Any) -> None:
        if isinstance(artifacts, str):
            artifacts = _JOINED.sub(r"\1\2", artifacts)
        super().__init__(artifacts=artifacts, **settings)

    def _log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        named = {re.sub(r"[^\w\-. :/]", " at ", name): _number(value) for name, value in metrics.items()}
        super()._log_metrics(named, step)


def _number(value: Any) -> Any:
    return float(value[0] if isinstance(value, tuple) else value)


def adopt_tracking(parser: ConfigParser) -> None:
    """Put `ExperimentLog` in the place of the handlers that ``--tracking mlflow`` has added to a config.

    Args:
        parser: Parser of the config, already parsed.

    Raises:
        ValueError: If MLflow is not installed, or the workflow has no engine to track.
    """
    added = {name: entry for name, entry in parser.ref_resolver.items.items() if _is_stock(entry.get_config())}
    if not added:
        return
    evaluator = parser.get("evaluator")
    if isinstance(evaluator, Mapping) and "val_handlers" in evaluator and "iteration_update" not in evaluator:
        raise ValueError("Expected --tracking with training or evaluating, which have an engine to track, got another.")
    if importlib.util.find_spec("mlflow") is None:
        raise ValueError("Expected mlflow for --tracking mlflow, found it not installed: pip install mlflow.")
    for name, entry in added.items():
        # A copy: MONAI puts the same description into every config of this process.
        own = {**entry.get_config(), "_target_": f"{ExperimentLog.__module__}.{ExperimentLog.__name__}"}
        entry.update_config(own)
        place, _, last = name.rpartition("::")
        parser[place][int(last)] = own


def _is_stock(node: Any) -> bool:
    return isinstance(node, dict) and node.get("_target_") == _STOCK
