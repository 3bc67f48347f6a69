"""The other networks of the house on a CPU: each in PyTorch, as the engine runs it, and in OpenVINO.

Whole untrained detectors, one slab each. NETWORKS names overlays (separated by a colon), SIDE the image's side, 128 by
default; two threads.
"""

from __future__ import annotations

import os

import torch
from monai.bundle import ConfigParser

from benchmarks._timing import compare
from benchmarks.engines import call, engines
from scripts.configuration.running_config import CONFIGS

SIDE = int(os.environ.get("SIDE", "128"))
ALL = "head_retinanet:fpn_3dce_9:fpn_3dce_27:3dce_27:retinanet_masks:mvpnet_9:mulan:msb:tsm:a3d:satr:alignshift"
NETWORKS = os.environ.get("NETWORKS", ALL).split(":")
THREADS, ROUNDS = 2, 3


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(THREADS)
    for name in NETWORKS:
        torch.manual_seed(0)
        files = [str(CONFIGS / "train.json"), str(CONFIGS / "variants" / f"{name}.yaml")]
        parser = ConfigParser(ConfigParser.load_config_files(files))
        plain = parser.get_parsed_content("network_def").eval()
        slab = torch.randn(1, parser.get_parsed_content("num_slices"), SIDE, SIDE)
        networks = engines(plain, ("torch", "openvino"))
        cases = {engine: call(network, slab, dtype) for engine, (network, dtype) in networks.items()}
        compare(f"{name}, {SIDE} x {SIDE}, {THREADS} threads", cases, ROUNDS)


if __name__ == "__main__":
    main()
