"""A config's recipe is what its transforms do, and an evaluation takes the one of its weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, Transform

from scripts.configuration.input_recipes import recipe_in_use, training_recipe, weights_recipe
from scripts.data.coco.colour_slabs import ColourSlabReader
from scripts.data.intensity import IntensityWindow
from scripts.data.random_window import RandWindowd
from scripts.data.slabs.slab_reader import SlabReader
from scripts.data.transforms import IntensityWindowd, LoadSlabd, RandResizeSlabd, ResizeSlabd
from scripts.recipe import PAPER, PHOTOGRAPHS, Recipe, class_names, read_recipe
from scripts.tools.published_layouts import LAYOUTS
from scripts.weights import build_network, save_weights, write_atomically

DEFINITION: dict[str, Any] = {
    "_target_": "scripts.networks.mp3d_fpn",
    "num_slices": 5,
    "body": {"_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 8},
    "fpn_channels": 16,
    "head": {"_target_": "scripts.networks.TwoStageHead", "fc_channels": 32},
}
OTHER = Recipe(5, 2.0, "released", 96, 96, 1.6, (-160.0, 240.0), 50.0, 1.0)


def transforms(*further: Transform) -> Compose:
    reader = SlabReader(5, spacing=2.0, mode="released")
    window = IntensityWindow(-160, 240, 50, 1)
    return Compose([LoadSlabd(reader), IntensityWindowd(window), ResizeSlabd(96, 1.6), *further])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    info = {"name": "small", "recipe": OTHER.plain()}
    return save_weights(tmp_path / "model.pt", build_network(DEFINITION), DEFINITION, info)


def evaluation(bundle_root: Path, **options: Any) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_file(bundle_root / "configs" / "evaluate.json"))
    parser.update({"device": "cpu", **options})
    return parser


def test_a_recipe_is_read_off_the_transforms() -> None:
    assert recipe_in_use(transforms(), PAPER) == replace(OTHER, stored_size=512)


def test_a_recipe_of_photographs_is_read_off_the_transforms() -> None:
    window = IntensityWindow(0, 255)
    found = recipe_in_use(
        Compose([LoadSlabd(ColourSlabReader("BGR")), IntensityWindowd(window), ResizeSlabd(640)]), PHOTOGRAPHS
    )
    assert found == PHOTOGRAPHS


def test_a_transform_that_a_recipe_cannot_hold_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Blur(Transform):
        def __call__(self, data: Any) -> Any:
            return data

    assert recipe_in_use(transforms(Blur()), PAPER) == replace(OTHER, stored_size=512)
    assert "says nothing of Blur" in caplog.text


def test_training_writes_what_the_config_builds() -> None:
    network = SimpleNamespace(num_classes=2)
    records = [{"image_size": (192, 96), "spacing": (0.8, 0.8), "categories": SimpleNamespace(names=("a", "b"))}]
    found = read_recipe(training_recipe(transforms(), network, records), "here")
    assert found == replace(OTHER, stored_size=192, classes=("a", "b"), pixel_spacing=1.6)


def test_windows_are_a_part_of_images_that_inference_sees_whole(caplog: pytest.LogCaptureFixture) -> None:
    reader, window = SlabReader(5, spacing=2.0, mode="released"), IntensityWindow(-160, 240, 50, 1)
    cut = Compose([LoadSlabd(reader), RandWindowd(96), IntensityWindowd(window), ResizeSlabd(48)])
    records = [{"image_size": (192, 120), "spacing": (0.8, 0.8)}, {"image_size": (140, 160), "spacing": (0.8, 0.8)}]
    found = read_recipe(training_recipe(cut, SimpleNamespace(num_classes=1), records), "here")
    assert found == replace(OTHER, test_scale=48, stored_size=96, pixel_spacing=1.6)
    assert not caplog.records


def test_training_on_tags_keeps_their_names(tmp_path: Path) -> None:
    tags = {"term_list": ["lung", "liver"], "train_lesion_idxs": [0], "train_relevant_labels": [[1]]}
    (tmp_path / "tags.json").write_text(json.dumps(tags))
    records = [{"image_size": (192, 96), "spacing": (0.8, 0.8)}]
    found = training_recipe(transforms(), SimpleNamespace(num_classes=1), records, str(tmp_path / "tags.json"))
    assert read_recipe(found, "here").tags == ("lung", "liver")


def test_an_evaluation_takes_the_recipe_of_its_weights(saved: Path, bundle_root: Path) -> None:
    weights = evaluation(bundle_root, checkpoint=str(saved)).get_parsed_content("weights")
    weights.load()
    assert weights.used == OTHER
    assert (weights.recipe["recipe"], weights.recipe["deviations"]) == (OTHER.plain(), {})
    assert weights.recipe["precision"] == "float32"


def test_another_value_is_used_logged_and_reported(
    saved: Path, bundle_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"checkpoint": str(saved), "test_scale": 512, "z_mode": "corrected", "window#low": -1024.0}
    weights = evaluation(bundle_root, **options).get_parsed_content("weights")
    weights.load()
    assert weights.used == replace(
        OTHER, test_scale=512, pixel_spacing=None, z_mode="corrected", window=(-1024.0, 240.0)
    )
    assert set(weights.recipe["deviations"]) == {"test_scale", "pixel_spacing", "z_mode", "window"}
    assert weights.recipe["deviations"]["test_scale"] == {"weights": 96, "used": 512}
    assert "test_scale 512 in place of 96" in caplog.text


def test_old_files_are_read_with_the_papers_values(
    tmp_path: Path, bundle_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_weights(tmp_path / "old.pt", build_network(DEFINITION), DEFINITION, {"name": "old"})
    assert weights_recipe(path) == replace(PAPER, num_slices=5)
    assert "old.pt does not record what its network saw" in caplog.text
    caplog.clear()
    assert weights_recipe(tmp_path / "none.pt") == PAPER
    assert caplog.text == ""
    assert evaluation(bundle_root, checkpoint=str(path)).get_parsed_content("slab_reader").num_slices == 5


def test_a_checkpoint_and_a_bare_state_dict_have_a_recipe_too(tmp_path: Path) -> None:
    state = build_network(DEFINITION).state_dict()
    write_atomically(
        {"model": state, "definition": DEFINITION, "info": {"recipe": OTHER.plain()}}, tmp_path / "last.pt"
    )
    assert weights_recipe(tmp_path / "last.pt") == OTHER
    write_atomically(state, tmp_path / "bare.pt")
    assert weights_recipe(tmp_path / "bare.pt") == PAPER


def test_weights_of_photographs_on_ct_and_the_other_way_round(tmp_path: Path, saved: Path) -> None:
    coco = {**DEFINITION, "num_slices": 3, "num_classes": 80}
    path = save_weights(tmp_path / "coco.pt", build_network(coco), coco, {"recipe": PHOTOGRAPHS.plain()})
    assert weights_recipe(path, photographs=True) == PHOTOGRAPHS
    assert weights_recipe(path) == replace(PAPER, num_slices=3)
    assert weights_recipe(saved, photographs=True).colour_order == "BGR"
    old = save_weights(tmp_path / "old.pt", build_network(coco), coco, {})
    assert weights_recipe(old, photographs=True) == replace(PHOTOGRAPHS, classes=class_names(80))


def test_a_damaged_recipe_is_rejected(tmp_path: Path) -> None:
    info = {"recipe": {**OTHER.plain(), "test_scale": "large"}}
    path = save_weights(tmp_path / "model.pt", build_network(DEFINITION), DEFINITION, info)
    with pytest.raises(ValueError, match=r"Expected a test_scale that can be used, got large in the recipe of .*model"):
        weights_recipe(path)


@pytest.mark.parametrize("key", ["3dce", "alignshift", "msb"])
def test_an_evaluation_repeats_the_recipe_of_converted_weights(tmp_path: Path, bundle_root: Path, key: str) -> None:
    recipe = replace(LAYOUTS[key].recipe, num_slices=5)
    network = build_network(DEFINITION)
    path = save_weights(tmp_path / "a.pt", network, DEFINITION, {"recipe": recipe.plain()})
    config = evaluation(bundle_root, checkpoint=str(path))
    preprocessing = config.get_parsed_content("preprocessing")
    assert recipe_in_use(preprocessing, PAPER) == replace(recipe, stored_size=PAPER.stored_size)
    names = [type(transform).__name__ for transform in preprocessing.transforms]
    assert ("CropBorderd" in names) == recipe.crop_border
    assert names[-1] == ("ScalePixelsd" if recipe.longest_side else "ResizeSlabd")


def test_one_option_sets_the_size_of_pixels_from_training_to_evaluation(bundle_root: Path, tmp_path: Path) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(bundle_root / "configs" / "train.json"))
    parser.update({"device": "cpu", "pixel_spacing": 0.8})
    slab = torch.zeros(9, 100, 60)
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    sample = {"image": slab, "instances": {"boxes": boxes}, "spacing": (1.6, 1.6), "scale_factor": torch.ones(2)}
    shown: dict[str, set[int]] = {}
    for part in ("train", "validate"):
        (resize,) = [
            each
            for each in parser.get_parsed_content(f"{part}#preprocessing").transforms
            if isinstance(each, (RandResizeSlabd, ResizeSlabd))
        ]
        shown[part] = {resize(sample)["image"].shape[1] for _ in range(40)}
    assert shown == {"train": {175, 200, 225}, "validate": {200}}
    recipe = recipe_in_use(parser.get_parsed_content("validate#preprocessing"), PAPER)
    assert recipe.pixel_spacing == 0.8
    info = {"name": "m", "recipe": replace(recipe, num_slices=5).plain()}
    path = save_weights(tmp_path / "m.pt", build_network(DEFINITION), DEFINITION, info)
    scored = evaluation(bundle_root, checkpoint=str(path))
    assert scored.get_parsed_content("pixel_spacing") == 0.8
    last = [each for each in scored.get_parsed_content("preprocessing").transforms if isinstance(each, ResizeSlabd)]
    assert last[0](sample)["image"].shape == (9, 200, 120)
