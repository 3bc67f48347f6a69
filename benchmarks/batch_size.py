"""How far boxes and scores depend on the batch size: the demo's weights on synthetic slices, float32 on the CPU."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from scripts.data.synthetic import generate
from scripts.tools.export_detector import nearest_gaps

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
IMAGES, SIZES = 24, (1, 2, 4, 8)


def main() -> None:
    """Compare each batch size with one slab at a time."""
    os.chdir(BUNDLE)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        generate(data, "small", seed=0, num_train=2, num_validation=2, num_test=IMAGES, margin_mm=10.0)
        parser = ConfigParser(ConfigParser.load_config_file("configs/evaluate.json"))
        parser.update({"checkpoint": "models/demo.pt", "device": "cpu", "dataset_dir": str(data)})
        parser.get_parsed_content("weights").load()
        network = parser.get_parsed_content("network").eval()
        slabs = [torch.as_tensor(sample["image"]) for sample in parser.get_parsed_content("dataset")]
    with torch.inference_mode():
        outputs = {
            size: [one for at in range(0, len(slabs), size) for one in network(slabs[at : at + size])] for size in SIZES
        }
    boxes = sum(len(one["scores"]) for one in outputs[1])
    for size in SIZES[1:]:
        gaps = [
            nearest_gaps((one["boxes"], one["scores"]), (other["boxes"], other["scores"]))
            for one, other in zip(outputs[1], outputs[size], strict=True)
        ]
        unlike = sum(math.isinf(gap) for gap, _ in gaps)
        print(
            f"batch {size} against 1, {len(slabs)} slices, {boxes} boxes: {max(gap for gap, _ in gaps):.1e} px, "
            f"{max(change for _, change in gaps):.1e} in the score; slices with another number of boxes: {unlike}"
        )


if __name__ == "__main__":
    main()
