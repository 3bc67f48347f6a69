"""Seconds a slice of a CT: the full-size detector on the default engine against others that find lesions in CTs.

The peers are the same network in plain PyTorch (the released code's formulation) and in ONNX Runtime, MR3D on the same
engine, and MONAI's 3D RetinaNet as its model zoo builds it for lung nodules, on a whole volume at once. Weights are
untrained. Slices of that RetinaNet lie 1.25 mm apart, ours 2.5 mm. ``SIDE=512`` is the paper's image, 256 the default.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial

import torch
from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
from monai.networks.nets.resnet import resnet50
from torch import nn

from benchmarks._timing import best, record
from benchmarks.engines import call, engines
from scripts.networks import FullBottleneck, ResNet3d, Stem, mp3d_fpn

SIDE = int(os.environ.get("SIDE", "256"))
SLICES, DEPTH, THREADS, ROUNDS = 9, 32, 2, 2


def nodule_network() -> nn.Module:
    """The network of the zoo's bundle ``lung_nodule_ct_detection`` (backbone, pyramid and heads)."""
    body = resnet50(spatial_dims=3, n_input_channels=1, conv1_t_stride=[2, 2, 1], conv1_t_size=[7, 7, 7])
    extractor = resnet_fpn_feature_extractor(body, 3, pretrained_backbone=False, returned_layers=[1, 2])
    return RetinaNet(3, num_classes=1, num_anchors=3, feature_extractor=extractor, size_divisible=[16, 16, 8]).eval()


def cases() -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed on the engines, by name, and how many slices a call covers."""
    slab = torch.randn(1, SLICES, SIDE, SIDE)
    plain = mp3d_fpn(SLICES).eval()
    volume = torch.randn(1, 1, SIDE, SIDE, DEPTH)
    found: dict[str, tuple[Callable[[], object], int]] = {
        "MONAI's 3D RetinaNet, PyTorch float32": (partial(nodule_network(), volume), DEPTH)
    }
    bodies = {
        "MP3D": plain,
        "MR3D": mp3d_fpn(SLICES, body=ResNet3d(FullBottleneck, stem=partial(Stem, depth=7))).eval(),
    }
    for body, module in bodies.items():
        names = ("torch", "onnx", "openvino") if body == "MP3D" else ("torch", "openvino")
        for name, (network, dtype) in engines(module, names).items():
            found[f"{body}, {name}"] = (call(network, slab, dtype), 1)
    return found


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    # The peer comes first: its memory goes back to the system, as without our engines.
    usual = "MP3D, plain PyTorch float32"
    timed: dict[str, tuple[Callable[[], object], int]] = {
        usual: (partial(mp3d_fpn(SLICES).eval(), torch.randn(1, SLICES, SIDE, SIDE)), 1)
    }
    with torch.inference_mode():
        measured = best({usual: timed[usual][0]}, ROUNDS)
    timed |= cases()
    with torch.inference_mode():
        measured |= best({name: call for name, (call, _) in timed.items() if name != usual}, ROUNDS)
    seconds = {name: value / timed[name][1] for name, value in measured.items()}
    record(f"a slice of {SIDE} x {SIDE}", seconds)
    peer = next(iter(seconds.values()))
    print(f"seconds a slice of {SIDE} x {SIDE} pixels, whole detectors, {THREADS} threads, best of {ROUNDS}")
    for name, value in seconds.items():
        print(f"  {name:<44} {value:8.3f} s   {peer / value:6.2f}x", flush=True)
    print(json.dumps({"side": SIDE, "threads": THREADS, "seconds_a_slice": seconds}))


if __name__ == "__main__":
    main()
