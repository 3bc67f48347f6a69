"""OpenVINO on a CPU: takes PyTorch modules as they are, in float32 or bfloat16."""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import
from torch import Tensor

from .network_parts import PartExample, Run

# What OpenVINO calls the number formats.
_FORMATS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_NAMES = {"f32": "float32", "bf16": "bfloat16"}


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for the process and as long as it lives.

    Its CPU plugin gives the signal handlers of the thread a stack, and frees it with the core: where two cores end in
    the order in which they began, or one ends in another thread, the next signal (that of a child process that has
    ended, for example) kills the process.
    """
    return _openvino().Core()


@functools.cache
def _openvino(submodule: str = "") -> Any:
    # Its companion that reports use to Intel stays out, wherever it is installed: importing openvino would start it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return optional_import(f"openvino{submodule}")[0]


class OpenVino:
    """See `engine.Runtime`."""

    name = "openvino"
    title = "OpenVINO"
    package = "openvino"
    devices: tuple[str, ...] = ("cpu",)

    def missing(self) -> str | None:
        """Why it cannot be used here, None if it can."""
        return None if importlib.util.find_spec("openvino") else "the package openvino is not installed"

    def version(self) -> str:
        """Release of the library."""
        return str(_openvino().get_version()).split("-")[0]

    def convert(self, example: PartExample) -> dict[str, bytes]:
        """The part as OpenVINO's two files, weights in float32, sides of slabs left open."""
        decoder = _openvino(".frontend.pytorch.ts_decoder").TorchScriptPythonDecoder
        with torch.no_grad(), warnings.catch_warnings():
            # The tracer's own: it calls itself old, and warns of every check of a shape.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(example.flat(), example.inputs, check_trace=False)
        # Not `openvino.convert_model`, which does the same and reports it. The decoder has to outlive the conversion.
        frontend = _openvino(".frontend").FrontEndManager().load_by_framework("pytorch")
        decoded = decoder(traced, example_input=example.inputs)
        model = frontend.convert(frontend.load(decoded))
        sizes = [
            [-1 if axis in varying else size for axis, size in enumerate(tensor.shape)]
            for tensor, varying in zip(example.inputs, example.varying, strict=True)
        ]
        model.reshape({row: _openvino().PartialShape(size) for row, size in enumerate(sizes)})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part.xml"
            _openvino().save_model(model, path, compress_to_fp16=False)
            return {"xml": path.read_bytes(), "bin": path.with_suffix(".bin").read_bytes()}

    def load(self, members: Mapping[str, bytes], device: torch.device, precision: torch.dtype) -> tuple[Run, str]:
        """A function that runs a converted part, and the number format that it computes in.

        A CPU without bfloat16 computes in float32. As many threads are used as PyTorch uses.
        """
        del device
        library = _openvino()
        core = _core()
        # A copy that the model owns: it reads its weights from there as long as it lives.
        weights = library.Tensor(np.frombuffer(members["bin"], dtype=np.uint8), shared_memory=False)
        model = core.read_model(members["xml"], weights)
        settings = {
            "INFERENCE_PRECISION_HINT": _FORMATS.get(precision, "f32"),
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(model, "CPU", settings)
        count = len(compiled.outputs)

        def run(tensors: Sequence[Tensor]) -> list[Tensor]:
            given = [tensor.float().contiguous().numpy() for tensor in tensors]
            results = compiled(given, share_inputs=True)
            return [torch.from_numpy(results[row]) for row in range(count)]

        return run, _NAMES[compiled.get_property("INFERENCE_PRECISION_HINT").to_string()]
