"""A narrow MULAN through everything: mask and tag targets, training, evaluation of both, and a DICOM series."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from monai.utils import set_determinism

from scripts.data.deeplesion.splits import load_records
from scripts.data.grab_cut import GrabCutMasksd
from scripts.data.slabs.slab_reader import SlabReader
from scripts.data.synthetic import generate
from scripts.data.transforms import LoadSlabd
from scripts.inference.outputs import lesions_document
from support.bundle_runs import run_workflow
from support.fake_dicom import write_ct
from support.fake_scans import ball_scan

NAMES = ["lung", "nodule", "liver", "cyst"]
OVERLAY = """
network_def: {_target_: scripts.networks.mulan, num_slices: 9, tags: 4, growth: 4, channels: 16, fc_channels: 16}
"""


def write_tags(folder: Path, rows: int) -> Path:
    """Tags of all lesions of the set, in the form of LesaNet's file."""
    rows_of = list(range(rows))
    content = {
        "term_list": NAMES,
        "train_lesion_idxs": rows_of,
        "train_relevant_labels": [[row % 2, 2 + row % 2] for row in rows_of],
        "train_uncertain_labels": [[] for _ in rows_of],
    }
    path = folder / "tags.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data set, a training, an evaluation and the results of a series."""
    place = tmp_path_factory.mktemp("masks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "excepthook", sys.excepthook)
        generate(place / "data", "small", seed=1, workers=1, num_train=4, num_validation=2, num_test=3)
        with (place / "data" / "DL_info.csv").open(newline="") as file:
            tags = write_tags(place, len(list(csv.DictReader(file))))
        (place / "overlay.yaml").write_text(OVERLAY)
        common = {"dataset_dir": str(place / "data"), "num_workers": 0, "tags": str(tags), "num_slices": 9}
        run_workflow("training", "train.json", place / "overlay.yaml", output_dir=str(place / "models"), max_epochs=1,
            mask_targets="ellipses", train_scales=[96], test_scale=96, **common)  # fmt: skip
        weights = str(place / "models" / "model.pt")
        run_workflow("evaluating", "evaluate.json", output_dir=str(place / "eval"), checkpoint=weights,
            bootstrap_resamples=5, gallery_images=0, **common)  # fmt: skip
        write_ct(place / "series", ball_scan(shape=(6, 64, 64)), spacing=(1.0, 1.0, 2.5))
        run_workflow("inferring", "inference.json", input=str(place / "series"), output_dir=str(place / "out"),
            checkpoint=weights, box_threshold=0.0, score_threshold=0.0, tag_threshold=0.0, overlays=1,
            outputs="json,csv,slicer,overlays", progress=False)  # fmt: skip
        yield place
    set_determinism(None)


def test_both_kinds_of_masks_lie_on_the_lesions(folder: Path) -> None:
    records = load_records(folder / "data", "train", mask_targets="ellipses")
    ratios = []
    for record in records:
        sample = GrabCutMasksd()(LoadSlabd(SlabReader(num_slices=3))(record))
        for cut, drawn in zip(sample["instances"]["masks"].numpy(), record["instances"]["masks"], strict=True):
            ratios.append(float(np.minimum(cut, drawn).sum() / np.maximum(cut, drawn).sum()))
    assert len(ratios) >= 4
    assert np.median(ratios) > 0.6


def test_masks_and_tags_are_learnt_and_their_names_kept(folder: Path) -> None:
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert state["info"]["recipe"]["tags"] == NAMES
    assert any(name.startswith("roi_heads.mask_head") for name in state["model"])


def test_an_evaluation_scores_diameters_and_tags(folder: Path) -> None:
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    if "tags" in metrics:  # a lesion was found
        assert list(metrics["tags"]["per_tag"]) == NAMES
    rows = list(csv.DictReader((folder / "eval" / "detections.csv").open()))
    assert rows
    assert {"long_axis_mm", "short_axis_mm"} <= set(rows[0])


def test_every_lesion_has_tags_and_says_where_its_size_is_from(folder: Path) -> None:
    document = json.loads((folder / "out" / "lesions.json").read_text())
    schema = json.loads((Path(lesions_document.__file__).parent / "schema" / "lesions.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["model"]["tags"] == NAMES
    assert document["settings"]["tag_threshold"] == 0.0
    assert document["lesions"]
    for entry in document["lesions"]:
        assert {tag["tag"] for tag in entry["tags"]} == set(NAMES)
        assert ("outline" in entry) == (entry["axes"]["source"] == "mask")
        assert entry["image"]["instance_number"] == 6 - entry["key_slice"]
        if "outline" in entry:
            voxels = np.array(entry["outline"]["voxel"])
            low, high = np.split(np.array(entry["box_voxel"]), 2)
            assert (voxels[:, :2] >= low[:2] - 1e-3).all()
            assert (voxels[:, :2] <= high[:2] + 1e-3).all()
    kinds = [node["type"] for node in json.loads((folder / "out" / "lesions.mrk.json").read_text())["markups"]]
    assert kinds.count("ROI") == len(document["lesions"])
    assert kinds.count("ClosedCurve") == sum("outline" in entry for entry in document["lesions"])
    assert (folder / "out" / "overlays" / "lesion_001.png").is_file()
