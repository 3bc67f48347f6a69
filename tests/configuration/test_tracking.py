"""MONAI's tracking: names and outputs that MLflow takes, and a clear line where it is not installed."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.utils import set_determinism

from scripts.configuration.running_config import check_config
from scripts.configuration.tracking import ExperimentLog, adopt_tracking
from scripts.data.synthetic import generate

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"


def tracked(name: str, **changes: Any) -> ConfigParser:
    """An entry config as MONAI patches it for ``--tracking mlflow``."""
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / f"{name}.json"))
    parser.update({"device": "cpu", **changes})
    ConfigWorkflow.patch_bundle_tracking(parser, DEFAULT_EXP_MGMT_SETTINGS["mlflow"])
    parser.parse()
    return parser


@pytest.mark.parametrize(("name", "places"), [("train", ["train", "validate"]), ("evaluate", [""])])
def test_what_tracking_adds_is_known_and_adopted(
    name: str, places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    parser = tracked(name, output_dir=str(tmp_path), experiment_name="mine")
    check_config(parser)
    for place in places:
        handlers = parser[f"{place}#handlers" if place else "handlers"]
        assert handlers[-1]["_target_"] == "scripts.configuration.tracking.ExperimentLog"


def test_without_mlflow_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"Expected mlflow for --tracking mlflow, .*pip install mlflow"):
        check_config(tracked("train", output_dir=str(tmp_path)))


def test_a_workflow_without_an_engine_is_not_tracked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected --tracking with training or evaluating"):
        check_config(tracked("inference", output_dir=str(tmp_path)))


def test_a_config_without_tracking_is_left_alone() -> None:
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / "train.json"))
    parser.parse()
    before = str(parser.get())
    adopt_tracking(parser)
    assert str(parser.get()) == before


def test_runs_are_logged_to_a_local_store(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed; it is no dependency of the bundle")
    saved = tmp_path / "config_20260101_000000.json"
    saved.write_text("{}")
    log = ExperimentLog(
        tracking_uri=f"sqlite:///{tmp_path}/mlruns.db",
        output_transform=lambda output: (output["loss"],),
        tag_name="train_loss",
        artifacts=f"{tmp_path} + '/{saved.name}'",
        close_on_complete=True,
    )
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(2.0)})

    @engine.on(Events.EPOCH_COMPLETED)
    def measure(engine: Engine) -> None:
        engine.state.metrics = {"sensitivity@0.5": 0.25, "ap50": float("nan")}

    log.attach(engine)
    engine.run([1, 2], max_epochs=1)
    with sqlite3.connect(tmp_path / "mlruns.db") as store:
        rows = dict(store.execute("select key, value from metrics").fetchall())
    assert rows["train_loss"] == 2.0
    assert rows["sensitivity at 0.5"] == 0.25
    assert list((tmp_path / "mlruns").rglob(saved.name))


def run(name: str, run_id: str, **settings: Any) -> None:
    """A workflow of the bundle from its beginning to its end, with MONAI's own option."""
    files = [str(CONFIGS / f"{name}.json"), str(CONFIGS / "variants" / "size_narrow.yaml")]
    common = {"num_slices": 1, "num_workers": 0, "device": "cpu", "seed": 1}
    flow = ConfigWorkflow(files, run_id=run_id, logging_file=False, tracking="mlflow", **common, **settings)
    flow.initialize()
    flow.run()
    flow.finalize()


def test_training_and_evaluation_are_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In MONAI's default store, a local database in the output folder."""
    pytest.importorskip("mlflow", reason="mlflow is not installed; it is no dependency of the bundle")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    data, trained, scored = tmp_path / "data", tmp_path / "run", tmp_path / "eval"
    generate(data, "small", seed=1, workers=1, num_train=2, num_validation=2, num_test=2)
    run("train", "training", dataset_dir=str(data), output_dir=str(trained), max_epochs=1, experiment_name="mine")
    with sqlite3.connect(trained / "mlruns.db") as store:
        names = {name for (name,) in store.execute("select distinct key from metrics")}
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]
        assert ("mine",) in store.execute("select name from experiments").fetchall()
    assert {"train_loss", "lr_group_0", "ap50", "mean_sensitivity", "sensitivity at 0.5"} <= names
    assert list((trained / "mlruns").rglob("config_*.json"))
    settings = {"checkpoint": str(trained / "model.pt"), "bootstrap_resamples": 5}
    run("evaluate", "evaluating", dataset_dir=str(data), output_dir=str(scored), **settings)
    with sqlite3.connect(scored / "mlruns.db") as store:
        assert {"ap50", "sensitivity at 4"} <= {name for (name,) in store.execute("select distinct key from metrics")}
    set_determinism(None)
