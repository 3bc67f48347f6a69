"""The other published detectors through the bundle's commands: train, evaluate and find in a scan with an overlay."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.utils import set_determinism
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.data.synthetic import generate
from scripts.tools.convert_weights import convert
from support.bundle_runs import run_workflow
from support.fake_scans import ball_scan
from support.whole_detectors import keys_of

THIN = {"growth": 8, "channels": 16, "fc_channels": 32}
OVERLAYS: dict[str, dict[str, Any]] = {
    "mulan": THIN,
    "alignshift": THIN,
    "tsm": THIN,
    "a3d": THIN,
    "satr": {**THIN, "embedding": 24},
}
TAGS = 171


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic set, tags of half of its lesions, and a scan."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder / "set", "small", seed=1, workers=1, num_train=2, num_validation=1, num_test=1)
    rows = [0, 1]
    tags = {"term_list": [f"tag {number}" for number in range(TAGS)]}
    of_train = {"train_lesion_idxs": rows, "train_relevant_labels": [[0, 5], [7]], "train_uncertain_labels": [[1], []]}
    (folder / "tags.json").write_text(json.dumps({**tags, **of_train}))
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(ball_scan().transpose(2, 1, 0), affine), folder / "scan.nii.gz")
    return folder


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    set_determinism(None)


@pytest.mark.slow
@pytest.mark.parametrize("overlay", list(OVERLAYS))
def test_an_overlay_trains_evaluates_and_finds(dataset: Path, tmp_path: Path, overlay: str) -> None:
    thin = {f"network_def#{name}": value for name, value in OVERLAYS[overlay].items()}
    common = {"dataset_dir": str(dataset / "set"), "num_workers": 0}
    training = {"output_dir": str(tmp_path / "models"), "max_epochs": 1, "train_scales": [96], "test_scale": 96}
    if overlay == "mulan":
        training["tags"] = str(dataset / "tags.json")
    run_workflow("training", "train.json", f"variants/{overlay}.yaml", **training, **common, **thin)
    curves = EventAccumulator(str(tmp_path / "models" / "tensorboard")).Reload()
    (mask_loss,) = [event.value for event in curves.Scalars("train/loss_masks")]
    assert 0 < mask_loss < 1
    if overlay == "mulan":
        (tag_loss,) = [event.value for event in curves.Scalars("train/loss_tags")]
        assert tag_loss > 0
    found = {**common, "checkpoint": str(tmp_path / "models" / "model.pt")}
    settings = {"output_dir": str(tmp_path / "eval"), "bootstrap_resamples": 5, "gallery_images": 0}
    run_workflow("evaluating", "evaluate.json", **settings, **found)
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())
    settings = {"checkpoint": found["checkpoint"], "box_threshold": 0.0, "score_threshold": 0.0}
    run_workflow(
        "inferring", "inference.json", input=str(dataset / "scan.nii.gz"), output_dir=str(tmp_path / "out"),
        outputs="json,csv", progress=False, **settings,
    )  # fmt: skip
    document = json.loads((tmp_path / "out" / "lesions.json").read_text())
    assert document["lesions"]
    for lesion in document["lesions"]:
        assert lesion["axes"]["long_axis_mm"] > 0
        assert ("tags" in lesion) == (overlay == "mulan")


def codes(item: pydicom.Dataset) -> set[str]:
    """Every concept name below an item of a structured report."""
    own = {concept.CodeValue for concept in item.get("ConceptNameCodeSequence", ())}
    return own.union(*(codes(part) for part in item.get("ContentSequence", ())))


@pytest.mark.slow
def test_a_converted_mulan_of_full_size_tags_and_outlines_a_real_ct_in_every_output(
    shared: Path, tmp_path: Path
) -> None:
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in keys_of(shared, "mulan")["keys"]:
        noise = torch.randn(shape, generator=generator) * 0.02
        counter = key.endswith("num_batches_tracked")
        state[key] = torch.zeros(shape, dtype=torch.int64) if counter else noise + key.endswith("running_var")
    # Masks of random weights may be empty.
    state["roi_heads.mask.predictor.mask_fcn_logits.bias"] = torch.tensor([-1.0, 1.0])
    torch.save({"model": state}, tmp_path / "a.pth")
    names = [f"tag {number}" for number in range(TAGS)]
    (tmp_path / "tags.json").write_text(json.dumps({"term_list": names}))
    convert(str(tmp_path / "a.pth"), str(tmp_path / "b.pt"), tags=str(tmp_path / "tags.json"))
    out = tmp_path / "out"
    run_workflow(
        "inferring", "inference.json", input=str(shared / "data" / "volumes" / "dicom_3slice"), output_dir=str(out),
        checkpoint=str(tmp_path / "b.pt"), score_threshold=0.48, tag_threshold=0.3, progress=False,
    )  # fmt: skip
    document = json.loads((out / "lesions.json").read_text())
    assert document["model"]["tags"] == names
    assert document["lesions"]
    for lesion in document["lesions"]:
        assert (lesion["axes"]["source"], len(lesion["tags"]) > 0) == ("mask", True)
        assert lesion["axes"]["long_axis_mm"] >= lesion["axes"]["short_axis_mm"] > 0
        assert len(lesion["outline"]["voxel"]) > 2
    first = document["lesions"][0]["tags"][0]["tag"]
    for file in ("lesions.csv", "lesions.mrk.json", "report.html"):
        assert first in (out / file).read_text(), file
    assert list((out / "overlays").glob("*.png"))
    report = pydicom.dcmread(out / "lesions_sr.dcm")
    assert {"103339001", "103340004"} <= codes(report)
    assert first in str(report)
    assert pydicom.dcmread(out / "lesions_seg.dcm").NumberOfFrames >= 1
