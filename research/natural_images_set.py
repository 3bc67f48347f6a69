"""A stand-in of natural images for pre-training: textured coloured shapes in COCO's instances format.

The paper pre-trains on photographs whose three colour channels pass for three slices (section 2.2). What makes that
worth while is kept here: the channels are alike but not equal, and the class of a shape is its outline together with
its hue, so that no single channel tells it. Everything else about photographs is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from scripts.data.deeplesion.columns import SYNTHETIC
from scripts.data.synthetic.writing import new_folder, write_json

OUTLINES = ("disc", "box", "triangle", "cross", "ring")
HUES = ("warm", "cold")
CLASSES = tuple(f"{hue} {outline}" for hue in HUES for outline in OUTLINES)
NATURAL_VERSION = 1
ABOUT = "Synthetic coloured shapes: a stand-in of natural images for pre-training, no photographs."
# Share of an image's area that a shape's box may already share with others before it is put elsewhere.
_CROWDED = 0.3


def generate_natural(
    output: str | Path,
    *,
    num_train: int = 1200,
    num_validation: int = 100,
    image_size: int = 64,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write a stand-in of natural images.

    The folder holds ``train2017/`` and ``val2017/`` (8-bit colour PNG), ``annotations/instances_train2017.json`` and
    ``instances_val2017.json`` in COCO's format, and ``synthetic.json``. The same arguments give the same pixels.

    Args:
        output: Folder to create.
        num_train: Images for training.
        num_validation: Images for validation.
        image_size: Rows and columns, pixels.
        seed: Seed of everything.
        overwrite: Replace an earlier synthetic data set.

    Returns:
        The folder.

    Raises:
        ValueError: If a number is impossible.
        FileExistsError: If the folder has content and must not be replaced.
        OSError: If writing fails; nothing is left behind.
    """
    for name, value, least in (("num_train", num_train, 1), ("num_validation", num_validation, 1),
                               ("image_size", image_size, 32), ("seed", seed, 0)):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"Expected {name} of at least {least}, got {value!r}.")
    target = Path(output).resolve()
    splits = {"train2017": num_train, "val2017": num_validation}
    with new_folder(target, overwrite) as folder:
        for child, (split, count) in zip(np.random.SeedSequence(seed).spawn(2), splits.items(), strict=True):
            _write_split(folder, split, list(_images(child, count, image_size)))
        about = {"about": ABOUT, "natural_version": NATURAL_VERSION, "seed": seed, "image_size": image_size}
        write_json(folder / SYNTHETIC, {**about, "images": splits}, indent=2)
    return target


def _write_split(folder: Path, split: str, drawn: list[tuple[np.ndarray, list[tuple[int, list[float]]]]]) -> None:
    (folder / split).mkdir()
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, found) in enumerate(tqdm(drawn, desc=split, unit="image"), start=1):
        name = f"{number:06d}.png"
        (folder / split / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
        images.append({"id": number, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
        for label, (x, y, width, height) in found:
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
            annotations.append({**entry, "bbox": [x, y, width, height], "area": width * height})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    content = {"info": {"description": ABOUT}, "images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "annotations" / f"instances_{split}.json", content)


def _images(
    seed: np.random.SeedSequence, count: int, size: int
) -> Iterator[tuple[np.ndarray, list[tuple[int, list[float]]]]]:
    """Images ``(size, size, 3)`` uint8, blue first, with label (from 0) and box (x, y, width, height) of each shape."""
    for child in seed.spawn(count):
        rng = np.random.default_rng(child)
        image = _textured(rng, size, _colour(rng, rng.choice(HUES)) * 0.6)
        taken = np.zeros((size, size), bool)
        found = []
        for _ in range(int(rng.integers(1, 5))):
            outline, hue = int(rng.integers(len(OUTLINES))), int(rng.integers(len(HUES)))
            mask = _mask(rng, size, OUTLINES[outline])
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if not len(rows) or taken[mask].mean() > _CROWDED:
                continue
            fill = _textured(rng, size, _colour(rng, HUES[hue]))
            image = np.where(mask[..., None], fill, image)
            taken |= mask
            box = [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]
            found.append((hue * len(OUTLINES) + outline, box))
        # A lens: soft, with noise that the channels share in part.
        image = cv2.GaussianBlur(image, (0, 0), 0.6) + 4 * rng.normal(size=(size, size, 1))
        image = image + 3 * rng.normal(size=image.shape)
        yield np.clip(image, 0, 255).astype(np.uint8), found


def _colour(rng: np.random.Generator, hue: str) -> np.ndarray:
    """Blue, green, red: of one brightness law for both hues, so that no channel alone gives them away."""
    base, tint = rng.uniform(70, 170), rng.uniform(18, 45)
    return np.array([base, base + rng.uniform(-10, 10), base]) + np.array([-1, 0, 1]) * (
        tint if hue == "warm" else -tint
    )


def _textured(rng: np.random.Generator, size: int, colour: np.ndarray) -> np.ndarray:
    """``(size, size, 3)`` float64: a colour with stripes or clouds that the channels share but for a small shift."""
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    strength = rng.uniform(5, 30)
    if rng.random() < 0.5:
        angle, length = rng.uniform(0, np.pi), rng.uniform(4, 16)
        phase = 2 * np.pi * (columns * np.cos(angle) + rows * np.sin(angle)) / length + rng.uniform(0, 2 * np.pi)
        layers = [np.sin(phase + shift) for shift in (0.0, 0.3, 0.6)]
    else:
        cloud = cv2.GaussianBlur(rng.normal(size=(size + 4, size + 4)), (0, 0), rng.uniform(1.5, 5))
        cloud /= max(float(cloud.std()), 1e-6)
        layers = [cloud[shift : shift + size, shift : shift + size] for shift in (0, 1, 2)]
    return colour + strength * np.stack(layers, axis=-1)


def _mask(rng: np.random.Generator, size: int, outline: str) -> np.ndarray:
    """``(size, size)`` bool: a turned and stretched shape somewhere in the image, perhaps cut by its border."""
    radius = size * rng.uniform(0.09, 0.24)
    stretch, angle = rng.uniform(0.7, 1.0), rng.uniform(0, 2 * np.pi)
    x, y = rng.uniform(0.1 * size, 0.9 * size, 2)
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    across = ((columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)) / radius
    along = ((rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)) / (radius * stretch)
    far = np.hypot(across, along)
    if outline == "disc":
        return far <= 1
    if outline == "ring":
        return (far <= 1) & (far >= 0.5)
    if outline == "box":
        return np.maximum(abs(across), abs(along)) <= 0.85
    if outline == "cross":
        return (far <= 1) & ((abs(across) <= 0.3) | (abs(along) <= 0.3))
    return (along <= 0.6) & (along >= 1.7 * abs(across) - 1)
