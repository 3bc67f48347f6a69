"""Export a detector for other runtimes: one file, slabs in and boxes out, independent of the code of this bundle.

    python -m scripts.export --checkpoint models/model.pt --format onnx --target models/model.onnx
    python -m scripts.export --checkpoint models/model.pt --format torch --target models/model.ts

Run from the bundle's folder. The file is compared with the detector before it gets its name. See docs/export.md.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401  (its operators are in the exported graphs)
from monai.data import save_net_with_metadata
from torch import Tensor, nn

from ..engines.onnx_runtime import OPSET, group_norm_in_onnx, onnx, onnxruntime, opset
from ..networks.export_graph import DetectionGraph, Operations, suppress
from ..networks.two_stage import FasterRCNN
from ..recipe import KEY, stored_recipe
from ..storage.atomic_files import replacing
from ..weights import load_network
from .early_checks import check_export

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
INPUT, OUTPUTS = "slabs", ("boxes", "scores", "labels")
# Largest difference between the detector and the exported file, in pixels and in score.
TOLERANCE = 1e-3
# The last pyramid level must not be a single row or column: exporters treat a side of 1 as fixed.
LEAST_SIDE = 65
Runner = Callable[[Tensor], Sequence[Tensor]]


@torch.library.custom_op("mp3d::suppress", mutates_args=())
def suppress_in_one(boxes: Tensor, scores: Tensor, max_iou: float) -> Tensor:
    """The same as :func:`.suppress`, as one node of the graph: a loop over the batch would fix its size."""
    return suppress(boxes, scores, max_iou)


@suppress_in_one.register_fake
def _(boxes: Tensor, scores: Tensor, max_iou: float) -> Tensor:
    del boxes, max_iou
    return torch.empty_like(scores, dtype=torch.bool)


def _suppress_in_onnx(boxes: Any, scores: Any, max_iou: float) -> Any:
    """ONNX's own operator does all groups at once; its (group, class, box) triples become a mask."""
    picked = opset.NonMaxSuppression(boxes, opset.Unsqueeze(scores, [1]), torch.iinfo(torch.int64).max, max_iou)
    places = opset.Gather(picked, [0, 2], axis=1)
    value = onnx.helper.make_tensor
    zeros = opset.ConstantOfShape(opset.Shape(scores), value=value("zero", onnx.TensorProto.FLOAT, [1], [0.0]))
    count = opset.Shape(places, start=0, end=1)
    ones = opset.ConstantOfShape(count, value=value("one", onnx.TensorProto.FLOAT, [1], [1.0]))
    return opset.Cast(opset.ScatterND(zeros, places, ones), to=onnx.TensorProto.BOOL)


