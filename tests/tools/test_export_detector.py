"""Exported detectors give the same boxes and scores, describe themselves, and appear whole or not at all."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from monai.data import load_net_with_metadata

from scripts.cli import command_line
from scripts.engines.onnx_runtime import group_norm_in_onnx
from scripts.networks import FasterRCNN
from scripts.tools import export_detector as module
from scripts.tools.export_detector import TOLERANCE, disagreement, export
from scripts.weights import build_network, load_network, save_weights
from support.clean_processes import python

# TorchScript is old and what MONAI Deploy reads; see docs/export.md.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")
DEFINITION = {
    "_target_": "scripts.networks.mp3d_fpn",
    "num_slices": 3,
    "num_classes": 2,
    "fpn_channels": 32,
    "body": {"_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 8, "norm_groups": 32},
    "head": {"_target_": "scripts.networks.TwoStageHead", "fc_channels": 16, "test_per_level": 300, "proposals": 150},
}
INFO = {"name": "narrow", "notice": "Random weights.", "inference": {"score_threshold": 0.25}}
# The paper's sizes, sizes between the multiples of 32, and slabs with fewer anchors than the limits.
SHAPES = [(1, 448, 576), (2, 512, 512), (1, 500, 470), (3, 96, 70), (1, 65, 65)]


def make_weights(path: Path) -> Path:

    torch.manual_seed(0)
    network = build_network(DEFINITION)
    assert isinstance(network, FasterRCNN)
    with torch.no_grad():
        for parameter in (*network.rpn.head.parameters(), *network.roi_heads.predictor.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return save_weights(path, network, DEFINITION, INFO)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "narrow.pt")


@pytest.fixture(scope="module")
def onnx_file(weights: Path) -> Path:
    target = weights.with_name("narrow.onnx")
    export(str(weights), str(target), "onnx")
    return target


@pytest.fixture(scope="module")
def torch_file(weights: Path) -> Path:
    target = weights.with_name("narrow.ts")
    export(str(weights), str(target), "torch")
    return target


@pytest.mark.parametrize("shape", SHAPES)
def test_torchscript_agrees(weights: Path, torch_file: Path, shape: tuple[int, int, int]) -> None:
    network, _ = load_network(weights)
    slabs = torch.randn(shape[0], 3, *shape[1:])
    assert max(disagreement(network, torch.jit.load(str(torch_file)), slabs)) <= 1e-4


def test_onnx_agrees(weights: Path, onnx_file: Path) -> None:
    network, _ = load_network(weights)
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    for batch, height, width in SHAPES:
        slabs = torch.randn(batch, 3, height, width)

        def run(slabs: torch.Tensor) -> list[torch.Tensor]:
            return [torch.from_numpy(value) for value in session.run(None, {"slabs": slabs.numpy()})]

        assert [tuple(value.shape) for value in run(slabs)] == [(batch, 100, 4), (batch, 100), (batch, 100)]
        assert max(disagreement(network, run, slabs)) <= TOLERANCE


def test_onnx_says_what_it_takes_and_gives(weights: Path, onnx_file: Path) -> None:
    model = onnx.load(onnx_file)
    shapes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "slabs": ["batch", 3, "height", "width"],
        "boxes": ["batch", 100, 4],
        "scores": ["batch", 100],
        "labels": ["batch", 100],
    }
    assert {entry.domain for entry in model.opset_import} == {""}
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["name"], facts["notice"], facts["num_slices"]) == ("narrow", "Random weights.", "3")
    assert facts["sha256"] == load_network(weights)[1]["sha256"]
    assert json.loads(facts["inference"]) == {"score_threshold": 0.25}


def test_group_norm_of_large_maps_stays_exact(tmp_path: Path) -> None:
    """Sums of a million values, one after the other, would be wrong by 100 times as much."""
    norm = torch.nn.GroupNorm(2, 4, eps=1e-3)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    program = torch.export.export(norm, (torch.zeros(1, 4, 6, 256, 256),))
    table = {torch.ops.aten.group_norm.default: group_norm_in_onnx}
    translated: Any = torch.onnx.export(program, (), dynamo=True, verbose=False, custom_translation_table=table)
    translated.save(tmp_path / "norm.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "norm.onnx"), providers=["CPUExecutionProvider"])
    values = torch.randn(1, 4, 6, 256, 256) + 0.7
    (found,) = session.run(None, {session.get_inputs()[0].name: values.numpy()})
    expected = norm.double()(values.double()).detach()
    assert (torch.from_numpy(found) - expected).abs().max() < 1e-5


def test_onnx_shows_values_that_are_not_finite(onnx_file: Path) -> None:
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    slabs = torch.randn(2, 3, 96, 96)
    slabs[0, 1, 2, 3] = torch.nan
    scores = torch.from_numpy(session.run(["scores"], {"slabs": slabs.numpy()})[0])
    assert scores[0].isnan().all()
    assert scores[1].isfinite().all()


def test_torchscript_holds_the_bundles_metadata(torch_file: Path, bundle_root: Path) -> None:
    _, metadata, extra = load_net_with_metadata(str(torch_file), more_extra_files=("inference.json", "weights.json"))
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 9
    assert json.loads(extra["inference.json"]) == json.loads((bundle_root / "configs" / "inference.json").read_text())
    assert json.loads(extra["weights.json"])["notice"] == "Random weights."
    # MONAI Deploy looks for <stem of the file>/extra/metadata.json.
    with zipfile.ZipFile(torch_file) as archive:
        assert "narrow/extra/metadata.json" in archive.namelist()


def test_torchscript_is_tied_to_no_device(torch_file: Path) -> None:
    graph = str(torch.jit.load(str(torch_file)).inlined_graph)
    assert "aten::roi_align" in graph or "torchvision::roi_align" in graph
    assert 'Device = prim::Constant[value="cpu"]' not in graph


def test_torchscript_rejects_another_number_of_slices(tmp_path: Path) -> None:
    crop = {"_target_": "scripts.networks.CenterCrop", "_mode_": "callable"}  # would take the middle of those it knew
    save_weights(
        tmp_path / "crop.pt", build_network({**DEFINITION, "conversion": crop}), {**DEFINITION, "conversion": crop}, {}
    )
    export(str(tmp_path / "crop.pt"), str(tmp_path / "crop.ts"), "torch")
    detector = torch.jit.load(tmp_path / "crop.ts")
    for count in (1, 5):
        with pytest.raises(torch.jit.Error, match=f"slabs of 3 slices, got {count}"):
            detector(torch.zeros(1, count, 96, 96))


def test_torchscript_runs_without_the_bundle(torch_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch, torchvision; detector = torch.jit.load(sys.argv[1]); "
        "boxes, scores, labels = detector(torch.zeros(1, 3, 96, 96)); "
        "assert 'scripts' not in sys.modules; print(tuple(boxes.shape))"
    )
    done = python("-c", code, torch_file, cwd=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("(1, 100, 4)", 0), done.stderr


def test_what_was_made_is_reported(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(str(weights), str(tmp_path / "new" / "model.ts"), "torch")
    told = capsys.readouterr().out
    assert "same boxes to" in told
    assert "Random weights." in told
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.ts"]


def test_a_file_that_differs_is_not_kept(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(network: FasterRCNN, path: Path, info: object) -> module.Runner:
        run = module.to_torchscript(network, path, {})
        return lambda slabs: [value * 1.001 if value.is_floating_point() else value for value in run(slabs)]

    monkeypatch.setitem(module.FORMATS, "torch", spoilt)
    target = tmp_path / "model.ts"
    target.write_text("older")
    with pytest.raises(ValueError, match=r"same boxes and scores to 0\.001, but .*model\.ts would differ by .* pixels"):
        export(str(weights), str(target), "torch")
    assert target.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["model.ts"]


def test_another_number_of_boxes_is_a_difference(weights: Path, torch_file: Path) -> None:
    network, _ = load_network(weights)
    run = torch.jit.load(str(torch_file))

    def fewer(slabs: torch.Tensor) -> list[torch.Tensor]:
        boxes, scores, labels = run(slabs)
        labels[:, -1] = 0
        return [boxes, scores, labels]

    assert disagreement(network, fewer, torch.randn(1, 3, 96, 96)) == (float("inf"), float("inf"))


def test_what_cannot_be_exported_says_so(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--format onnx or torch, got 'tensorrt'"):
        export(str(weights), str(tmp_path / "x"), "tensorrt")
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        export("none.pt", str(tmp_path / "x"))

    definition = {**DEFINITION, "_target_": "scripts.networks.mp3d_retinanet"}
    other = save_weights(tmp_path / "other.pt", build_network(definition), definition, {})
    with pytest.raises(ValueError, match=r"two-stage detector, got a OneStageDetector in .*other\.pt"):
        export(str(other), str(tmp_path / "x"))
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^Error: Expected a weights file, found no file none\.pt") as stopped:
        command_line("tools.export_detector", "export", ["--checkpoint", "none.pt", "--target", str(tmp_path / "x")])
    assert "\n" not in str(stopped.value)
