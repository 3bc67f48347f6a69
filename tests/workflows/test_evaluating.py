"""Evaluation: weights of every kind of file go in whole, the report comes out once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from scripts.configuration.running_config import CONFIGS
from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.evaluation_files import Evaluated
from scripts.metrics.image.ignite_metrics import DetectionMetrics
from scripts.metrics.image.image_evaluation import evaluate
from scripts.recipe import PAPER
from scripts.storage.atomic_files import sha256
from scripts.storage.output_folder import FolderLock, evaluation_lock
from scripts.weights import build_network, save_weights, tensors_sha256
from scripts.workflows.evaluating import EvaluationReport, WeightsLoader, described_network
from scripts.workflows.to_cases import cases_of
from support.fake_engines import FakeDetector, Run
from support.fake_evaluations import image_cases, with_classes


@pytest.fixture
def trained(tmp_path: Path) -> Run:
    return Run(tmp_path, epochs=1).run()


@pytest.mark.parametrize("name", ["model.pt", "last.pt", "bare.pt"])
def test_weights_of_every_kind_of_file_go_in(tmp_path: Path, trained: Run, name: str) -> None:
    torch.save(trained.weights(), tmp_path / "bare.pt")
    network = FakeDetector()
    loader = WeightsLoader(network, tmp_path / name)
    loader.load()
    assert all(torch.equal(value, trained.weights()[key]) for key, value in network.state_dict().items())
    assert loader.info.get("notice") == (None if name == "bare.pt" else "fake")


def test_weights_are_not_asked_for_before_an_engine_starts(tmp_path: Path) -> None:
    run = Run()
    WeightsLoader(run.network, tmp_path / "none.pt").attach(run.evaluator)
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        run.evaluator.run()


@pytest.mark.parametrize(("name", "told"), [("model.pt", True), ("bare.pt", False)])
def test_weights_of_another_network_are_rejected_with_their_own(
    tmp_path: Path, trained: Run, name: str, told: bool
) -> None:
    torch.save(trained.weights(), tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="number of slices differ") as caught:
        WeightsLoader(FakeDetector(num_slices=5), tmp_path / name).load()
    assert ("They belong to the network" in str(caught.value)) is told


def test_a_file_without_a_dict_is_rejected(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"Expected weights of a network, got list in .*list\.pt"):
        WeightsLoader(FakeDetector(), tmp_path / "list.pt").load()


@pytest.mark.parametrize(
    ("reads", "fields", "warns"),
    [(False, {"age": 1}, True), (True, {"age": 1}, False), (False, {}, False), (False, None, False)],
)
def test_patients_that_a_network_does_not_read_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reads: bool, fields: dict[str, Any] | None, warns: bool
) -> None:
    network = FakeDetector()
    network.reads_patients = reads  # pyright: ignore[reportAttributeAccessIssue]
    torch.save({"model": network.state_dict()}, tmp_path / "w.pt")
    engine = Engine(lambda engine, batch: None)
    records = [{"instances": fields}] if fields is not None else []
    engine.data_loader = SimpleNamespace(dataset=SimpleNamespace(data=records))  # pyright: ignore
    WeightsLoader(network, tmp_path / "w.pt").attach(engine)
    engine.run([0])
    assert ("--patients has no effect" in caplog.text) is warns


def test_a_second_evaluation_into_a_folder_is_rejected_meanwhile(tmp_path: Path, trained: Run) -> None:
    metric = DetectionMetrics(output_transform=cases_of)
    report = EvaluationReport(tmp_path / "eval", metric, Evaluated("fakes"), gallery_images=0)
    report.lock.acquire = lambda **given: FolderLock.acquire(report.lock)  # as another process
    report.attach(trained.evaluator)
    with (
        evaluation_lock(tmp_path / "eval"),
        pytest.raises(
            BlockingIOError, match=r"an evaluation, process \d+ on .*eval\. Wait until it has ended, or choose"
        ),
    ):
        trained.evaluator.run()
    assert not (tmp_path / "eval").exists()


def test_the_report_is_about_the_cases_of_the_metric(tmp_path: Path, trained: Run) -> None:
    metric = DetectionMetrics(output_transform=cases_of)
    weights = WeightsLoader(trained.network, tmp_path / "model.pt")
    report = EvaluationReport(
        tmp_path / "eval",
        metric,
        Evaluated("fakes", "Of no use.", {"split": "validation"}),
        weights=weights,
        bootstrap=Bootstrap(resamples=0),
        gallery_images=0,
    )
    (tmp_path / "eval" / "gallery").mkdir(parents=True)
    (tmp_path / "eval" / "gallery" / "index.html").write_text("of another evaluation")
    for handler in (weights, report):
        handler.attach(trained.evaluator)
    metric.attach(trained.evaluator, "mean_sensitivity")
    trained.evaluator.run()
    assert not (tmp_path / "eval" / "gallery").exists()
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert (written["dataset"], written["notice"], written["counts"]["images"]) == ("fakes", "Of no use. fake", 12)
    path, model = tmp_path / "model.pt", trained.network.state_dict()
    origin = {"name": None, "path": str(path), "sha256": sha256(path), "tensors_sha256": tensors_sha256(model)}
    assert (written["weights"], written["split"]) == (origin, "validation")


def test_a_weights_file_describes_its_network(tmp_path: Path) -> None:
    body = {"_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 4}
    head = {"_target_": "scripts.networks.TwoStageHead", "fc_channels": 8}
    definition = {
        "_target_": "scripts.networks.mp3d_fpn", "num_slices": 3, "fpn_channels": 8, "body": body, "head": head,
    }  # fmt: skip
    save_weights(tmp_path / "narrow.pt", build_network(definition), definition, {})
    default, plain = FakeDetector(), {"_target_": "scripts.networks.mp3d_fpn", "num_slices": 3}
    network = described_network(tmp_path / "narrow.pt", default, asked=plain)
    WeightsLoader(network, tmp_path / "narrow.pt").load()
    assert network is not default
    assert described_network(tmp_path / "none.pt", default, asked=plain) is default
    torch.save(default.state_dict(), tmp_path / "bare.pt")
    assert described_network(tmp_path / "bare.pt", default, asked=plain) is default
    # What the evaluation config itself says of the network asks for nothing, but for its number of slices.
    whole = json.loads((CONFIGS / "evaluate.json").read_text())["network_def"]
    assert described_network(tmp_path / "narrow.pt", default, asked={**whole, "num_slices": 3}) is not default
    # Who names a network in the config gets that one, and the weights must fit it.
    assert described_network(tmp_path / "narrow.pt", default, asked={**plain, "fpn_channels": 8}) is default
    wide = {**whole, "num_slices": 3, "body": {**whole["body"], "width": 32}}
    assert described_network(tmp_path / "narrow.pt", default, asked=wide) is default
    with pytest.raises(ValueError, match=r"weights for 9 slices, got weights for 3 .*--num_slices 3"):
        described_network(tmp_path / "narrow.pt", default, asked={**plain, "num_slices": 9})


def test_the_report_has_the_classes_of_network_and_set(tmp_path: Path) -> None:
    network: Any = SimpleNamespace(num_classes=2)
    weights = WeightsLoader(network, tmp_path / "model.pt", used=replace(PAPER, classes=("node", "tumour")))
    metric = DetectionMetrics()
    names = ("tumour", "node")
    cases = with_classes(image_cases(6), names)
    # Labels as the network counts its classes.
    labels = {"node": 1, "tumour": 2}
    metric.update([{**{key: value for key, value in case.items() if key != "classes"},
                    "labels": np.array([labels[name] for name in case["classes"]])} for case in cases])  # fmt: skip
    report = EvaluationReport(
        tmp_path / "eval", metric, Evaluated("two"), weights=weights, bootstrap=Bootstrap(resamples=0), gallery_images=0
    )
    report.take_folder()
    report.write()
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["classes"] == evaluate(cases, bootstrap=Bootstrap(resamples=0))["classes"]
    assert "distinguishes 2 classes (node, tumour); figures of all count as one class" in written["notice"]