def _sort_in_onnx(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """A stable sort is the best N of N: ``TopK`` keeps the order of equal values."""
    del stable
    size = opset.Gather(opset.Shape(self), opset.Constant(value_ints=[dim]))
    return opset.TopK(self, size, axis=dim, largest=int(descending), sorted=1)


def _roi_align_in_onnx(
    features: Any, rois: Any, scale: float, height: int, width: int, sampling_ratio: int = -1, aligned: bool = False
) -> Any:
    """Some releases of onnxscript do not know ``aligned``."""
    return opset.RoiAlign(
        features,
        opset.Slice(rois, [1], [5], [1]),
        opset.Cast(opset.Squeeze(opset.Slice(rois, [0], [1], [1]), [1]), to=onnx.TensorProto.INT64),
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        spatial_scale=scale,
        output_height=height,
        output_width=width,
        sampling_ratio=max(sampling_ratio, 0),
    )


def to_onnx(network: FasterRCNN, path: Path, info: Mapping[str, Any]) -> Runner:
    """Write a detector as ONNX, operator set 18: any batch, slabs of 65 pixels and more a side.

    Args:
        network: Detector on the CPU.
        path: File to write.
        info: Facts of the weights; kept as the file's metadata.

    Returns:
        Runs the file with onnxruntime on the CPU.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime is missing.
    """
    graph = DetectionGraph(network, Operations(suppress=suppress_in_one))
    side = torch.export.Dim("height", min=LEAST_SIDE), torch.export.Dim("width", min=LEAST_SIDE)
    sizes = {0: torch.export.Dim("batch", min=1), 2: side[0], 3: side[1]}
    # PyTorch 2.10 reads the padding to a multiple of 32 as a limit on the sides: its checks are deferred.
    program = torch.export.export(
        graph, (_example(network),), dynamic_shapes=(sizes,), prefer_deferred_runtime_asserts_over_guards=True
    )
    operators = torch.ops
    translated: Any = torch.onnx.export(
        program,
        (),
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        custom_translation_table={
            operators.mp3d.suppress.default: _suppress_in_onnx,
            operators.aten.sort.stable: _sort_in_onnx,
            operators.aten.group_norm.default: group_norm_in_onnx,
            operators.torchvision.roi_align.default: _roi_align_in_onnx,
        },
    )
    model = translated.model_proto
    for name, value in _facts(network, info).items():
        model.metadata_props.add(key=name, value=value)
    for value in (*model.graph.input, *model.graph.output):
        names = ("batch", "slices", "height", "width") if value.name == INPUT else ("batch", "rows", "corners")
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda slabs: [torch.from_numpy(output) for output in session.run(None, {INPUT: slabs.numpy()})]


def to_torchscript(network: FasterRCNN, path: Path, info: Mapping[str, Any]) -> Runner:
    """Write a detector as TorchScript with the bundle's metadata and inference config inside, as MONAI does.

    Any batch and any size. To run it, ``import torchvision`` first.

    Args:
        network: Detector on the CPU.
        path: File to write; the name without its ending becomes the name inside.
        info: Facts of the weights; kept as ``weights.json`` in the file.

    Returns:
        Runs the file on the CPU.
    """
    scripted = Operations(*(torch.jit.script(step) for step in Operations()))
    with torch.no_grad():
        traced: Any = torch.jit.trace(DetectionGraph(network, scripted), (_example(network),), check_trace=False)
    extra = {"weights.json": json.dumps(_facts(network, info)), "inference.json": _config("inference")}
    save_net_with_metadata(
        traced,
        str(path),
        meta_values=json.loads(_config("metadata")),
        more_extra_files={name: text.encode() for name, text in extra.items()},
    )
    if not path.suffix:  # MONAI gives such a file an ending
        os.replace(path.with_suffix(".ts"), path)
    return torch.jit.load(str(path)).eval()


FORMATS: dict[str, Callable[[FasterRCNN, Path, Mapping[str, Any]], Runner]] = {"onnx": to_onnx, "torch": to_torchscript}


def _config(name: str) -> str:
    return (CONFIGS / f"{name}.json").read_text(encoding="utf-8")


def _facts(network: FasterRCNN, info: Mapping[str, Any]) -> dict[str, str]:
    """Notices for users of the file, as text."""
    facts = {name: info[name] for name in ("name", "notice", "sha256") if info.get(name)}
    facts[KEY] = json.dumps(stored_recipe(info, str(info.get("path")), network=network).plain())
    return {**facts, "num_slices": str(_slices(network)), "inference": json.dumps(info.get("inference", {}))}


def _example(network: FasterRCNN) -> Tensor:
    return torch.zeros(2, _slices(network), 128, 160)


def _slices(network: FasterRCNN) -> int:
    """Number of slices that a detector reads."""
    return int(network.backbone.num_slices)  # type: ignore[arg-type]


@torch.no_grad()
def disagreement(network: nn.Module, runner: Runner, slabs: Tensor) -> tuple[float, float]:
    """Largest difference of an exported detector from the original.

    Rows are compared with the row of the other result that is nearest, both ways: scores that differ by less than
    rounding may trade places.

    Args:
        network: The original, in evaluation mode.
        runner: The exported one.
        slabs: ``(B, D, H, W)``.

    Returns:
        Largest difference of a coordinate in pixels, and of a score; infinite if the numbers of boxes differ.
    """
    each = [
        nearest_gaps((found["boxes"], found["scores"]), (boxes[labels > 0], scores[labels > 0]))
        for found, boxes, scores, labels in zip(network(slabs), *runner(slabs), strict=True)
    ]
    return max((gap for gap, _ in each), default=0.0), max((change for _, change in each), default=0.0)


def nearest_gaps(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Largest difference of two results of one image; see `disagreement`.

    Args:
        first: Boxes ``(M, 4)`` in pixels and scores ``(M,)``.
        second: Those of the other result.
    """
    if len(first[1]) != len(second[1]):
        return math.inf, math.inf
    worst = torch.zeros(2)
    if len(first[1]):
        gaps = (first[0][:, None] - second[0]).abs().amax(dim=2)
        changes = (first[1][:, None] - second[1]).abs()
        both = torch.maximum(gaps, changes)
        for side in (0, 1):
            nearest = both.argmin(dim=side, keepdim=True)
            pair = torch.stack([gaps.gather(side, nearest).max(), changes.gather(side, nearest).max()])
            worst = torch.maximum(worst, pair)
    return float(worst[0]), float(worst[1])


def export(checkpoint: str, target: str, format: str = "onnx") -> None:
    """Export a detector for other runtimes, and compare the file with it.

    Args:
        checkpoint: Weights file of a detector.
        target: File to write; removed if the comparison fails.
        format: ``onnx``, or ``torch`` for TorchScript.

    Raises:
        ValueError: If the format is unknown, the target is the weights file, the weights are those of another kind of
            network, or the exported file gives other boxes or scores.
        FileNotFoundError: If the weights file does not exist.
        ImportError: If a package that the format needs is missing.
        OSError: If the target cannot be written.
    """
    check_export(checkpoint, target, format)
    network, info = load_network(checkpoint)
    if not isinstance(network, FasterRCNN):
        raise ValueError(f"Expected weights of the two-stage detector, got a {type(network).__name__} in {checkpoint}.")
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        part = Path(folder) / path.name
        with without_noise():
            runner = FORMATS[format](network, part, info)
            gaps = _compare(network, runner, target)
        with replacing(path) as ready:
            os.replace(part, ready)
    print(
        f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - start:.0f} s): same boxes to "
        f"{_gap(gaps[0])} pixels and same scores to {_gap(gaps[1])} on random slabs."
    )
    if info.get("notice"):
        print(info["notice"])


def _gap(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _compare(network: FasterRCNN, runner: Runner, target: str) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    slices = _slices(network)
    shapes = [(1, slices, 128, 160), (3, slices, 90, 70)]  # the size of the export, and one that needs padding
    each = [disagreement(network, runner, torch.randn(shape, generator=generator)) for shape in shapes]
    worst = max(gap for gap, _ in each), max(change for _, change in each)
    if not max(worst) <= TOLERANCE:
        raise ValueError(
            f"Expected an exported detector that gives the same boxes and scores to {TOLERANCE}, but {target} would "
            f"differ by {worst[0]:.1e} pixels and {worst[1]:.1e} in the scores."
        )
    return worst


@contextmanager
def without_noise() -> Iterator[None]:
    """Silence the exporters: they warn about every custom step and about the age of TorchScript."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
