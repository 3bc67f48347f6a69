"""Which library runs a network: the choice, and putting it in the place of PyTorch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..freed_memory import keep_freed_memory
from ..number_formats import cpu_has_bfloat16
from ..storage.printable import one_line
from ..weights import tensors_sha256
from .kept_networks import KeptNetwork
from .memory_layout import channels_last
from .network_parts import ConvertedPart, PartExample, Run, detach, part_examples
from .onnx_runtime import OnnxRuntime
from .openvino_runtime import OpenVino

logger = logging.getLogger(__name__)

# Counts up with every change of how networks are converted: what was kept before is then made anew.
CONVERSION = 2
# Largest difference from PyTorch on the example, as a share of the largest value of an output.
_CLOSE = {"float32": 1e-3}
_CLOSE_REDUCED = 0.25


class Runtime(Protocol):
    """A library that runs converted parts of a network.

    Attributes:
        name: Its name on the command line.
        title: Its name in a sentence.
        package: What to install for it.
        devices: Kinds of device that it runs on.
    """

    name: str
    title: str
    package: str
    devices: tuple[str, ...]

    def missing(self) -> str | None:
        """Why it cannot be used here, None if it can."""
        ...

    def version(self) -> str:
        """Release of the library."""
        ...

    def convert(self, example: PartExample) -> dict[str, bytes]:
        """A part in the library's own format, by name."""
        ...

    def load(self, members: Mapping[str, bytes], device: torch.device, precision: torch.dtype) -> tuple[Run, str]:
        """What runs the content of `convert`, and the number format that it really computes in."""
        ...


RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (OpenVino(), OnnxRuntime("onnx"), OnnxRuntime("tensorrt"))
}
ENGINES = ("auto", "torch", *RUNTIMES)
# Environment variable with the engine that ``auto`` means on a machine.
VARIABLE = "MP3D_ENGINE"


def pytorch_is_faster(precision: torch.dtype) -> bool:
    """Whether PyTorch runs networks faster than OpenVINO on this CPU: measured on x86-64 (docs/performance.md).

    Where PyTorch would emulate bfloat16, OpenVINO computes in float32.
    """
    computes = precision == torch.float32 or cpu_has_bfloat16()
    return computes and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


class EngineUse(NamedTuple):
    """What a network runs on: ``engine`` with its release, and the number format ``precision``."""

    engine: str
    precision: str


