"""Engines against plain PyTorch on a CPU: backbone and pyramid, then the whole detector, as ratios in one run.

Small by default, so that it ends within minutes; SIDE=512 gives the table of docs/performance.md. The last line is
JSON.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from benchmarks._timing import best
from scripts.engines.engine import RUNTIMES, EngineChoice
from scripts.networks import mp3d_fpn
from scripts.number_formats import cpu_has_bfloat16

SIDE = int(os.environ.get("SIDE", "128"))
THREADS, ROUNDS, SLICES = 2, 3, 9
# Number formats that the CPU need not emulate.
FORMATS = (torch.float32, torch.bfloat16) if cpu_has_bfloat16() else (torch.float32,)
# Multiply-accumulates of backbone, group transform and pyramid for 9 x 512 x 512 (`python -m scripts.complexity`).
GFLOP = 443.0 * (SIDE / 512) ** 2


def matmul_rate(dtype: torch.dtype, side: int = 2048) -> float:
    """GFLOP/s of ``torch.mm`` of two square matrices: what the machine gives to a well-kept library."""
    a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    return 2 * side**3 / best({"mm": lambda: torch.mm(a, b)}, rounds=5)["mm"] / 1e9


def call(module: nn.Module, slabs: torch.Tensor, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """A call without gradients, in autocast for another number format than float32."""

    def run() -> object:
        reduced = dtype != torch.float32
        with torch.inference_mode(), torch.autocast("cpu", dtype if reduced else None, enabled=reduced):
            return module(slabs)

    return run


def engines(
    plain: nn.Module, names: Sequence[str] = ("torch", "onnx", "openvino")
) -> dict[str, tuple[nn.Module, torch.dtype]]:
    """The network on each engine by name, with the number format of PyTorch's part. From then on memory is kept.

    What an engine cannot run is printed and left out.
    """
    found: dict[str, tuple[nn.Module, torch.dtype]] = {}
    for name in names:
        for dtype in FORMATS:
            if (name != "torch" and RUNTIMES[name].missing()) or (name == "onnx" and dtype != torch.float32):
                continue
            network = copy.deepcopy(plain)
            try:
                use = EngineChoice(name, precision=dtype).attach(network)
            except ValueError as error:
                print(f"{name} in {str(dtype)[6:]}: {error}"[:200])
                continue
            if use.precision == str(dtype)[6:]:
                found[f"{name} {use.precision}"] = (network, dtype if name == "torch" else torch.float32)
    return found


def table(
    title: str, seconds: Mapping[str, float], peaks: Mapping[str, float] | None = None
) -> list[dict[str, object]]:
    """Print rows and give them as plain values."""
    print(f"{title}, best of {ROUNDS}")
    plain, rows = next(iter(seconds.values())), []
    for name, value in seconds.items():
        row: dict[str, object] = {"variant": name, "seconds": round(value, 4), "times_plain": round(plain / value, 2)}
        if peaks is not None:
            kind = "bfloat16" if "bfloat16" in name else "float32"
            row["share_of_mm"] = round(GFLOP / value / peaks[kind], 2)
        rows.append(row)
        print("  " + "  ".join(f"{key} {cell}" for key, cell in row.items()), flush=True)
    return rows


def main() -> None:
    """Print the figures."""
    # One thread takes other code paths in torch's CPU convolutions and misleads.
    torch.set_num_threads(THREADS)
    slabs = torch.randn(1, SLICES, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = mp3d_fpn(SLICES).eval()
    usual = "plain PyTorch float32"
    backbone = best({usual: call(plain.backbone, slabs)}, ROUNDS)  # type: ignore[arg-type]
    detector = best({usual: call(plain, slabs)}, ROUNDS)
    networks = engines(plain)
    backbone |= best({name: call(each.backbone, slabs, dtype) for name, (each, dtype) in networks.items()}, ROUNDS)  # type: ignore[arg-type]
    detector |= best({name: call(each, slabs, dtype) for name, (each, dtype) in networks.items()}, ROUNDS)
    peaks = {str(dtype)[6:]: matmul_rate(dtype) for dtype in FORMATS}
    size = f"{SLICES} x {SIDE} x {SIDE}, {THREADS} threads"
    found = {
        "size": size,
        "mm_gflops": {name: round(rate) for name, rate in peaks.items()},
        "backbone": table(f"backbone and pyramid, {size}", backbone, peaks),
        "detector": table(f"whole detector, {size}", detector),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
