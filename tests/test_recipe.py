"""Recipes: the network's input settings are stored with its weights, and deviations are reported."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.data.intensity import IntensityWindow
from scripts.recipe import (
    PAPER,
    PHOTOGRAPHS,
    Recipe,
    class_names,
    classes_of,
    fit_for,
    pixels_of,
    read_recipe,
    slices_of,
    stored_recipe,
    tell_deviations,
    window_values,
)

OTHER = Recipe(5, 2.0, "released", 96, 96, 1.6, (-160.0, 240.0), 50.0, 1.0, None, ("lung", "liver"))
TWO_STAGES: Any = SimpleNamespace(backbone=SimpleNamespace(num_slices=7), num_classes=80)
ONE_STAGE: Any = SimpleNamespace(backbone=SimpleNamespace(num_slices=3), num_classes=1)


def test_the_paper_is_the_default() -> None:
    assert (PAPER.num_slices, PAPER.slice_spacing, PAPER.test_scale, PAPER.z_mode) == (9, 2.5, 512, "corrected")
    assert {"window": PAPER.window, "mean": PAPER.mean, "std": PAPER.std} == window_values(IntensityWindow())
    assert not PAPER.photographs
    assert PHOTOGRAPHS.photographs


@pytest.mark.parametrize("recipe", [PAPER, PHOTOGRAPHS, OTHER])
def test_a_recipe_comes_back_from_plain_values(recipe: Recipe) -> None:
    assert read_recipe(recipe.plain(), "the file") == recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_slices", 4),
        ("num_slices", "9"),
        ("num_slices", True),
        ("slice_spacing", 0),
        ("slice_spacing", float("nan")),
        ("z_mode", "repaired"),
        ("z_mode", ["corrected"]),
        ("test_scale", 96.0),
        ("test_scale", 10**9),
        ("stored_size", None),
        ("pixel_spacing", -1.0),
        ("window", [1050, -1024]),
        ("window", [0]),
        ("window", None),
        ("mean", "a"),
        ("std", 0.0),
        ("colour_order", "BBB"),
        ("classes", []),
        ("classes", [1]),
        ("classes", "lesion"),
        ("crop_border", 1),
        ("longest_side", 0),
        ("longest_side", True),
        ("tags", "liver"),
        ("tags", [1]),
    ],
)
def test_values_that_no_recipe_has_are_rejected(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Expected a {name} that can be used, got .* in the recipe of the file"):
        read_recipe({**PAPER.plain(), name: value}, "the file")


def test_files_of_earlier_releases_lack_what_came_later() -> None:
    later = replace(OTHER, crop_border=True, longest_side=512, tags=("liver", "cyst"))
    assert "crop_border" not in OTHER.plain()
    assert read_recipe(later.plain(), "the file") == later
    assert OTHER.deviations(later) == {
        "crop_border": {"weights": False, "used": True},
        "longest_side": {"weights": None, "used": 512},
        "tags": {"weights": [], "used": ["liver", "cyst"]},
    }


def test_a_recipe_without_a_value_is_rejected() -> None:
    content = PAPER.plain()
    del content["z_mode"]
    with pytest.raises(ValueError, match="Expected z_mode in the recipe of the file, got none"):
        read_recipe(content, "the file")
    with pytest.raises(ValueError, match="got list in the file"):
        read_recipe([content], "the file")


def test_deviations_name_both_values_and_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    used = replace(OTHER, test_scale=512, window=(-1024.0, 1050.0))
    found = tell_deviations(OTHER, used, "the file")
    assert found == {
        "test_scale": {"weights": 96, "used": 512},
        "window": {"weights": [-160.0, 240.0], "used": [-1024.0, 1050.0]},
    }
    assert "the file: test_scale 512 in place of 96" in caplog.text
    assert tell_deviations(OTHER, OTHER, "the file") == {}


def test_a_file_with_a_recipe_is_taken_at_its_word(caplog: pytest.LogCaptureFixture) -> None:
    assert stored_recipe({"recipe": OTHER.plain()}, "the file", network=TWO_STAGES) == OTHER
    assert caplog.text == ""


def test_what_is_assumed_for_an_old_file_is_named(caplog: pytest.LogCaptureFixture) -> None:
    found = stored_recipe({"inference": {"pixel_spacing": 1.6}}, "old.pt", network=TWO_STAGES)
    assert found == replace(PAPER, num_slices=7, pixel_spacing=1.6, classes=class_names(80))
    for text in ("old.pt does not record", "z_mode corrected", "test_scale 512", "window [-1024.0, 1050.0]"):
        assert text in caplog.text
    assert "num_slices" not in caplog.text


def test_weights_of_photographs_are_used_on_ct_with_the_papers_values(caplog: pytest.LogCaptureFixture) -> None:
    coco = replace(PHOTOGRAPHS, classes=class_names(80))
    used = fit_for(coco, "coco.pt", photographs=False)
    assert used == replace(PAPER, num_slices=3, classes=coco.classes)
    assert "coco.pt was trained on photographs and is used on CT" in caplog.text
    assert fit_for(coco, "coco.pt", photographs=True) == coco
    assert {"colour_order", "window", "z_mode"} <= set(coco.deviations(used))


def test_several_classes_say_so() -> None:
    assert PAPER.class_note() is None
    note = replace(PAPER, classes=class_names(80)).class_note() or ""
    assert note.startswith("The network distinguishes 80 classes (class 1, class 2, class 3, ...)")
    assert "one class" in note


def test_networks_tell_their_slices_and_classes() -> None:
    assert (slices_of(TWO_STAGES), classes_of(TWO_STAGES)) == (7, 80)
    assert (slices_of(ONE_STAGE), classes_of(ONE_STAGE)) == (3, 1)
    assert class_names(1) == ("lesion",)
    assert class_names(2, ["cat", "dog"]) == ("cat", "dog")
    assert class_names(2, ["cat", "cat"]) == ("class 1", "class 2")
    assert class_names(3, ["cat", "dog"]) == ("class 1", "class 2", "class 3")


def test_one_pixel_size_is_found_where_there_is_one() -> None:
    def record(spacing: tuple[float, float], size: tuple[int, int] = (96, 96)) -> dict[str, Any]:
        return {"spacing": spacing, "image_size": size}

    same = [record((1.6, 1.6)), record((0.8, 0.8), (192, 192)), record((1.6, 1.6))]
    assert pixels_of(same, 64) == {"stored_size": 96, "pixel_spacing": 2.4}
    for others in ([*same, record((1.5, 1.5))], [record((1.6, 1.5))]):
        assert "pixel_spacing" not in pixels_of(others, 96)
    assert pixels_of([{"image_size": (480, 640)}], 640) == {"stored_size": 640}
    assert pixels_of([], 512) == {"stored_size": 512}


def test_windows_have_one_pixel_size_whatever_the_sizes_of_their_images() -> None:
    def record(spacing: float, side: int) -> dict[str, Any]:
        return {"spacing": (spacing, spacing), "image_size": (side, side - 8)}

    crops = [record(0.8, 136), record(0.8, 239), record(0.8, 180)]
    assert pixels_of(crops, 64, window=128) == {"stored_size": 128, "pixel_spacing": 1.6}
    assert "pixel_spacing" not in pixels_of(crops, 64)
    # Whole images follow the training: the median where pixels differ.
    several = [record(0.7, 200), record(0.8, 200), record(1.0, 200)]
    assert pixels_of(several, 64, window=128) == {"stored_size": 128, "pixel_spacing": 1.6}
