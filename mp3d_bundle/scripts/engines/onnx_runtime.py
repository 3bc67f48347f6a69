"""ONNX Runtime on a CPU or a GPU, and NVIDIA's TensorRT through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor

from .network_parts import PartExample, Run

# Needed by these engines only, so not among what the bundle needs.
onnx, HAS_ONNX = optional_import("onnx")
opset, HAS_SCRIPT = optional_import("onnxscript.onnx_opset", name="opset18")
onnxruntime, HAS_RUNTIME = optional_import("onnxruntime")

OPSET = 18


def group_norm_in_onnx(
    self: Any, num_group: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Any:
    """Group normalisation whose means are taken one axis after the other.

    The usual translation, ``InstanceNormalization``, has ONNX Runtime add up a million values one by one: its rounding
    alone moved boxes by 0.002 pixels.
    """
    del cudnn_enabled
    axes = list(range(len(self.shape) - 1, 1, -1))
    # A zero keeps the length of an axis.
    groups = opset.Reshape(self, opset.Constant(value_ints=[0, num_group, -1, *[0] * (len(axes) - 1)]))

    def mean(values: Any) -> Any:
        for axis in axes:
            values = opset.ReduceMean(values, opset.Constant(value_ints=[axis]), keepdims=1)
        return values

    centred = opset.Sub(groups, mean(groups))
    variance = mean(opset.Mul(centred, centred))
    scale = opset.Sqrt(opset.Add(variance, opset.Constant(value_float=eps)))
    normal = opset.Reshape(opset.Div(centred, scale), opset.Shape(self))
    channel = opset.Constant(value_ints=[-1, *[1] * len(axes)])
    if weight is not None:
        normal = opset.Mul(normal, opset.Reshape(weight, channel))
    return normal if bias is None else opset.Add(normal, opset.Reshape(bias, channel))


class OnnxRuntime:
    """See `engine.Runtime`.

    Args:
        name: ``onnx``, or ``tensorrt`` for ONNX Runtime with TensorRT behind it.
    """

    package = "onnx onnxruntime onnxscript"

    def __init__(self, name: str = "onnx") -> None:
        self.name = name
        self.title = "TensorRT" if name == "tensorrt" else "ONNX Runtime"
        self.devices: tuple[str, ...] = ("cuda",) if name == "tensorrt" else ("cpu", "cuda")

    def missing(self) -> str | None:
        """Why it cannot be used here, None if it can."""
        if not (HAS_ONNX and HAS_SCRIPT and HAS_RUNTIME):
            return "the packages onnx, onnxscript and onnxruntime are not all installed"
        if self.name == "tensorrt" and "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
            return "the installed onnxruntime was built without TensorRT"
        return None

    def version(self) -> str:
        """Release of the library."""
        return str(onnxruntime.__version__)

    def convert(self, example: PartExample) -> dict[str, bytes]:
        """The part as an ONNX file, operator set 18, weights in float32, sides of slabs left open."""
        sizes = tuple(dict.fromkeys(sorted(varying), torch.export.Dim.AUTO) for varying in example.varying)
        with torch.no_grad():
            program = torch.export.export(
                example.flat(),
                example.inputs,
                dynamic_shapes={"tensors": sizes},
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            translated: Any = torch.onnx.export(
                program,
                (),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                custom_translation_table={torch.ops.aten.group_norm.default: group_norm_in_onnx},
            )
        return {"onnx": translated.model_proto.SerializeToString()}

    def load(self, members: Mapping[str, bytes], device: torch.device, precision: torch.dtype) -> tuple[Run, str]:
        """A function that runs a converted part, and the number format that it computes in.

        As many threads are used as PyTorch uses, and none of them waits busily.

        Raises:
            ValueError: If another number format than float32 is asked for, which only TensorRT offers.
        """
        if precision != torch.float32 and self.name != "tensorrt":
            raise ValueError(f"ONNX Runtime computes in float32, not in {str(precision)[6:]}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(members["onnx"], options, providers=self._providers(device, precision))
        names = [value.name for value in session.get_inputs()]

        def run(tensors: Sequence[Tensor]) -> list[Tensor]:
            given = [tensor.float().contiguous().cpu().numpy() for tensor in tensors]
            return [torch.from_numpy(result) for result in session.run(None, dict(zip(names, given, strict=True)))]

        return run, str(precision)[6:]

    def _providers(self, device: torch.device, precision: torch.dtype) -> list[Any]:
        if device.type == "cpu":
            return ["CPUExecutionProvider"]
        place = {"device_id": device.index or 0}
        if self.name != "tensorrt":
            return [("CUDAExecutionProvider", place)]
        formats = {"trt_fp16_enable": precision == torch.float16, "trt_bf16_enable": precision == torch.bfloat16}
        return [("TensorrtExecutionProvider", {**place, **formats}), ("CUDAExecutionProvider", place)]
