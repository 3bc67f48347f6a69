"""Advice: anchors that fit are found, and the paper's kept where nothing fits better."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.importing.set_advice import PAPER_RATIOS, advise, fit_anchors


def record(sides: list[tuple[float, float]], *, size: int = 512, spacing: float = 0.8, patient: str = "a") -> dict:
    boxes = [[10.0, 10.0, 10.0 + w, 10.0 + h] for w, h in sides]
    return {
        "shape": [40, size, size],
        "spacing": [spacing, spacing, 2.5],
        "patient": patient,
        "keys": [{"boxes": boxes}],
        "lesions": [{"form": "outline", "size_mm": [1.0, 1.0, 12.0]}],
    }


def test_anchors_of_the_boxes_own_sizes_fit_perfectly() -> None:
    fit = fit_anchors(np.array([[16.0, 16.0], [32, 32], [64 / np.sqrt(2), 64 * np.sqrt(2)]]), 4.0)
    assert (round(fit.mean_iou, 6), fit.reached) == (1.0, 1.0)
    # A square of half the side shares a quarter with the smallest anchor.
    assert fit_anchors(np.array([[8.0, 8.0]]), 4.0).mean_iou == pytest.approx(0.25)


def test_small_lesions_get_small_anchors_and_ordinary_ones_the_papers() -> None:
    small = advise({"1": record([(7, 7), (8, 8), (9, 8)] * 5)})
    ordinary = advise({"1": record([(16, 16), (32, 33), (64, 60), (46, 92)] * 5)})
    assert small is not None
    assert ordinary is not None
    assert small.anchors.scale == 2.0
    assert small.anchors.mean_iou > small.paper.mean_iou + 0.3
    assert ordinary.anchors == ordinary.paper
    assert "--network_def#head#anchor_scale" in small.options()


def test_flat_lesions_get_flat_anchors() -> None:
    found = advise({"1": record([(90, 10), (60, 7), (10, 90), (7, 60)] * 5)})
    assert found is not None
    assert found.anchors.ratios != PAPER_RATIOS
    assert found.options()[-2:] == ["--network_def#head#anchor_ratios", str(list(found.anchors.ratios))]


def test_scales_slices_and_overlays() -> None:
    crops = {str(n): record([(30, 30)], size=size) for n, size in enumerate((140, 200, 240))}
    found = advise(crops)
    assert found is not None
    assert found.image_scale == 192
    assert "lesions would look larger in smaller images" in found.reasons[0]
    # Of 0.8 mm stored, 140, 200 and 240 pixels become 192 of 0.58, 0.83 and 1 mm.
    assert found.options()[:2] == ["--pixel_spacing", "0.83"]
    alike = advise({str(n): record([(30, 30)], size=size) for n, size in enumerate((200, 210, 220))})
    assert alike is not None
    assert alike.options()[:4] == ["--train_scales", "[224]", "--test_scale", "224"]
    assert found.overlays == ("size_narrow", "optimizer_adamw", "own_data")
    many = advise({str(n): record([(30, 30)], patient=str(n)) for n in range(200)})
    assert many is not None
    assert (many.overlays, many.num_slices) == (("own_data",), 9)
    assert advise({"1": {**record([]), "keys": [{"boxes": []}]}}) is None


def crop(width: float, height: float, margin: float = 52.0, shift: float = 0.0) -> dict:
    """A scan that ends ``margin`` pixels around its lesion, or nearer to its left by ``shift``."""
    made = record([(width, height), (width / 2, height / 2)])
    box = [margin - shift, margin, margin - shift + width, margin + height]
    return {
        **made,
        "shape": [40, int(height + 2 * margin), int(width + 2 * margin)],
        "lesions": [{**made["lesions"][0], "box": box}],
    }


def test_crops_around_lesions_get_windows_that_do_not_show_their_edges() -> None:
    sizes = [(32, 30), (60, 66), (94, 98), (130, 112), (54, 54), (80, 53)]
    found = advise({str(n): crop(*size) for n, size in enumerate(sizes)})
    assert found is not None
    # The shortest side is 134 pixels. At half of them the smallest lesions have 15 / 2 pixels: too few.
    assert (found.window, found.image_scale) == (128, 128)
    assert found.options()[:2] == ["--random_window", "128"]
    assert "end 52 pixels from their lesions" in found.reasons[0]
    large = advise({str(n): crop(w + 60, h + 60) for n, (w, h) in enumerate(sizes)})
    assert large is not None
    assert (large.window, large.image_scale) == (192, 96)


def test_lesions_anywhere_in_their_images_are_no_crops() -> None:
    sizes = [(32, 30), (60, 66), (94, 98), (130, 112), (54, 54), (80, 53)]
    found = advise({str(n): crop(*size, shift=8.0 * n) for n, size in enumerate(sizes)})
    assert found is not None
    assert found.window is None
    # Two crops may be alike by chance.
    few = advise({str(n): crop(*size) for n, size in enumerate(sizes[:2])})
    assert few is not None
    assert few.window is None


def test_anchors_are_those_of_the_pixels_that_are_advised() -> None:
    lesions = [(32.0, 32.0), (64.0, 64.0), (16.0, 16.0)] * 3
    small = record(lesions, size=256, spacing=1.6)
    large = record([(w * 4, h * 4) for w, h in lesions], size=512, spacing=0.4)
    found = advise({"1": small, "2": large})
    assert found is not None
    # The same lesions in millimetres are the same in pixels of one size.
    sides = np.array(lesions) * 1.6 / found.pixel_spacing
    assert found.anchors.mean_iou == pytest.approx(
        fit_anchors(sides, found.anchors.scale, found.anchors.ratios).mean_iou
    )
