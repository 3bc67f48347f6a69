"""A further head, one number a box, from training to tables: one class and one overlay, nothing changed between."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.utils import set_determinism
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from scripts import networks, weights
from scripts.data.deeplesion.splits import load_records
from scripts.data.intensity import IntensityWindow
from scripts.data.records import Record
from scripts.data.scans.scan import read_scan
from scripts.data.slabs.slab_reader import resample_z
from scripts.data.synthetic import generate
from scripts.inference.volume_detector import PlaneScale, SlabCutter, VolumeDetector
from scripts.weights import load_network
from support.bundle_runs import run_workflow
from support.fake_scans import ball_scan

OVERLAY = f"""
network_def#head#fields:
  roundness:
    _target_: scripts.networks.Roundness
    _mode_: callable
train#dataset#data#_target_: {__name__}.rounded_records
validate#dataset#data#_target_: {__name__}.rounded_records
"""


class Roundness(nn.Module):
    """The one part of a network: a number from a box's feature vector."""

    reads = ("round",)

    def __init__(self, channels: int, pyramid_channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, 1)

    def forward(self, rois: networks.RoIs) -> Tensor:
        return self.layer(rois.vectors).squeeze(1).float()

    def loss(self, outputs: Tensor, lesions: dict[str, Tensor]) -> Tensor:
        return F.smooth_l1_loss(outputs, lesions["round"], reduction="sum") / max(len(outputs), 1)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs


def rounded_records(*arguments: Any, **settings: Any) -> list[Record]:
    """Records of a data set whose labels say how round each lesion is."""
    records = load_records(*arguments, **settings)
    for record in records:
        sides = record["instances"]["boxes"][:, 2:] - record["instances"]["boxes"][:, :2]
        record["instances"]["round"] = sides.min(axis=1) / sides.max(axis=1)
    return records


@pytest.fixture(scope="module")
def offered() -> Iterator[None]:
    """The head as a member of the networks that configs and weights may name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "Roundness", Roundness, raising=False)
        patch.setattr(weights, "_TARGETS", [*weights._TARGETS, "scripts.networks.Roundness"])
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "excepthook", sys.excepthook)
        yield
    set_determinism(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, offered: None) -> Path:
    """A data set, a training, an evaluation and the results of a scan."""
    place = tmp_path_factory.mktemp("third")
    generate(place / "data", "small", seed=1, workers=1, num_train=4, num_validation=2, num_test=2)
    (place / "overlay.yaml").write_text(OVERLAY)
    common = {"dataset_dir": str(place / "data"), "num_workers": 0, "num_slices": 3}
    overlays = ["variants/size_narrow.yaml", place / "overlay.yaml"]
    run_workflow("training", "train.json", *overlays, output_dir=str(place / "models"), max_epochs=1, **common)
    weights_file = str(place / "models" / "model.pt")
    settings = {**common, "checkpoint": weights_file, "bootstrap_resamples": 5, "gallery_images": 0}
    run_workflow("evaluating", "evaluate.json", output_dir=str(place / "eval"), **settings)
    affine = np.diag([-1.0, -1.0, 2.5, 1.0])
    nibabel.save(nibabel.Nifti1Image(ball_scan().transpose(2, 1, 0), affine), place / "scan.nii.gz")
    settings = {
        "checkpoint": weights_file,
        "num_slices": 3,
        "box_threshold": 0.0,
        "score_threshold": 0.0,
        "image_size": 64,
    }
    outputs = {"outputs": "json,csv", "progress": False}
    run_workflow(
        "inferring", "inference.json", input=str(place / "scan.nii.gz"), output_dir=str(place / "out"),
        **settings, **outputs,
    )  # fmt: skip
    return place


def test_the_head_is_trained_and_its_loss_logged(folder: Path) -> None:
    curves = EventAccumulator(str(folder / "models" / "tensorboard")).Reload()
    losses = [event.value for event in curves.Scalars("train/loss_roundness")]
    assert losses
    assert all(0 < loss < 10 for loss in losses)
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert state["model"]["roi_heads.fields.roundness.layer.weight"].shape[0] == 1
    head = state["network"]["head"]["fields"]["roundness"]
    assert head == {"_target_": "scripts.networks.Roundness", "_mode_": "callable"}


def test_an_evaluation_lists_the_number_of_every_detection(folder: Path) -> None:
    rows = list(csv.DictReader((folder / "eval" / "detections.csv").open()))
    assert rows
    assert list(rows[0])[-1] == "roundness"
    assert len({row["roundness"] for row in rows}) > len(rows) / 2


def test_results_hold_what_the_network_says_of_each_box(folder: Path) -> None:
    network, _ = load_network(folder / "models" / "model.pt")
    document = json.loads((folder / "out" / "lesions.json").read_text())
    scale = PlaneScale(document["settings"]["pixel_spacing_mm"], 64)
    cutter = SlabCutter(resample_z, 3, scale=scale, from_last=True)
    found = VolumeDetector(cutter, IntensityWindow(), progress=False)(read_scan(folder / "scan.nii.gz"), network)
    listed = json.loads((folder / "out" / "detections.json").read_text())["detections"]
    np.testing.assert_allclose([entry["fields"]["roundness"] for entry in listed], found.fields["roundness"], atol=1e-5)
    assert np.ptp(found.fields["roundness"]) > 0
    lesions = document["lesions"]
    assert lesions
    for lesion in lesions:
        own = [entry for entry in listed if entry["lesion"] == lesion["lesion"]]
        best = [entry["fields"] for entry in own if entry["score"] == lesion["score"]]
        assert lesion["fields"] in best
    rows = list(csv.DictReader((folder / "out" / "lesions.csv").open()))
    assert list(rows[0])[-1] == "roundness"
    assert [float(row["roundness"]) for row in rows] == [lesion["fields"]["roundness"] for lesion in lesions]