@dataclass
class EngineChoice:
    """A choice of engine for networks in evaluation.

    Attributes:
        name: One of `ENGINES`. ``auto`` is what the environment variable ``MP3D_ENGINE`` names; without it OpenVINO on
            a CPU without AVX2 where it is installed, and PyTorch otherwise.
        device: Where the network lies.
        precision: Number format of the computation; None for float32. PyTorch itself takes it from autocast.
        weights: The weights file; converted networks are kept next to it. None keeps nothing.

    Raises:
        ValueError: If there is no such engine.
    """

    name: str = "auto"
    device: torch.device | str = "cpu"
    precision: torch.dtype | None = None
    weights: str | Path | None = None
    _used: WeakKeyDictionary[nn.Module, EngineUse] = field(default_factory=WeakKeyDictionary, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.name == "auto":
            self.name = os.environ.get(VARIABLE) or "auto"
        if self.name not in ENGINES:
            raise ValueError(f"Expected an engine out of {', '.join(ENGINES)}, got {self.name!r}.")

    @property
    def computes_as_asked(self) -> bool:
        """Whether networks surely compute in `precision`: not every CPU has what a library needs for bfloat16.

        Raises:
            ValueError: If the engine was named and cannot run here.
        """
        return self._runtime() is None or self.precision in (None, torch.float32)

    def attach(self, network: nn.Module) -> EngineUse:
        """Have a network run on the engine in evaluation; once for each network. A log line names what runs.

        Args:
            network: With its weights, on `device`.

        Raises:
            ValueError: If the engine was named and cannot run here, or cannot run this network.
        """
        if network not in self._used:
            self._used[network] = use = self._attach(network)
            logger.info("The network runs on %s in %s.", *use)
        return self._used[network]

    def _attach(self, network: nn.Module) -> EngineUse:
        precision = self.precision or torch.float32
        detach(network)
        if torch.device(self.device).type == "cpu":
            keep_freed_memory()
        runtime = self._runtime()
        if runtime is None:
            return self._pytorch(network)
        try:
            # A trace made in inference mode would hold the sizes of the example as constants.
            with torch.inference_mode(False), torch.no_grad():
                runs, formats = self._converted(network, runtime, precision)
        # Converters fail in ways of their own on what they do not know.
        except Exception as error:
            reason = one_line(error, 300)
            if self.name != "auto":
                raise ValueError(
                    f"Expected a network that {runtime.title} can run, it cannot run this one: {reason}. Use --engine "
                    "torch."
                ) from error
            logger.warning("%s cannot run this network, PyTorch does: %s", runtime.title, reason)
            return self._pytorch(network)
        for example, run in runs:
            example.part.forward = ConvertedPart(example, run)  # type: ignore[method-assign]
        return EngineUse(f"{runtime.name} {runtime.version()}", formats)

    def _pytorch(self, network: nn.Module) -> EngineUse:
        """PyTorch itself, on a CPU in the order in memory that is faster there."""
        if torch.device(self.device).type == "cpu":
            channels_last(network)
        return EngineUse(f"torch {torch.__version__}", str(self.precision or torch.float32)[6:])

    def _runtime(self) -> Runtime | None:
        """The library to use, None for PyTorch."""
        kind = torch.device(self.device).type
        if self.name == "auto":
            runtime = RUNTIMES["openvino"]
            if kind not in runtime.devices or runtime.missing() is not None:
                return None
            return None if pytorch_is_faster(self.precision or torch.float32) else runtime
        if self.name == "torch":
            return None
        runtime = RUNTIMES[self.name]
        if kind not in runtime.devices:
            raise ValueError(f"Expected --device {' or '.join(runtime.devices)} for --engine {self.name}, got {kind}.")
        if reason := runtime.missing():
            raise ValueError(
                f"Expected what --engine {self.name} needs, but {reason} (pip install {runtime.package}). Without it, "
                "use --engine torch."
            )
        return runtime

    def _converted(
        self, network: nn.Module, runtime: Runtime, precision: torch.dtype
    ) -> tuple[list[tuple[PartExample, Run]], str]:
        """What runs each part, converted or as it was kept, and the number format that all of them compute in."""
        examples = part_examples(network)
        kept = None if self.weights is None else KeptNetwork(self.weights, runtime.name, fingerprint(network, runtime))
        members = None if kept is None else kept.read()
        if members is not None:
            try:
                return self._load(members, examples, runtime, precision)
            except Exception as error:
                logger.warning("%s does not fit and is made anew: %s", kept and kept.path, error)
        start = time.perf_counter()
        logger.info(
            "Converting the network for %s, once for these weights; a large one takes half a minute.", runtime.title
        )
        members = {
            f"{example.name}/{name}": content
            for example in examples
            for name, content in runtime.convert(example).items()
        }
        found = self._load(members, examples, runtime, precision)
        logger.info("Converted the network in %.0f s.", time.perf_counter() - start)
        if kept is not None:
            kept.write(members)
        return found

    def _load(
        self, members: Mapping[str, bytes], examples: list[PartExample], runtime: Runtime, precision: torch.dtype
    ) -> tuple[list[tuple[PartExample, Run]], str]:
        runs, formats = [], set()
        for example in examples:
            start = f"{example.name}/"
            own = {name[len(start) :]: content for name, content in members.items() if name.startswith(start)}
            run, used = runtime.load(own, torch.device(self.device), precision)
            check_part(example, run, used)
            runs.append((example, run))
            formats.add(used)
        return runs, "/".join(sorted(formats))


def check_part(example: PartExample, run: Run, precision: str) -> None:
    """Compare a converted part with the part itself.

    Raises:
        ValueError: If it gives anything else than rounding explains.
    """
    most = _CLOSE.get(precision, _CLOSE_REDUCED)
    for own, other in zip(example.outputs, run(example.inputs), strict=True):
        if own.shape != other.shape:
            raise ValueError(f"{example.name} gives shape {tuple(other.shape)} in the place of {tuple(own.shape)}")
        scale = float(own.abs().max()) if own.numel() else 0.0
        away = float((own - other.to(own)).abs().max()) if own.numel() else 0.0
        if not away <= most * max(scale, 1e-6):
            raise ValueError(f"{example.name} gives {away:.2g} more or less than it should, of {scale:.2g}")


def fingerprint(network: nn.Module, runtime: Runtime) -> str:
    """What a conversion depends on, as a SHA-256: the tensors, the layers, the engine's release and our own steps."""
    parts = getattr(network, "engine_parts", ())
    facts = [CONVERSION, runtime.name, runtime.version(), parts, tensors_sha256(network.state_dict()), str(network)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
