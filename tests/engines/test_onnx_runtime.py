"""ONNX Runtime gives what PyTorch gives."""

from __future__ import annotations

import pytest
import torch

from scripts.engines.engine import EngineChoice
from scripts.engines.onnx_runtime import OnnxRuntime
from support.engine_networks import found, gaps, make, slabs

RUNTIME = OnnxRuntime()
pytestmark = pytest.mark.skipif(RUNTIME.missing() is not None, reason=f"ONNX cannot be used: {RUNTIME.missing()}")


@pytest.mark.parametrize(
    "name", ["mp3d_fpn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mp3d_retinanet", "fpn_3dce"))]
)
def test_boxes_and_scores_are_those_of_pytorch(name: str) -> None:
    network = make(name)
    images = [slabs(network, 2, 96, 128), slabs(network, 1, 75, 130), slabs(network, 3, 160, 64)]
    own = [found(network, each) for each in images]
    use = EngineChoice("onnx").attach(network)
    assert use == (f"onnx {RUNTIME.version()}", "float32")
    for before, each in zip(own, images, strict=True):
        pixels, scores = gaps(before, found(network, each))
        assert pixels < 1e-3
        assert scores < 1e-4


def test_another_number_format_is_rejected() -> None:
    with pytest.raises(ValueError, match="computes in float32, not in bfloat16"):
        RUNTIME.load({}, torch.device("cpu"), torch.bfloat16)


def test_tensorrt_is_onnx_runtime_with_another_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = OnnxRuntime("tensorrt")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert runtime.missing() == "the installed onnxruntime was built without TensorRT"
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["TensorrtExecutionProvider"])
    assert runtime.missing() is None
    first, second = runtime._providers(torch.device("cuda", 1), torch.float16)
    assert first == ("TensorrtExecutionProvider", {"device_id": 1, "trt_fp16_enable": True, "trt_bf16_enable": False})
    assert second == ("CUDAExecutionProvider", {"device_id": 1})
