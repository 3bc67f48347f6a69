"""Photographs as slabs: any kind of file, upright, in the requested order; damaged ones are named."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scripts.data.coco.colour_slabs import ColourSlabReader, read_colour
from scripts.data.intensity import IntensityWindow
from scripts.data.transforms import IntensityWindowd, LoadSlabd, ResizeSlabd

RED = (200, 10, 30)


def picture() -> Image.Image:
    """40 x 30, red with a blue corner at the top left."""
    image = Image.new("RGB", (40, 30), RED)
    image.paste((0, 0, 255), (0, 0, 8, 4))
    return image


def record(path: Path, size: tuple[int, int] = (30, 40), **more: Any) -> dict[str, Any]:
    box, label = np.array([[4.0, 6.0, 20.0, 30.0]], dtype=np.float32), np.array([7])
    instances = {"boxes": box, "labels": label}
    return {"image": str(path), "file_name": path.name, "image_size": size, "instances": instances, **more}


@pytest.mark.parametrize("order", ["BGR", "RGB", "GRB"])
def test_slices_come_in_the_order_asked_for(tmp_path: Path, order: str) -> None:
    picture().save(tmp_path / "a.png")
    slab = ColourSlabReader(order)(record(tmp_path / "a.png"))
    assert (slab.shape, slab.dtype) == ((3, 30, 40), np.float32)
    assert slab[:, 20, 20].tolist() == [RED["RGB".index(colour)] for colour in order]
    assert slab[order.index("B"), 0, 0] == 255


@pytest.mark.parametrize("order", ["RG", "RGBA", "rgb", "RRB", "", None])
def test_another_order_is_rejected(order: Any) -> None:
    with pytest.raises(ValueError, match="order of the colours"):
        ColourSlabReader(order)


def test_all_slices_get_the_released_mean_and_deviation(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    load = LoadSlabd(ColourSlabReader("RGB"))
    sample = IntensityWindowd(IntensityWindow(0.0, 255.0))(load(record(tmp_path / "a.png")))
    wanted = (torch.tensor([200.0, 10.0, 30.0]) - 123.675) / 58.395
    torch.testing.assert_close(sample["image"][:, 20, 20], wanted)
    small = ResizeSlabd(20)(sample)
    assert small["image"].shape == (3, 15, 20)
    assert small["instances"]["boxes"].tolist() == [[2.0, 3.0, 10.0, 15.0]]
    assert small["instances"]["labels"].tolist() == [7]


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "jpg"), ("1", "png"), ("LA", "png"), ("P", "png"), ("P", "gif"), ("RGBA", "png"),
                         ("CMYK", "jpg"), ("RGB", "webp"), ("RGB", "jpg")]
)  # fmt: skip
def test_other_kinds_of_files_become_three_colours(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    picture().convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    pixels = read_colour(path)
    assert (pixels.shape, pixels.dtype) == ((30, 40, 3), np.uint8)
    if mode in ("L", "1", "LA"):
        assert (pixels[..., 0] == pixels[..., 2]).all()
    else:
        np.testing.assert_allclose(pixels[20, 30], RED, atol=8)


def test_files_deeper_than_eight_bits_are_rejected(tmp_path: Path) -> None:
    Image.fromarray(np.full((30, 40), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"8 bits a colour.*deep\.png|deep\.png.*8 bits a colour"):
        read_colour(tmp_path / "deep.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_read_upright(tmp_path: Path, orientation: int) -> None:
    upright = picture()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_colour(tmp_path / "a.png", (30, 40)), np.asarray(upright))


def test_labels_drawn_on_the_stored_orientation_decide(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "a.png", exif=exif)
    assert read_colour(tmp_path / "a.png").shape == (40, 30, 3)
    np.testing.assert_array_equal(read_colour(tmp_path / "a.png", (30, 40)), np.asarray(picture()))


def test_a_size_other_than_in_the_labels_is_rejected(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"30 x 40 pixels \(width x height\).*got 40 x 30 in .*a\.png"):
        ColourSlabReader()(record(tmp_path / "a.png", (40, 30)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp"])
def test_a_file_cut_short_is_rejected_at_any_length(tmp_path: Path, suffix: str) -> None:
    stored = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stored, format={"jpg": "JPEG"}.get(suffix, suffix.upper()))
    content, path = stored.getvalue(), tmp_path / f"cut.{suffix}"
    for length in (0, 3, 30, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"complete image, cannot read .*cut\.{suffix}"):
            read_colour(path)


def test_what_is_no_image_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"complete image.*a\.jpg"):
        read_colour(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="complete image"):
        read_colour(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        read_colour(tmp_path / "none.jpg")


def test_a_picture_too_large_to_be_one_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"complete image, cannot read .*a\.png"):
        read_colour(tmp_path / "a.png")
