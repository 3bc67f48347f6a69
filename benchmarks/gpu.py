"""Everything that is to be known about a GPU, in one run of under eight minutes; the last line is JSON.

    python -m benchmarks gpu             on a machine with a GPU
    SMOKE=1 python -m benchmarks gpu     the same steps on a CPU with a narrow network, to see that they run

Without either it prints that nothing was measured.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from scripts.engines.engine import RUNTIMES, EngineChoice
from scripts.engines.memory_layout import channels_last
from scripts.networks import ResNet3d, TwoStageHead, mp3d_fpn
from scripts.tools.export_detector import nearest_gaps

SMOKE = bool(os.environ.get("SMOKE")) and not torch.cuda.is_available()
LIMIT_S = 8 * 60
SIZES, BATCHES, SLICES, ROUNDS = ((64,), (1, 2), 9, 1) if SMOKE else ((448, 512, 576), (1, 2, 4, 8, 16), 9, 10)
FORMATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Report:
    """Rows as they are measured, within a time limit.

    Attributes:
        device: What is measured.
        rows: By name, plain values; "not measured" with the reason where a step failed or time was up.
    """

    device: torch.device
    rows: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

    def add(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure one row; a failure becomes its value, and the others are measured all the same."""
        if time.perf_counter() - self.start > LIMIT_S:
            self.rows[name] = "not measured: time was up"
        else:
            try:
                self.rows[name] = measure()
            except Exception as error:
                self.rows[name] = f"not measured: {' '.join(str(error).split())[:200]}"
        print(f"  {name}: {self.rows[name]}", flush=True)

    def seconds(self, call: Callable[[], object], rounds: int = ROUNDS) -> float:
        """Shortest time of a call, after one untimed."""
        times = []
        for _ in range(rounds + 1):
            self.wait()
            begin = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - begin)
        return min(times[1:])

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def network() -> nn.Module:
    """The full-size detector, or a narrow one to try the steps."""
    torch.manual_seed(0)
    if SMOKE:
        return mp3d_fpn(body=ResNet3d(layers=(1, 1, 1, 1), width=8), fpn_channels=16, head=TwoStageHead(fc_channels=32))
    return mp3d_fpn()


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """TensorFloat-32 for matrices and convolutions, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def kernel_error(device: torch.device, kernel: tuple[int, int, int], dtype: torch.dtype) -> float:
    """Largest relative difference of a 3D convolution from the same in float64 on the CPU: some releases were wrong."""
    generator = torch.Generator().manual_seed(0)
    side = 16 if SMOKE else 128
    x = torch.randn(1, 64, SLICES, side, side, generator=generator)
    weight = torch.randn(64, 64, *kernel, generator=generator) / 24
    padding = tuple(each // 2 for each in kernel)
    own = F.conv3d(x.double(), weight.double(), padding=padding)
    other = F.conv3d(x.to(device, dtype), weight.to(device, dtype), padding=padding)
    return round(float((own - other.cpu().double()).abs().max() / own.abs().max()), 6)


def forward(module: nn.Module, slabs: torch.Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    """A call without gradients, in autocast for another number format than float32."""

    def run() -> Any:
        reduced = dtype != torch.float32
        with torch.inference_mode(), torch.autocast(slabs.device.type, dtype if reduced else None, enabled=reduced):
            return module(slabs)

    return run


def train_step(module: nn.Module, slabs: torch.Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Losses and gradients of a batch with a lesion in each slab."""
    box = torch.tensor([[10.0, 10.0, 40.0, 50.0]], device=slabs.device)
    targets = [{"boxes": box, "labels": torch.ones(1, dtype=torch.int64, device=slabs.device)}] * len(slabs)

    def run() -> None:
        with torch.autocast(slabs.device.type, dtype, enabled=dtype != torch.float32):
            losses = module.train()(slabs, targets)
        sum(loss.float() for loss in losses.values()).backward()
        module.zero_grad(set_to_none=True)

    return run


