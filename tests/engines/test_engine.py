"""The choice of an engine: what is taken, what is kept, what gives way, and what is said."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scripts.configuration.option_rules import RULES
from scripts.engines import engine as module
from scripts.engines.engine import ENGINES, EngineChoice, check_part, fingerprint
from scripts.engines.kept_networks import FOLDER
from scripts.engines.network_parts import PartExample, Run, part_examples
from support.engine_networks import LARGE_NETWORKS, NETWORKS, check_engine, found, gaps, make, slabs


@functools.cache
def examples() -> dict[str, PartExample]:
    """The parts of a network that nothing changes."""
    return {example.name: example for example in part_examples(make("mp3d_fpn"))}


class FakeRuntime:
    """An engine made of PyTorch: counts conversions, and fails or lies when asked to."""

    name, title, package, devices = "openvino", "OpenVINO", "openvino", ("cpu",)

    def __init__(self) -> None:
        self.conversions = 0
        self.fails = ""
        self.off = 0.0
        self.absent: str | None = None
        self.network: Any = None

    def missing(self) -> str | None:
        return self.absent

    def version(self) -> str:
        return "1.0"

    def convert(self, example: PartExample) -> dict[str, bytes]:
        if self.fails:
            raise RuntimeError(self.fails)
        self.conversions += 1
        return {"name": example.name.encode()}

    def load(self, members: Mapping[str, bytes], device: torch.device, precision: torch.dtype) -> tuple[Run, str]:
        flat = examples()[members["name"].decode()].flat()

        def run(tensors: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                return [output + self.off for output in flat(*tensors)]

        return run, "float32"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    runtime = FakeRuntime()
    monkeypatch.setitem(module.RUNTIMES, "openvino", runtime)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.delenv("MP3D_ENGINE", raising=False)
    return runtime


def test_the_option_names_the_engines() -> None:
    assert all(RULES["engine"].fits(name) for name in ENGINES)
    assert all(name in RULES["engine"].words for name in ENGINES)
    with pytest.raises(
        ValueError, match=r"Expected an engine out of auto, torch, openvino, onnx, tensorrt, got 'fast'"
    ):
        EngineChoice("fast")


def test_auto_takes_openvino_on_a_cpu_and_says_so(fake: FakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    network = make("mp3d_fpn")
    images = slabs(network, 1, 64, 96)
    own = found(network, images)
    with caplog.at_level(logging.INFO):
        assert EngineChoice().attach(network) == ("openvino 1.0", "float32")
    assert "The network runs on openvino 1.0 in float32." in caplog.text
    assert gaps(own, found(network, images)) == (0.0, 0.0)
    fake.absent = "it is not installed"
    assert EngineChoice().attach(network).engine == f"torch {torch.__version__}"


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_auto_is_pytorch_on_x86_in_formats_that_the_cpu_has(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: False)
    for precision in (None, torch.float32):
        choice = EngineChoice(precision=precision)
        assert choice.attach(make("mp3d_fpn")) == (f"torch {torch.__version__}", "float32")
    reduced = EngineChoice(precision=torch.bfloat16)
    assert reduced.attach(make("mp3d_fpn")).engine.startswith("openvino ")
    monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: True)
    assert reduced.attach(make("mp3d_fpn")) == (f"torch {torch.__version__}", "bfloat16")
    assert EngineChoice("openvino").attach(make("mp3d_fpn")).engine.startswith("openvino ")


@pytest.mark.parametrize("name", NETWORKS)
def test_pytorch_changes_the_order_in_memory_and_no_result(name: str) -> None:
    check_engine("torch", torch.__version__, name)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in LARGE_NETWORKS])
def test_features_of_published_networks_keep_their_values(name: str) -> None:
    network = make(name)
    images = slabs(network, 1, 160, 96)
    with torch.no_grad():
        own, _ = network.features(images)
        assert EngineChoice("torch").attach(network).engine.startswith("torch ")
        other, _ = network.features(images)
    for one, two in zip(own, other, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4 * float(one.abs().max()))


def test_pytorch_runs_channels_last_and_keeps_its_memory_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(module, "keep_freed_memory", lambda: kept.append(True))
    orders = {}
    for device in ("cpu", "cuda"):
        network = make("mp3d_fpn")
        EngineChoice("torch", device=device).attach(network)
        kernels = [layer.weight for layer in network.modules() if isinstance(layer, torch.nn.Conv3d)]
        orders[device] = [
            kernel.is_contiguous() for kernel in kernels if 1 not in kernel.shape[:2] and kernel[0, 0].numel() > 1
        ]
    assert orders["cpu"]
    assert not any(orders["cpu"])
    assert all(orders["cuda"])
    assert kept == [True]


def test_auto_is_pytorch_on_a_gpu_and_where_the_environment_says_so(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert EngineChoice(device="cuda").attach(make("mp3d_fpn")).engine.startswith("torch ")
    monkeypatch.setenv("MP3D_ENGINE", "torch")
    assert EngineChoice().attach(make("mp3d_fpn")).engine.startswith("torch ")
    assert EngineChoice("openvino").attach(make("mp3d_fpn")).engine.startswith("openvino ")
    monkeypatch.setenv("MP3D_ENGINE", "steam")
    with pytest.raises(ValueError, match="got 'steam'"):
        EngineChoice()


def test_a_conversion_is_kept_and_believed_once(
    fake: FakeRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "model.pt"
    with caplog.at_level(logging.INFO):
        EngineChoice("openvino", weights=weights).attach(make("mp3d_fpn"))
        assert "a large one takes half a minute" in caplog.text
        EngineChoice("openvino", weights=weights).attach(make("mp3d_fpn"))
    assert fake.conversions == 4  # the parts, once
    other = make("mp3d_fpn")
    with torch.no_grad():
        next(other.parameters()).mul_(1 + 1e-4)
    EngineChoice("openvino", weights=weights).attach(other)
    assert fake.conversions == 8
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_what_is_kept_but_wrong_is_made_anew(
    fake: FakeRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, network = tmp_path / "model.pt", make("mp3d_fpn")
    with monkeypatch.context() as patch:
        # An earlier release whose conversion was wrong, and that did not notice.
        patch.setattr(module, "check_part", lambda *arguments: None)
        patch.setattr(fake, "convert", lambda example: {"name": b"rpn.head"})
        EngineChoice("openvino", weights=weights).attach(make("mp3d_fpn"))
    EngineChoice("openvino", weights=weights).attach(network)
    assert "does not fit and is made anew" in caplog.text
    assert fake.conversions == 4
    images = slabs(network, 1, 64, 96)
    assert gaps(found(make("mp3d_fpn"), images), found(network, images)) == (0.0, 0.0)


def test_a_network_that_cannot_be_converted(fake: FakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    fake.fails = "no such\noperator"
    network = make("mp3d_fpn")
    assert EngineChoice().attach(network).engine.startswith("torch ")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "OpenVINO cannot run this network, PyTorch does: no such operator"
    ]
    assert "forward" not in network.backbone.__dict__
    with pytest.raises(ValueError, match=r"OpenVINO can run, it cannot run this one: no such operator\. Use --engine"):
        EngineChoice("openvino").attach(network)


def test_a_conversion_that_gives_something_else_is_not_used(fake: FakeRuntime) -> None:
    fake.off = 0.5
    with pytest.raises(ValueError, match=r"backbone gives 0\.5 more or less than it should"):
        EngineChoice("openvino").attach(make("mp3d_fpn"))
    assert EngineChoice().attach(make("mp3d_fpn")).engine.startswith("torch ")


def test_a_named_engine_that_is_not_there(fake: FakeRuntime) -> None:
    fake.absent = "the package openvino is not installed"
    with pytest.raises(ValueError, match=r"but the package openvino is not installed \(pip install openvino"):
        EngineChoice("openvino").attach(make("mp3d_fpn"))
    with pytest.raises(ValueError, match="Expected --device cpu for --engine openvino, got cuda"):
        EngineChoice("openvino", "cuda:0").attach(make("mp3d_fpn"))
    with pytest.raises(ValueError, match="Expected --device cuda for --engine tensorrt, got cpu"):
        EngineChoice("tensorrt").attach(make("mp3d_fpn"))


def test_another_shape_is_found_out() -> None:
    example = examples()["roi_heads.predictor"]
    with pytest.raises(ValueError, match="gives shape"):
        check_part(example, lambda tensors: [output[:1] for output in example.outputs], "float32")


def test_a_fingerprint_depends_on_weights_layers_and_engine(fake: FakeRuntime) -> None:
    first = fingerprint(make("mp3d_fpn"), fake)
    assert fingerprint(make("mp3d_fpn"), fake) == first
    fake.version = lambda: "1.1"  # type: ignore[method-assign]
    assert fingerprint(make("mp3d_fpn"), fake) != first
