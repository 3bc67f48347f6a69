"""Sub-volumes from labels to figures: detection, frames, files of predictions, and the config."""

from __future__ import annotations

import csv
import inspect
import json
import logging
import math
import pickle
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import fire
import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import Tensor, nn

from scripts.configuration.running_config import check_config
from scripts.data.deeplesion.subvolume_frames import to_edges
from scripts.data.deeplesion.subvolumes import load_volumes
from scripts.data.intensity import IntensityWindow
from scripts.data.slabs.slab_reader import resample_z
from scripts.error_lines import root_error
from scripts.inference.detections import Lesion, SliceBoxes, link_boxes
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.metrics.evaluation_files import Evaluated
from scripts.metrics.volume.volume_matching import OFFICIAL
from scripts.weights import build_network, save_weights
from scripts.workflows.score_volumes import VolumeScorer, lesion_boxes, read_predictions
from scripts.workflows.trained_weights import Weights
from support import fake_weights
from support.fake_scans import AIR_HU, BALL_HU, BODY_HU, BlobDetector
from support.narrow_networks import NARROW

BUNDLE = Path(__file__).resolve().parents[2] / "mp3d_bundle"
CONFIG = BUNDLE / "configs" / "evaluate_volumes.json"
TARGETS = ["0.125", "0.25", "0.5", "1", "2", "4", "8", "16"]
NAME, FIRST = "000001_01_01_005-016", 5