def graphed(module: nn.Module, slabs: torch.Tensor) -> Callable[[], object]:
    """The backbone as a CUDA graph in bfloat16."""
    run = forward(module, slabs, torch.bfloat16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def measure_backbone(report: Report, module: nn.Module) -> None:
    """Number formats, memory order, sizes, batches, compilation and graphs of backbone and pyramid."""
    device, backbone = report.device, module.backbone
    last: Any = channels_last(copy.deepcopy(module)).backbone
    with torch.inference_mode(False):
        slabs = {size: torch.randn(1, SLICES, size, size, device=device) for size in SIZES}
    first = slabs[SIZES[len(SIZES) // 2]]
    for dtype in FORMATS:
        name = str(dtype)[6:]
        report.add(f"forward {name}", lambda dtype=dtype: report.seconds(forward(backbone, first, dtype)))  # type: ignore[misc, arg-type]
        report.add(f"forward {name}, channels last", lambda dtype=dtype: report.seconds(forward(last, first, dtype)))  # type: ignore[misc]
    if device.type == "cuda":
        with tf32(True):
            report.add("forward TF32", lambda: report.seconds(forward(backbone, first, torch.float32)))  # type: ignore[arg-type]
        for size, slab in slabs.items():
            report.add(f"CUDA graph {size}", lambda slab=slab: report.seconds(graphed(backbone, slab)))  # type: ignore[misc, arg-type]
        report.add("compiled", lambda: report.seconds(forward(torch.compile(backbone), first, torch.bfloat16)))  # type: ignore[arg-type]
    for batch in BATCHES:
        many = first.expand(batch, -1, -1, -1).contiguous()
        report.add(
            f"per slab, batch {batch}, bfloat16",
            lambda many=many: report.seconds(forward(backbone, many, torch.bfloat16)) / len(many),  # type: ignore[misc, arg-type]
        )


def measure_detector(report: Report, module: nn.Module) -> None:
    """The whole detector: agreement with the CPU, a training step and its memory, engines."""
    device, size = report.device, SIZES[len(SIZES) // 2]
    slabs = torch.randn(1, SLICES, size, size, generator=torch.Generator().manual_seed(1))

    def parity() -> dict[str, float]:
        own = forward(copy.deepcopy(module).cpu().eval(), slabs, torch.float32)()[0]
        other = forward(module.eval(), slabs.to(device), torch.float32)()[0]
        pixels, score = nearest_gaps((own["boxes"], own["scores"]), (other["boxes"].cpu(), other["scores"].cpu()))
        return {"pixels": pixels, "score": score}

    report.add("difference from the CPU", parity)
    report.add("detector float32", lambda: report.seconds(forward(module.eval(), slabs.to(device), torch.float32)))
    for batch in BATCHES[:3]:
        many = slabs.to(device).expand(batch, -1, -1, -1).contiguous()
        report.add(
            f"train step, batch {batch}", lambda many=many: memory_of(report, train_step(module, many, torch.bfloat16))
        )  # type: ignore[misc]
    for name, runtime in RUNTIMES.items():
        if device.type not in runtime.devices or (reason := runtime.missing()):
            report.rows[f"engine {name}"] = (
                f"not measured: {reason if device.type in runtime.devices else 'not for it'}"
            )
            continue

        def run(name: str = name) -> float:
            other = copy.deepcopy(module).eval()
            EngineChoice(name, device).attach(other)
            return report.seconds(forward(other, slabs.to(device), torch.float32))

        report.add(f"engine {name}", run)


def memory_of(report: Report, call: Callable[[], object]) -> dict[str, float]:
    """Seconds of a call, and on a GPU its largest memory in GiB."""
    if report.device.type != "cuda":
        return {"seconds": report.seconds(call)}
    torch.cuda.reset_peak_memory_stats()
    seconds = report.seconds(call)
    return {"seconds": seconds, "GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def main() -> None:
    """Print the figures."""
    if not torch.cuda.is_available() and not SMOKE:
        print("not measured: there is no GPU (SMOKE=1 tries the steps on a CPU)")
        return
    report = Report(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    module = network().to(report.device).eval()
    side = 256 if SMOKE else 8192
    for dtype in FORMATS[:2] if SMOKE else FORMATS:
        a = torch.randn(side, side, device=report.device).to(dtype)
        report.add(
            f"torch.mm {str(dtype)[6:]}, TFLOP/s",
            lambda a=a: round(2 * side**3 / report.seconds(lambda: torch.mm(a, a)) / 1e12, 2),  # type: ignore[misc]
        )
        for kernel in ((1, 3, 3), (3, 1, 1)):
            name = f"largest error of a {kernel} convolution, {str(dtype)[6:]}"
            report.add(name, lambda kernel=kernel, dtype=dtype: kernel_error(report.device, kernel, dtype))  # type: ignore[misc]
    measure_backbone(report, module)
    measure_detector(report, module)
    name = torch.cuda.get_device_name() if report.device.type == "cuda" else "CPU, smoke test, no figures"
    print(json.dumps({"device": name, "rows": report.rows}))


if __name__ == "__main__":
    main()
