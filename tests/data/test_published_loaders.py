"""Slabs as the compared systems' own loaders read them, with their authors' windows, crop and scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scripts.data.border import CropBorderd
from scripts.data.intensity import IntensityWindow
from scripts.data.scaling import ScalePixelsd
from scripts.data.slabs.slab_reader import SlabReader
from scripts.data.transforms import LoadSlabd
from scripts.networks.published.mvp_net import WINDOWS
from scripts.tools.published_layouts import LAYOUTS

# The authors' codes blend stored values (HU + 32768) in float32, which are multiples of 1/256 there.
ROUNDING = 1e-3


@pytest.fixture(scope="module")
def loaders(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "reference/golden_field/loaders.json").read_text())


def record(shared: Path, case: dict[str, Any]) -> dict[str, Any]:
    name = case["key"].removesuffix(".png")
    return {
        "image": str(shared / "data/deeplesion/Images_png" / case["folder"] / case["key"]),
        "key_slice": int(name),
        "slice_interval": case["slice_intv"],
        "spacing": (case.get("spacing", 1.0),) * 2,
        "image_size": (512, 512),
        "instances": {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64)},
    }


def reader_of(key: str, num_slices: int) -> SlabReader:
    recipe: Any = LAYOUTS[key].recipe
    return SlabReader(num_slices, spacing=recipe.slice_spacing, mode=recipe.z_mode)


def check(case: dict[str, Any], slab: np.ndarray, tolerance: float) -> None:
    """Compare a slab ``(D, H, W)`` with values of an image whose slices come last."""
    got = slab.transpose(1, 2, 0).astype(np.float64)
    assert list(got.shape) == case["shape"]
    np.testing.assert_allclose(got.ravel()[case["idx"]], case["val64"], rtol=0, atol=tolerance)
    assert abs(got.mean() - case["mean64"]) < tolerance
    # The largest one is where scaling mixes the most different neighbours, with positions in float32.
    assert abs(np.abs(got).max() - case["absmax64"]) < max(tolerance, 1e-5 * case["absmax64"])


@pytest.mark.parametrize(("system", "key"), [("alignshift", "alignshift"), ("a3d", "a3d")])
def test_slabs_of_alignshift_and_a3d(shared: Path, loaders: dict[str, Any], system: str, key: str) -> None:
    recipe = LAYOUTS[key].recipe
    window = IntensityWindow(*recipe.window, recipe.mean, recipe.std)
    for case in loaders[system]["cases"]:
        reader = reader_of(key, case["num_slice"])
        check(case, window(reader(record(shared, case))), ROUNDING)


def test_slabs_of_mvp_net_in_its_windows(shared: Path, loaders: dict[str, Any]) -> None:
    recipe = LAYOUTS["mvpnet"].recipe
    for case in loaders["mvpnet"]["cases"]:
        slab = reader_of("mvpnet", case["M"])(record(shared, case))
        # What the network gets, and makes its windows of.
        low, high = recipe.window
        seen = np.clip(slab, low, high)
        check(case, np.concatenate([IntensityWindow(*each, 0.0, 1.0)(seen) for each in WINDOWS]), ROUNDING)


def check_cropped_and_scaled(shared: Path, key: str, cases: list[dict[str, Any]], scale: ScalePixelsd) -> None:
    """Compare slabs of the body alone, in pixels of one size, before the mean is taken off."""
    recipe, crop = LAYOUTS[key].recipe, CropBorderd()
    for case in cases:
        given: Any = record(shared, case)
        whole = LoadSlabd(reader_of(key, case["shape"][-1]))(given)
        up, down, left, right = case["crop_u_d_l_r"]
        assert crop.box(whole) == (left, up, right + 1, down + 1)
        cropped: Any = crop(whole)
        assert torch.equal(cropped["origin"], torch.tensor([float(left), float(up)]))
        assert scale.factor(cropped) == pytest.approx(case["im_scale"])
        windowed: Any = {**cropped, "image": IntensityWindow(*recipe.window, 0.0, 1.0)(cropped["image"])}
        slab = scale(windowed)["image"].numpy()
        check(case, slab, ROUNDING)
        means = slab.mean((1, 2), dtype=np.float64)
        np.testing.assert_allclose(means, case["per_slice_mean"], rtol=0, atol=ROUNDING)


def test_slabs_of_msb_are_cropped_to_the_body_and_scaled(shared: Path, loaders: dict[str, Any]) -> None:
    scale = ScalePixelsd(loaders["msb"]["norm_spacing"], loaders["msb"]["max_size"])
    check_cropped_and_scaled(shared, "msb", loaders["msb"]["cases"], scale)


def test_slabs_of_mulan_are_cropped_to_the_body_and_scaled(shared: Path) -> None:
    loader = json.loads((shared / "reference/golden_field/mulan_extra.json").read_text())["loader"]
    recipe: Any = LAYOUTS["mulan"].recipe
    assert [*recipe.window] == loader["window"]
    assert (recipe.mean, recipe.slice_spacing) == (loader["pixel_mean"], loader["slice_intv"])
    assert {case["shape"][-1] for case in loader["cases"]} == {loader["num_slices"]}
    check_cropped_and_scaled(shared, "mulan", loader["cases"], ScalePixelsd(loader["norm_spacing"], loader["max"]))
