"""What MONAI Label's `monaibundle` app asks of the bundle, asked as it asks, without MONAI Label."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.recipe import PAPER
from scripts.weights import build_network, save_weights
from scripts.workflows.infer_scans import ScanRunner
from scripts.workflows.monai_label import OFFERS, Choice, score_threshold
from support.fake_labels import write_scan, write_weights
from support.narrow_networks import NARROW

BUNDLE = Path(__file__).resolve().parents[2] / "mp3d_bundle"


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with configs and weights; its code is the one under test."""
    folder = tmp_path_factory.mktemp("apps") / "any_ct_detection"
    shutil.copytree(BUNDLE / "configs", folder / "configs")
    write_weights(folder / "models" / "model.pt")
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("scans") / "scan.nii.gz")


def parser_of(bundle: Path, **changes: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.config |= {"bundle_root": str(bundle), "device": "cpu", "progress": False, **changes}
    return parser


def answer(bundle: Path, image: Path, **request: Any) -> dict[str, Any]:
    """What MONAI Label 0.8.5 does with a request: values into the config, then stage by stage."""
    parser = parser_of(bundle)
    shown = parser.get_parsed_content("displayable_configs")
    data = {**copy.deepcopy(shown), "image": str(image), **request}
    parser["displayable_configs"].update({name: data[name] for name in shown})
    parser.parse()
    for step in parser.get_parsed_content("preprocessing").transforms:
        data = step(data)
    network = copy.deepcopy(parser.get_parsed_content("network_def"))
    content = torch.load(bundle / "models" / "model.pt", weights_only=True)["model"]
    assert set(network.state_dict()) == set(content)
    network.load_state_dict(content, strict=False)
    detector = parser.get_parsed_content("detector")
    parser.get_parsed_content("detector_ops")
    detector.network = network
    detector.eval()
    with torch.no_grad():
        data.update(detector(data["image"][None], use_inferer=True)[0])
    for step in parser.get_parsed_content("postprocessing").transforms:
        data = step(data)
    return data


def inferred(bundle: Path, image: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """``lesions.json`` of `run inferring`."""
    settings = {"input": str(image), "output_dir": str(output), "outputs": ["json", "slicer"], "num_slices": 3}
    runner: ScanRunner = parser_of(bundle, **settings, **changes).get_parsed_content("evaluator")
    assert runner.run() == []
    return {name: json.loads((output / name).read_text()) for name in ("lesions.json", "lesions.mrk.json")}


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.03])
def test_finds_what_run_inferring_finds(bundle: Path, scan: Path, tmp_path: Path, threshold: float) -> None:
    data = answer(bundle, scan, score_threshold=threshold)
    files = inferred(bundle, scan, tmp_path / "out", score_threshold=threshold)
    lesions = files["lesions.json"]["lesions"]
    assert len(lesions) == len(data["box"]) == len(data["label"]) == len(data["label_scores"])
    assert len(lesions) or threshold > 0
    assert data["label"].tolist() == [1] * len(lesions)
    corners = np.array([lesion["box_lps_mm"] for lesion in lesions]).reshape(-1, 6)
    centres, sizes = (corners[:, :3] + corners[:, 3:]) / 2, corners[:, 3:] - corners[:, :3]
    np.testing.assert_allclose(data["box"].numpy(), np.hstack([centres, sizes]), atol=1e-3)
    np.testing.assert_allclose(data["label_scores"], [lesion["score"] for lesion in lesions], atol=1e-6)
    assert data["document"]["lesions"] == lesions
    assert data["document"]["input"] == files["lesions.json"]["input"]
    assert data["document"]["settings"] == files["lesions.json"]["settings"]
    assert data["markups"] == files["lesions.mrk.json"]


def test_answers_name_the_classes_of_a_network_that_knows_several(scan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two_classes"
    shutil.copytree(BUNDLE / "configs", folder / "configs")
    several = {**NARROW, "num_classes": 2}
    torch.manual_seed(0)
    recipe = replace(PAPER, num_slices=3, classes=("tumour", "node")).plain()
    save_weights(folder / "models" / "model.pt", build_network(several), several, {"name": "two", "recipe": recipe})
    data = answer(folder, scan, score_threshold=0)
    assert data["document"]["model"]["classes"] == ["tumour", "node"]
    assert set(data["label"].tolist()) == {1, 2}
    names = [data["document"]["model"]["classes"][label - 1] for label in data["label"].tolist()]
    assert [lesion["class"] for lesion in data["document"]["lesions"]] == names


def test_no_lesions_are_empty_tensors(bundle: Path, scan: Path) -> None:
    data = answer(bundle, scan, score_threshold=1)
    assert data["box"].shape == (0, 6)
    assert data["label"].shape == data["label_scores"].shape == (0,)
    assert data["markups"]["markups"] == []


def test_parameters_shown_to_clients(bundle: Path) -> None:
    shown = parser_of(bundle).get_parsed_content("displayable_configs")
    points = ["none", "0.5", "4"]
    assert shown == {"operating_point": points, "score_threshold": 0.5, "model_filename": ["model.pt"]}
    assert json.loads(json.dumps(shown)) == shown
    raw = json.loads((BUNDLE / "configs" / "inference.json").read_text())["displayable_configs"]
    assert set(raw.values()) == set(OFFERS)


@pytest.mark.parametrize(
    ("chosen", "threshold"),
    [
        ({}, 0.5),
        ({"score_threshold": "0.25"}, 0.25),
        ({"score_threshold": ""}, 0.5),
        ({"score_threshold": 0.25, "operating_point": "4"}, 0.03),
        ({"operating_point": ["0.5", "none", "4"]}, 0.6),
        ({"operating_point": ["none", "0.5", "4"], "score_threshold": 1}, 1.0),
        ({"operating_point": 4}, 0.03),
    ],
)
def test_a_choice_of_the_client(bundle: Path, chosen: dict[str, Any], threshold: float) -> None:
    parser = parser_of(bundle)
    parser["displayable_configs"].update(chosen)
    choice: Choice = parser.get_parsed_content("detector").choice
    assert choice.threshold() == threshold


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"score_threshold": 2}, "score threshold from 0 to 1, got 2"),
        ({"score_threshold": "high"}, "score threshold from 0 to 1, got 'high'"),
        ({"score_threshold": "nan"}, "score threshold from 0 to 1, got 'nan'"),
        ({"score_threshold": True}, "score threshold from 0 to 1, got True"),
        ({"operating_point": "3"}, r"operating point, one out of 0\.5, 4, got '3'"),
    ],
)
def test_a_choice_that_cannot_be(bundle: Path, scan: Path, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        answer(bundle, scan, **chosen)


def test_what_a_client_sends_is_never_run(bundle: Path, scan: Path, tmp_path: Path) -> None:
    code = f"$__import__('pathlib').Path('{tmp_path}/made').write_text('')"
    with pytest.raises(ValueError, match="score threshold from 0 to 1"):
        answer(bundle, scan, score_threshold=code)
    with pytest.raises(ValueError, match="Expected an operating point"):
        answer(bundle, scan, operating_point=code)
    answer(bundle, scan, model_filename=code)
    assert not (tmp_path / "made").exists()


def test_thresholds_from_text() -> None:
    assert score_threshold(None, 0.3) == 0.3
    assert score_threshold("1e-1", 0.3) == pytest.approx(0.1)
    assert score_threshold(0, 0.3) == 0


def test_a_detector_without_a_network(bundle: Path) -> None:
    with pytest.raises(ValueError, match="network to detect with"):
        parser_of(bundle).get_parsed_content("detector")(torch.zeros(1))
