"""OpenVINO gives what PyTorch gives, for every network of the house."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.engines.engine import EngineChoice
from scripts.engines.openvino_runtime import OpenVino
from support.engine_networks import LARGE_NETWORKS, NETWORKS, check_engine, found, gaps, make, slabs

RUNTIME = OpenVino()
pytestmark = pytest.mark.skipif(RUNTIME.missing() is not None, reason=f"OpenVINO cannot be used: {RUNTIME.missing()}")


@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_and_scores_are_those_of_pytorch(name: str) -> None:
    check_engine("openvino", RUNTIME.version(), name)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in LARGE_NETWORKS])
def test_features_of_published_networks_are_those_of_pytorch(name: str) -> None:
    """Untrained ones have boxes of nearly equal scores, whose order rounding changes: so their features."""
    network = make(name)
    images = slabs(network, 1, 160, 96)
    with torch.no_grad():
        own, _ = network.features(images)
        assert EngineChoice("openvino").attach(network).engine.startswith("openvino ")
        other, _ = network.features(images)
    for one, two in zip(own, other, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4 * float(one.abs().max()))


def test_the_engine_runs_and_not_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make("mp3d_fpn")
    images = slabs(network, 1, 64, 96)
    own = found(network, images)
    EngineChoice("openvino").attach(network)
    monkeypatch.setattr("torch.nn.functional.conv3d", None)
    monkeypatch.setattr(torch.nn.Conv3d, "forward", lambda *inputs: pytest.fail("PyTorch convolves"))
    assert gaps(own, found(network, images))[0] < 1e-3


def test_training_stays_with_pytorch() -> None:
    network = make("mp3d_fpn")
    EngineChoice("openvino").attach(network)
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    losses = network.train()(slabs(network, 1, 64, 64), [target])
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in network.backbone.parameters())  # type: ignore[union-attr]


def test_an_attachment_in_inference_mode_holds_no_sizes() -> None:
    network = make("mp3d_fpn")
    images = slabs(network, 3, 64, 160)
    own = found(network, images)
    with torch.inference_mode():
        EngineChoice("openvino").attach(network)
    assert gaps(own, found(network, images))[0] < 1e-3


def test_nothing_is_reported_to_anybody(bundle_root: Path) -> None:
    """Importing openvino would start its companion that reports use, were that installed."""
    code = (
        "import sys; from scripts.engines.openvino_runtime import OpenVino; OpenVino().version();"
        "import openvino.tools.ovc.telemetry_utils as t; print(t.tm.__name__, sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle_root, capture_output=True, text=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"], done.stderr


def test_a_signal_after_networks_have_gone_does_no_harm(tmp_path: Path) -> None:
    """OpenVINO's cores give signal handlers a stack, and take it with them: then the end of a child is a crash."""
    program = """
import gc, signal, subprocess, threading
from scripts.engines.engine import EngineChoice
from support.engine_networks import found, make, slabs

signal.signal(signal.SIGCHLD, lambda *_: None)
networks = [make("mp3d_fpn"), make("mp3d_fpn")]
for network in networks:
    assert EngineChoice("openvino").attach(network).engine.startswith("openvino")
    found(network, slabs(network, 1, 64, 96))
del network
networks.pop(0)
gc.collect()
gone = threading.Thread(target=lambda: (networks.clear(), gc.collect()))
gone.start()
gone.join()
for _ in range(100):
    subprocess.run(["true"], check=True)
print("alive")
"""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "mp3d_bundle"), str(root / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-2000:]
