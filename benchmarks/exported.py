"""The full-size detector exported as ONNX and TorchScript: size, time, and agreement with PyTorch.

The weights are random: this does not measure accuracy.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import onnxruntime
import torch

from benchmarks._timing import compare
from scripts.networks import FasterRCNN, mp3d_fpn
from scripts.tools.export_detector import FORMATS, Runner, disagreement, without_noise

SLICES, SIDES, THREADS = 9, (448, 512, 576), 2


def spread_scores(detector: FasterRCNN) -> FasterRCNN:
    """Untrained heads give nearly equal scores, whose order depends on rounding; trained ones do not."""
    with torch.no_grad():
        for parameter in (*detector.rpn.head.parameters(), *detector.roi_heads.predictor.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return detector


def exported(detector: FasterRCNN, folder: Path) -> dict[str, Runner]:
    """Both formats, with a line on each file."""
    runners = {}
    for name, write in FORMATS.items():
        path = folder / f"detector.{name}"
        start = time.perf_counter()
        with without_noise():
            runners[name] = write(detector, path, {})
        print(f"{name}: {path.stat().st_size / 1e6:.1f} MB, made in {time.perf_counter() - start:.0f} s", flush=True)
    return runners


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    print(f"onnxruntime {onnxruntime.__version__}")
    detector = spread_scores(mp3d_fpn(SLICES).eval())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        runners = exported(detector, Path(folder))
        for side in SIDES:
            slabs = torch.randn(1, SLICES, side, side)
            for name, run in runners.items():
                pixels, score = disagreement(detector, run, slabs)
                print(f"{side} px, {name}: largest difference {pixels:.1e} px, {score:.1e} in the scores", flush=True)
        slabs = torch.randn(1, SLICES, 512, 512)
        cases = {"PyTorch": partial(detector, slabs), **{name: partial(run, slabs) for name, run in runners.items()}}
        compare("one slab of 512 x 512 pixels", cases, rounds=3)
