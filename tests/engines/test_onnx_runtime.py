"""ONNX Runtime gives what PyTorch gives."""

from __future__ import annotations

import pytest
import torch

from scripts.engines.onnx_runtime import OnnxRuntime
from support.engine_networks import check_engine

RUNTIME = OnnxRuntime()
pytestmark = pytest.mark.skipif(RUNTIME.missing() is not None, reason=f"ONNX cannot be used: {RUNTIME.missing()}")


@pytest.mark.parametrize(
    "name", ["mp3d_fpn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mp3d_retinanet", "fpn_3dce"))]
)
def test_boxes_and_scores_are_those_of_pytorch(name: str) -> None:
    check_engine("onnx", RUNTIME.version(), name)


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
