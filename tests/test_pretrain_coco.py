"""Pre-training on COCO as MONAI runs it: the same trainer on photographs, and from three slices to any number."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import set_determinism
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scripts.data.synthetic import generate
from scripts.error_lines import root_error

CONFIGS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "configs"
# Gaps in the ids, as in COCO.
CATEGORIES = {3: ("block", (220, 40, 40)), 90: ("bar", (40, 60, 230))}


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A workflow seeds generators, extends the path and hooks uncaught errors: not for the next test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    set_determinism(None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images with red blocks and blue bars, one with a crowd alone, one with nothing."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(8):
        width, height = (96, 64) if number % 2 else (64, 96)
        picture = Image.new("RGB", (width, height), (90, 120, 90))
        for category in CATEGORIES if number < 6 else ([3] if number == 6 else []):
            x, y = generator.integers(0, 30, 2).tolist()
            w, h = (24, 24) if category == 3 else (32, 14)
            ImageDraw.Draw(picture).rectangle((x, y, x + w - 1, y + h - 1), fill=CATEGORIES[category][1])
            box = {"bbox": [x, y, w, h], "area": w * h, "category_id": category}
            annotations.append({"id": len(annotations) + 1, "image_id": 40 + number, "iscrowd": number // 6, **box})
        name = f"{number}.png" if number else "0.jpg"
        picture.convert("RGB" if number else "L").save(folder / name)
        images.append({"id": 40 + number, "file_name": name, "width": width, "height": height})
    categories = [{"id": number, "name": name} for number, (name, _) in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def workflow(run_id: str, *files: str, **settings: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=[str(CONFIGS / file) for file in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        run_id=run_id,
        workflow_type="train" if run_id == "training" else "infer",
        **{"device": "cpu", "num_workers": 0, **settings},
    )


def pretraining(dataset: Path, output: Path, *overlays: str, **changes: Any) -> ConfigWorkflow:
    settings = {
        "dataset_dir": str(dataset),
        "output_dir": str(output),
        **{f"{split}_annotations": "labels.json" for split in ("train", "val")},
        **{f"{split}_images": "." for split in ("train", "val")},
        "num_classes": 2,
        "batch_size": 3,
        **changes,
    }
    files = ("train.json", "pretrain_coco.json", "variants/size_narrow.yaml", *overlays)
    return workflow("training", *files, **settings)


def run(flow: ConfigWorkflow) -> ConfigWorkflow:
    flow.initialize()
    flow.run()
    flow.finalize()
    return flow


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(pretraining(dataset, folder, max_epochs=2, val_interval=2))
    set_determinism(None)
    return folder


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, (dict, list)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node


@pytest.mark.parametrize(("name", "base"), [("pretrain_coco", "train"), ("evaluate_coco", "evaluate")])
def test_every_key_of_the_overlay_exists_in_its_base_or_is_used_by_it(name: str, base: str) -> None:
    overlay = ConfigParser.load_config_file(CONFIGS / f"{name}.json")
    known = ConfigParser(ConfigParser.load_config_file(CONFIGS / f"{base}.json"))
    used = " ".join(strings(overlay))
    for key in overlay:
        assert key in known or f"@{key}" in used or key in ("network_def#num_classes", "+_shared_"), key


def test_the_numbers_of_the_pre_training() -> None:
    config = ConfigParser.load_config_files([str(CONFIGS / name) for name in ("train.json", "pretrain_coco.json")])
    assert (config["num_slices"], config["num_classes"], config["max_epochs"]) == (3, 80, 72)
    assert config["milestones"] == [65, 71]
    assert config["flips"] == {"horizontal": 0.5, "vertical": 0.0, "z": 0.0}
    assert config["colour_order"] == "BGR"
    parser = ConfigParser(config)
    parser["device"] = "cpu"
    window = parser.get_parsed_content("window")
    assert window(torch.tensor([123.675, 255.0])).tolist() == pytest.approx([0.0, (255 - 123.675) / 58.395], abs=1e-5)


def test_a_misspelt_key_and_the_wrong_number_of_classes_are_rejected(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        run(pretraining(dataset, tmp_path, train_anotations="labels.json"))
    assert "did you mean train_annotations?" in str(root_error(caught.value))
    with pytest.raises(Exception, match=r".") as caught:
        run(pretraining(dataset, tmp_path, num_classes=80))
    assert "got 2 in" in str(root_error(caught.value))
    assert not (tmp_path / "last.pt").exists()


def test_training_writes_weights_and_goes_on_where_it_stopped(
    trained: Path, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(trained / "model.pt", weights_only=True)
    assert (content["network"]["num_slices"], content["network"]["num_classes"]) == (3, 2)
    assert "no lesion detector" in content["info"]["notice"]
    assert 0 <= content["info"]["ap"] <= 1
    with caplog.at_level(logging.INFO):
        run(pretraining(dataset, tmp_path, max_epochs=1, val_interval=2))
        run(pretraining(dataset, tmp_path, max_epochs=2, val_interval=2))
    assert "Resuming" in caplog.text
    assert "images without a box, dropped as in the released code: 2" in caplog.text
    assert "images without a box, kept: 2" in caplog.text
    again = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(again[name], value) for name, value in torch.load(trained / "last.pt")["model"].items())


def test_evaluation_writes_results_in_cocos_own_ids(trained: Path, dataset: Path, tmp_path: Path) -> None:
    settings = {"dataset_dir": str(dataset), "annotations": "labels.json", "images": ".", "test_scale": 96}
    checkpoint = {"checkpoint": str(trained / "model.pt"), "output_dir": str(tmp_path)}
    run(workflow("evaluating", "evaluate.json", "evaluate_coco.json", **settings, **checkpoint))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rows = json.loads((tmp_path / "detections.json").read_text())
    assert {row["category_id"] for row in rows} <= set(CATEGORIES)
    assert {row["image_id"] for row in rows} <= set(range(40, 48))
    official = COCO(str(dataset / "labels.json"))
    reference = COCOeval(official, official.loadRes(str(tmp_path / "detections.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    for place, name in enumerate(("ap", "ap50", "ap75")):
        # The file holds boxes to a hundredth of a pixel.
        assert metrics[name] == pytest.approx(reference.stats[place], abs=0.01)
    assert (metrics["images"], metrics["boxes"]) == (8, 12)
    assert set(metrics["ap_by_category"]) == {"block", "bar"}
    assert metrics["ap_large"] is None
    assert "no lesion detector" in metrics["weights"]["notice"]
    assert metrics["weights"]["sha256"] == hashlib.sha256((trained / "model.pt").read_bytes()).hexdigest()
    assert Image.open(tmp_path / "detections.png").size[0] > 100


def test_overlays_go_on_top(dataset: Path, tmp_path: Path) -> None:
    overlays = ("variants/subset_20.yaml", "variants/head_retinanet.yaml", "variants/schedule_1x.yaml")
    flow = run(pretraining(dataset, tmp_path, *overlays, max_epochs=1))
    assert len(flow.parser.get_parsed_content("train#dataset")) == 1
    assert flow.parser["milestones"] == [8, 11]
    settings = {"dataset_dir": str(dataset), "annotations": "labels.json", "images": ".", "test_scale": 96}
    checkpoint = {"checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path), "gallery_images": 0}
    run(workflow("evaluating", "evaluate.json", "evaluate_coco.json", **settings, **checkpoint))
    assert json.loads((tmp_path / "metrics.json").read_text())["images"] == 8
    assert not (tmp_path / "detections.png").exists()


def test_a_few_iterations_on_real_photographs_reduce_the_loss(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "coco"
    content = json.loads((folder / "annotations" / "instances_subset.json").read_text())
    numbers = {image["id"] for image in content["images"][:4]}
    content["images"] = content["images"][:4]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in numbers]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(content))
    changes = {f"{split}_annotations": str(labels) for split in ("train", "val")}
    images = {f"{split}_images": "val2017" for split in ("train", "val")}
    options = {"num_classes": 80, "batch_size": 4, "max_epochs": 12, "val_interval": 99}
    flow = pretraining(folder, tmp_path, "variants/optimizer_adamw.yaml", **changes, **images, **options)
    flow.initialize()
    losses = []
    trainer = flow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: losses.append(float(engine.state.output["loss"])))
    flow.run()
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.6 * losses[0]


@pytest.mark.parametrize("num_slices", [5, 7, 9, 11, 27])
@pytest.mark.parametrize("transfer", ["fresh", "centre", "interpolated"])
def test_three_slices_become_any_number(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, num_slices: int, transfer: str
) -> None:
    path = trained / "model.pt"
    options = {"pretrained": str(path), "pretrained_transfer": transfer, "num_slices": num_slices}
    flow = workflow("training", "train.json", "variants/size_narrow.yaml", output_dir=str(tmp_path), **options)
    with caplog.at_level(logging.INFO):
        flow.initialize()
    network, stored = flow.parser.get_parsed_content("network_def"), torch.load(path, weights_only=True)["model"]
    own = network.state_dict()
    assert all(torch.equal(own[name], stored[name]) for name in own if name.startswith("backbone.body."))
    assert own["roi_heads.predictor.cls_score.weight"].shape[0] == 2
    for stage in range(4):
        name = f"backbone.conversions.{stage}.conv.weight"
        weights, three = own[name][:, :, 0, 0], stored[name][:, :, 0, 0]
        assert weights.shape == (len(three), num_slices)
        if transfer == "fresh":
            assert weights.abs().max() <= num_slices**-0.5
            assert len(weights.unique()) > weights.numel() // 2
        elif transfer == "centre":
            assert torch.equal(weights, torch.eye(num_slices)[num_slices // 2].expand(weights.shape))
        else:
            torch.testing.assert_close(weights.sum(1), three.sum(1))
            assert (weights.abs().max(1).values <= three.abs().max(1).values + 1e-6).all()
    assert f"for {num_slices} slices, for 3 slices in the file: 0 loaded, 4 made: {transfer}" in caplog.text
    assert "tensors of the body loaded, every one" in caplog.text
    assert "RoI head for 2 classes (8 tensors)" in caplog.text


def test_a_lesion_training_starts_from_the_pre_trained_weights(trained: Path, tmp_path: Path) -> None:
    generate(tmp_path / "data", "small", seed=1, workers=1, num_train=4, num_validation=2, num_test=2)
    settings = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "run"), "max_epochs": 1}
    files = ("train.json", "variants/size_narrow.yaml", "variants/slices_5.yaml")
    run(workflow("training", *files, **settings, pretrained=str(trained / "model.pt")))
    content = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert content["model"]["backbone.conversions.0.conv.weight"].shape[1] == 5
    assert content["info"]["notice"] is None


@pytest.mark.parametrize("training", [True, False])
def test_photographs_have_no_pixels_in_mm(trained: Path, dataset: Path, tmp_path: Path, training: bool) -> None:
    if training:
        flow = pretraining(dataset, tmp_path, pixel_spacing=1.0)
    else:
        settings = {"checkpoint": str(trained / "model.pt"), "output_dir": str(tmp_path), "dataset_dir": str(dataset)}
        settings |= {"annotations": "labels.json", "images": ".", "pixel_spacing": 1.0}
        flow = workflow("evaluating", "evaluate.json", "evaluate_coco.json", **settings)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run(flow)
    assert re.search(
        r"size in mm to bring to a pixel_spacing, got none in \d\.\w+: photo", str(root_error(caught.value))
    )
