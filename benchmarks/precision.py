"""What reduced precision and other engines do to detections, against PyTorch in float32.

Average precision on synthetic key slices, and box by box on the same slices and on scans: of the boxes that PyTorch in
float32 scores above 0.5, how many have a counterpart within 0.5 pixels and 0.02 in score. CHECKPOINT names weights,
SCANS a list of scans (separated by a colon), IMAGES the number of slices. The last line is JSON.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from benchmarks.engines import FORMATS
from scripts.data.scans.scan import read_scan
from scripts.data.synthetic import generate
from scripts.engines.engine import RUNTIMES, EngineChoice
from scripts.inference.detections import SliceBoxes
from scripts.metrics.average_precision import average_precision
from scripts.weights import load_network
from scripts.workflows.to_cases import to_case

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
CHECKPOINT = os.environ.get("CHECKPOINT", str(BUNDLE / "models" / "demo.pt"))
SCANS = [path for path in os.environ.get("SCANS", "").split(":") if path]
IMAGES = int(os.environ.get("IMAGES", "100"))
SCORE, PIXELS, CHANGE = 0.5, 0.5, 0.02
Boxes = tuple[np.ndarray, np.ndarray]


def compared(own: Boxes, other: Boxes) -> np.ndarray:
    """Boxes above 0.5 of one image: how many have a near counterpart, how many there are, and how far those are away.

    Args:
        own: Boxes ``(M, 4)`` in pixels and scores ``(M,)`` of PyTorch in float32.
        other: Those to compare.

    Returns:
        Two counts, and the largest distance to a counterpart in pixels and in score.
    """
    boxes, scores = (each[own[1] > SCORE] for each in own)
    pixels, change = np.abs(boxes[:, None] - other[0]).max(axis=2), np.abs(scores[:, None] - other[1])
    near = (pixels <= PIXELS) & (change <= CHANGE)
    away = [np.where(near, each, np.inf).min(axis=1, initial=np.inf) for each in (pixels, change)]
    found = near.any(axis=1)
    return np.array([found.sum(), len(scores), *(each[found].max(initial=0) for each in away)])


def share(pairs: Sequence[tuple[Boxes, Boxes]]) -> str:
    """Share of kept boxes over all images, their number, and how far the kept ones are away."""
    each = np.array([compared(*pair) for pair in pairs]).reshape(-1, 4)
    (near, count), (pixels, change) = each[:, :2].sum(axis=0), each[:, 2:].max(axis=0, initial=0)
    return f"{100 * near / max(count, 1):.1f} of {count:.0f} (within {pixels:.1e} px, {change:.1e})"


def on_slices(network: nn.Module, dtype: torch.dtype, samples: Sequence[Any]) -> list[Boxes]:
    """Detections of each sample."""
    reduced = dtype != torch.float32
    with torch.inference_mode(), torch.autocast("cpu", dtype if reduced else None, enabled=reduced):
        found = [network([torch.as_tensor(sample["image"]).as_subclass(torch.Tensor)])[0] for sample in samples]
    return [(one["boxes"].float().numpy(), one["scores"].float().numpy()) for one in found]


def on_scan(network: nn.Module, dtype: torch.dtype, path: str) -> list[Boxes]:
    """Detections in each slice of a scan, by the recipe of the weights."""
    parser = ConfigParser(ConfigParser.load_config_file("configs/inference.json"))
    parser.update({"checkpoint": CHECKPOINT, "device": "cpu", "progress": False, "precision": str(dtype)[6:]})
    found: SliceBoxes = parser.get_parsed_content("inferer")(read_scan(path), network)
    return [(found.boxes[found.slices == at], found.scores[found.slices == at]) for at in range(len(found.positions))]


def points(samples: Sequence[Any], found: Sequence[Boxes]) -> float:
    """Average precision at IoU 0.5 in percent."""
    cases = [
        to_case({**sample, "pred": {"boxes": torch.from_numpy(boxes), "scores": torch.from_numpy(scores)}})["case"]
        for sample, (boxes, scores) in zip(samples, found, strict=True)
    ]
    return 100 * average_precision(cases).ap50


def synthetic_samples(folder: Path) -> list[Any]:
    """Key slices of the synthetic test split."""
    generate(folder, "small", seed=0, num_train=2, num_validation=2, num_test=IMAGES, margin_mm=10.0)
    parser = ConfigParser(ConfigParser.load_config_file("configs/evaluate.json"))
    parser.update({"checkpoint": CHECKPOINT, "device": "cpu", "dataset_dir": str(folder)})
    return list(parser.get_parsed_content("dataset"))


def variants() -> dict[str, tuple[nn.Module, torch.dtype]]:
    """Networks by name, with the number format of PyTorch's part; PyTorch in float32 first."""
    plain = load_network(CHECKPOINT)[0]
    found = {"plain PyTorch float32": (plain, torch.float32)}
    for name in ("torch", "onnx", "openvino"):
        for dtype in FORMATS:
            there = name == "torch" or RUNTIMES[name].missing() is None
            if there and (name, dtype) != ("onnx", torch.bfloat16):
                network = copy.deepcopy(plain)
                use = EngineChoice(name, precision=dtype).attach(network)
                found[f"{name} {use.precision}"] = (network, dtype)
    return found


def main() -> None:
    """Print the figures."""
    os.chdir(BUNDLE)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        samples, networks = synthetic_samples(Path(folder)), variants()
        first = next(iter(networks))
        own: dict[str, list[Boxes]] = {}
        for name, (network, dtype) in networks.items():
            found = on_slices(network, dtype, samples)
            own.setdefault("slices", found)
            row: dict[str, Any] = {"variant": name, "AP": round(points(samples, found), 2)}
            row["slices"] = share(list(zip(own["slices"], found, strict=True)))
            for path in SCANS:
                slices = on_scan(network, dtype, path)
                own.setdefault(path, slices)
                row["/".join(Path(path).parts[-2:])] = share(list(zip(own[path], slices, strict=True)))
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    print(json.dumps({"against": first, "weights": Path(CHECKPOINT).name, "slices": IMAGES, "rows": rows}))


if __name__ == "__main__":
    main()
