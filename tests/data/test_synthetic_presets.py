"""Presets, overrides of single values, and rejected values."""

from __future__ import annotations

import pytest

from scripts.data.synthetic import PRESETS, resolve


def test_every_preset_is_legal_as_it_stands() -> None:
    for name, settings in PRESETS.items():
        assert resolve(name) == settings


def test_the_official_preset_has_the_official_counts_size_margin_and_padding() -> None:
    official = PRESETS["deeplesion"]
    assert (official.num_train, official.num_validation, official.num_test) == (22_496, 4_793, 4_831)
    assert (official.image_size, official.margin_mm, official.padding) == (512, 30.0, 5.0)


def test_values_replace_those_of_the_preset() -> None:
    settings = resolve("small", {"image_size": 128, "pixel_spacing": 1.2, "slice_intervals": 5, "tubes": (2, 9)})
    assert settings.image_size == 128
    assert settings.pixel_spacing == (1.2, 1.2, 1.2)
    assert settings.slice_intervals == ((5.0, 1.0),)
    assert settings.tubes == (2, 9)
    assert settings.padding == PRESETS["small"].padding


def test_intervals_may_be_a_mapping_with_weights() -> None:
    assert resolve("small", {"slice_intervals": {5: 3, 1: 1}}).slice_intervals == ((5.0, 3.0), (1.0, 1.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_train", 0),
        ("num_test", -1),
        ("num_train", 2.5),
        ("image_size", 31),
        ("image_size", "large"),
        ("pixel_spacing", -1.6),
        ("pixel_spacing", 0),
        ("pixel_spacing", (0.9, 0.8, 0.7)),
        ("pixel_spacing", float("nan")),
        ("slice_intervals", 0),
        ("slice_intervals", {5: 0}),
        ("margin_mm", -1),
        ("margin_mm", 1e6),
        ("padding", -0.5),
        ("padding", float("nan")),
        ("tubes", (6, 3)),
        ("tubes", (1, 2, 3)),
        ("lesions_per_slice", (0.0, 0.0)),
        ("half_height_mm", (0.0, 5.0)),
        ("irregularities", 3),
        ("num_train", True),
        ("noise_hu", -1),
        ("body_fraction", (0.0, 0.5)),
        ("keys_per_series", 0.5),
        ("seeed", 1),
    ],
)
def test_an_impossible_value_is_rejected_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        resolve("small", {name: value})


def test_an_unknown_preset_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"small, hard, deeplesion.*'medium'"):
        resolve("medium")