class Oracle(nn.Module):
    """Knows the lesions of one sub-volume and the lattice slice that it is asked about; sees nothing."""

    def __init__(self, edges: np.ndarray, positions: np.ndarray) -> None:
        super().__init__()
        self.edges, self.positions, self.asked = edges, positions, 0

    def forward(self, slabs: Tensor | Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """A box for each lesion that the next lattice slices cut."""
        answers = []
        for place in self.positions[self.asked : self.asked + len(slabs)] + 0.5:
            cut = (self.edges[:, 2] + 0.5 <= place) & (place <= self.edges[:, 5] - 0.5)
            boxes = torch.tensor(self.edges[cut][:, [0, 1, 3, 4]], dtype=torch.float32)
            answers.append({"boxes": boxes, "scores": torch.linspace(0.9, 0.8, len(boxes))})
        self.asked += len(slabs)
        return answers


def detector(num_slices: int = 3) -> VolumeDetector:
    return VolumeDetector(SlabCutter(resample_z, num_slices=num_slices), IntensityWindow(), progress=False)


def weights_of(network: nn.Module, **info: str) -> Weights:
    return fake_weights.weights_of(network, info, __file__)


def write_slices(folder: Path, hu: np.ndarray, first: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(hu, start=first):
        cv2.imwrite(str(folder / f"{number:03d}.png"), (plane.astype(np.int32) + 32768).astype(np.uint16))


def block_scan() -> np.ndarray:
    """A body ``(12, 40, 56)`` with a bright block, which has the same box on every slice."""
    hu = np.full((12, 40, 56), AIR_HU, dtype=np.int16)
    hu[:, 3:-3, 3:-3] = BODY_HU
    hu[4:9, 10:22, 24:37] = BALL_HU
    return hu


# The block in the volume frame.
BLOCK = [24.0, 10.0, 9.0, 36.0, 21.0, 13.0]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two sub-volumes of 2.5 mm slices in the form of the synthetic set: one with a block, one without a lesion."""
    hu = block_scan()
    x1, y1, z1, x2, y2, z2 = BLOCK
    lesion = {"box": [x1, y1, x2 + 1, y2 + 1], "slices": [int(z1), int(z2)]}
    entry = {"slice_range": [5, 16], "spacing": [1.0, 1.0, 2.5]}
    volumes = [
        {**entry, "series": "000001_01_01", "lesions": [lesion]},
        {**entry, "series": "000002_01_01", "lesions": []},
    ]
    write_slices(tmp_path / "Images_png/000001_01_01", hu, FIRST)
    write_slices(tmp_path / "Images_png/000002_01_01", np.full_like(hu, 40), FIRST)
    (tmp_path / "lesions_3d.json").write_text(json.dumps({"about": "-", "volumes": volumes}))
    (tmp_path / "synthetic.json").write_text(json.dumps({"about": "Synthetic, no patients."}))
    return tmp_path


def records(folder: Path) -> list[dict[str, Any]]:
    return load_volumes(folder / "lesions_3d.json", folder, split="all")


def test_a_block_is_found_where_it_is(dataset: Path, tmp_path: Path) -> None:
    weights = weights_of(BlobDetector(), notice="Knows blocks only.")
    scorer = VolumeScorer(
        records(dataset),
        detector(),
        weights,
        tmp_path / "out",
        about=Evaluated("blocks", "Synthetic."),
        progress=False,
    )
    metrics = scorer.run()
    assert metrics["notice"] == "Synthetic. Knows blocks only."
    assert metrics["counts"] == {"volumes": 2, "patients": 2, "detections": 1}
    for figures in metrics["protocols"].values():
        assert figures["sensitivity"] == dict.fromkeys(TARGETS, 1.0)
        assert figures["found"]["median_iou"] == 1.0
    predictions = json.loads((tmp_path / "out/predictions.json").read_text())
    assert predictions["000002_01_01_005-016"] == []
    ((*box, score),) = predictions[NAME]
    assert box == BLOCK
    assert 0 < score <= 1


def test_predictions_of_a_run_score_the_same_when_read_back(dataset: Path, tmp_path: Path) -> None:
    one = VolumeScorer(records(dataset), detector(), weights_of(BlobDetector()), tmp_path / "one", progress=False).run()
    again = VolumeScorer(
        records(dataset),
        detector(),
        Weights("nowhere.pt"),
        tmp_path / "other",
        predictions=tmp_path / "one/predictions.json",
    )
    assert one["protocols"] == again.run()["protocols"]
    assert not (tmp_path / "other/predictions.json").exists()
    replace(again, output_dir=tmp_path / "one").run()
    assert (tmp_path / "one/predictions.json").exists()
    # Detections that were not scored do not stay next to the figures of others.
    (tmp_path / "other/predictions.json").write_text("{}")
    again.run()
    assert not (tmp_path / "other/predictions.json").exists()


def test_a_real_sub_volume_end_to_end(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/deeplesion"
    (record,) = load_volumes(
        folder / "manual3d/manual_patient1.json", folder, annotations="DL_info_patient1.csv", split="val"
    )
    inferer = detector()
    # 13 slices of 5 mm are 25 lattice slices of 2.5 mm.
    oracle = Oracle(to_edges(record["true_boxes"], 103), np.arange(25) / 2)
    metrics = VolumeScorer([record], inferer, weights_of(oracle), tmp_path, progress=False).run()
    assert oracle.asked == 25
    for name in ("3D IoBB 0.3", "3D IoU 0.3", "3D IoU 0.5"):
        assert metrics["protocols"][name]["sensitivity"] == dict.fromkeys(TARGETS, 1.0)
    assert metrics["protocols"][OFFICIAL.name]["found"] == {"lesions": 3, "median_iou": 1.0, "median_volume_ratio": 1.0}
    # The boxes come back as they were labelled, slice numbers of the series included.
    rows = json.loads((tmp_path / "predictions.json").read_text())["000001_01_01_103-115"]
    assert sorted(row[:6] for row in rows) == sorted(record["true_boxes"].tolist())
    with (tmp_path / "true_lesions.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["depth_mm"]) == 15.0
    assert metrics["protocols"]["P3D IoU 0.5"]["lesions"] == 1


def test_lesions_get_whole_slices_and_a_box_on_each() -> None:
    # Slices 5 mm apart, lattice slices between them; the lesion drifts to the right and misses a lattice slice.
    found = SliceBoxes(
        boxes=np.array([[10.0, 5.0, 20.0, 15.0], [12.0, 5.0, 22.0, 15.0], [16.0, 5.0, 26.0, 15.0]]),
        scores=np.array([0.5, 0.9, 0.6]),
        slices=np.array([2, 3, 5]),
        positions=np.arange(9) / 2,
        thickness=0.5,
        examined=np.ones(9, dtype=bool),
        shape=(5, 40, 50),
        scale=(1.0, 1.0),
    )
    lesion = Lesion(np.array([10.0, 5.0, 1.25, 26.0, 15.0, 3.25]), 0.9, 3, found.boxes[1], (0, 1, 2))
    got = lesion_boxes(found, [lesion], first=103)
    assert got["boxes"].tolist() == [[10, 5, 104, 25, 14, 105]]
    assert got["scores"].tolist() == [0.9]
    # Slice 104 is lattice slice 2; slice 105 lies between 3 and 5, the lower of which comes first.
    assert got["tracks"].tolist() == [[0, 104, 10, 5, 19, 14], [0, 105, 12, 5, 21, 14]]
    none = lesion_boxes(found, [], first=103)
    assert [none[key].shape for key in ("boxes", "scores", "tracks")] == [(0, 6), (0,), (0, 6)]


def test_labels_of_another_image_size_are_rejected(dataset: Path, tmp_path: Path) -> None:
    bad = [{**record, "true_boxes": np.array([[56.0, 1, 5, 60, 9, 6]])} for record in records(dataset)]
    scorer = VolumeScorer(bad, detector(), weights_of(BlobDetector()), tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match=r"slices of 40 x 56 pixels, got \[56.0, .* as box 0 in .*lesions_3d.json"):
        scorer.run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_predictions_are_read_in_the_official_form(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"found{suffix}"
    content = {NAME: [[1.0, 2.0, 6.0, 5.0, 9.0, 7.0, 0.25]], "000009_01_01_001-003": []}
    path.write_bytes(json.dumps(content).encode() if suffix == ".json" else pickle.dumps({
        name: np.array(rows).reshape(-1, 7) for name, rows in content.items()
    }))  # fmt: skip
    found = read_predictions(path, [NAME])
    assert found[NAME]["boxes"].tolist() == [[1, 2, 6, 5, 9, 7]]
    assert found[NAME]["scores"].tolist() == [0.25]
    assert read_predictions(path, ["000009_01_01_001-003"])["000009_01_01_001-003"]["boxes"].shape == (0, 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "detections for every sub-volume .* none for 1 of 1, 000001_01_01_005-016 the first"),
        ({NAME: [[1, 2, 6, 5, 9, 7]]}, r"seven numbers \(a box and its score\), got shape \(1, 6\)"),
        ({NAME: "none"}, "seven numbers"),
        ({NAME: [[5, 2, 6, 1, 9, 7, 0.5]]}, r"end after they begin, got \[5.0"),
        ({"scan": []}, "the name of a sub-volume"),
        (
            {NAME: [], f"{NAME}.annot": [[1, 2, 6, 5, 9, 7, 0.5]]},
            rf"each sub-volume once, got {NAME} again as '{NAME}\.annot'",
        ),
        ([], "a dict of sub-volumes, got list"),
    ],
)
def test_bad_predictions_are_rejected_with_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read_predictions(path, [NAME])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow extends the path and hooks uncaught errors: not for the next test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def workflow(**changes: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(CONFIG),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        run_id="evaluating_volumes",
        workflow_type="infer",
        **{"device": "cpu", "progress": False, "bootstrap_resamples": 20, **changes},
    )


def test_config_runs_a_network_from_end_to_end(dataset: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = save_weights(tmp_path / "narrow.pt", build_network(NARROW), NARROW, {"notice": "Random weights."})
    flow = workflow(
        dataset_dir=str(dataset),
        split="all",
        checkpoint=str(checkpoint),
        output_dir=str(tmp_path / "out"),
        box_threshold=0.0,
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["notice"] == "Synthetic, no patients. Random weights."
    assert metrics["dataset"] == "lesions_3d.json"
    assert metrics["counts"]["detections"] > 0
    assert metrics["bootstrap"]["resamples"] == 20
    names = {"predictions.json", "sensitivity.csv", "froc.csv", "detections.csv", "true_lesions.csv", "froc.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "metrics.json"}


def test_hand_labelled_volumes_score_one_against_themselves(shared: Path, tmp_path: Path) -> None:
    labels = shared / "data/deeplesion/manual3d/manual_val.json"
    truth = json.loads(labels.read_text())
    found = {name: [[*box, 0.5 + row / 200] for row, box in enumerate(boxes)] for name, boxes in truth.items()}
    (tmp_path / "found.json").write_text(json.dumps(found))
    flow = workflow(
        labels=str(labels), predictions=str(tmp_path / "found.json"), output_dir=str(tmp_path / "out"), split="val"
    )
    flow.initialize()
    flow.run()
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    # A file without parts is no part, whatever part was asked for.
    assert metrics["dataset"] == "manual_val.json"
    assert metrics["counts"] == {"volumes": 200, "patients": 99, "detections": 1292}
    assert list(metrics["protocols"]) == ["3D IoBB 0.3", "3D IoU 0.3", "3D IoU 0.5"]
    for figures in metrics["protocols"].values():
        assert figures["sensitivity"] == dict.fromkeys(TARGETS, 1.0)
        assert figures["mean_sensitivity"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "nowhere.pkl"}, "found no file nowhere.pkl"),
        ({"split": "test"}, "choose a split of synthetic volumes"),
        ({"checkpoint": "nowhere.pt"}, "no file nowhere.pt"),
        ({"label_format": "coco"}, "got 'coco'"),
        ({"lables": "x"}, r"Unknown config key lables \(did you mean labels\?\)"),
        ({"predictions": "nowhere.json"}, "found no file nowhere.json"),
    ],
)
def test_settings_that_cannot_be_end_in_one_line(
    dataset: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    flow = workflow(**{"dataset_dir": str(dataset), "split": "all", "output_dir": str(tmp_path / "out"), **changes})

    def both() -> None:
        flow.initialize()
        flow.run()

    with pytest.raises(Exception, match=r".") as caught:
        both()
    error = root_error(caught.value)
    assert re.search(message, str(error))
    assert "\n" not in str(error)
    assert not (tmp_path / "out").exists()


def test_config_agrees_with_the_other_entry_configs() -> None:
    own = json.loads(CONFIG.read_text())
    differ = {"_desc_", "imports", "dataset", "inferer", "linking", "evaluator", "initialize", "run"}
    # All take these, and the network but for an evaluation, from the weights, under another id there.
    recipe = {"num_slices", "slice_spacing", "pixel_spacing", "window", "longest_side", "crop_border"}
    for name in ("evaluate", "inference"):
        other = json.loads((CONFIG.parent / f"{name}.json").read_text())
        for key in set(own) & set(other) - differ - ({"network_def", *recipe} if name == "evaluate" else set()):
            assert own[key] == other[key], f"{key} in {name}"
    inference = json.loads((CONFIG.parent / "inference.json").read_text())
    # Sub-volumes begin at the head, CTs at the feet.
    assert {**own["inferer"]["cutter"], "from_last": True} == inference["inferer"]["cutter"]
    # Scored is what a user gets: the rule of inference, which is the one that linking has by itself.
    defaults = {name: one.default for name, one in inspect.signature(link_boxes).parameters.items()}
    for name in set(inference["linking"]) - {"_target_", "_mode_", "score_threshold"}:
        value = inference["linking"][name]
        default = inference[value[1:]] if str(value).startswith("@") else value
        assert default == own["linking"].get(name, defaults[name])
    assert own["run"] == own["evaluating_volumes"]
    check_config(ConfigParser(own))


def test_the_command_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "bad.json"
    labels.write_text(json.dumps({NAME: [[9, 9, 6, 1, 1, 7]]}))
    words = ["--config_file", "configs/evaluate_volumes.json", "--labels", str(labels), "--device", "cpu"]
    words += ["--output_dir", str(tmp_path / "out"), "--logging_file", "False"]
    monkeypatch.chdir(BUNDLE)
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "evaluating_volumes", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(RuntimeError) as caught:
        fire.Fire({"run": monai.bundle.run})
    sys.excepthook(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    assert last.startswith("Error: Expected boxes that end after they begin, within slices 5 to 16, got [9.0, 9.0, 6.0")
    assert str(labels) in last
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


class Asked(BlobDetector):
    """Keeps what it is told of patients."""

    patient_facts = ("patient",)

    def forward(self, slabs: Any, patients: Any = ()) -> Any:
        told.extend(patients)
        return super().forward(slabs)


told: list[Any] = []


def test_a_network_that_reads_sex_and_age_is_told_them(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = [{**records(dataset)[0], "patient_facts": (1.0, 62.0)}, records(dataset)[1]]
    told.clear()
    with caplog.at_level(logging.INFO):
        VolumeScorer(known, detector(), weights_of(Asked()), tmp_path / "out", progress=False).run()
    assert (1.0, 62.0) in {tuple(patient)[:2] for patient in told}
    assert any(math.isnan(patient.age) for patient in told)
    assert "known of 1 and 1 out of 2 sub-volumes" in caplog.text
