"""The stand-in of natural images: repeatable, readable as COCO, classes that no single channel tells."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from research.natural_images_set import CLASSES, HUES, OUTLINES, generate_natural
from scripts.data.coco.coco_instances import load_instances


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_natural(tmp_path_factory.mktemp("natural") / "set", num_train=150, num_validation=5)


def records(folder: Path, split: str = "train2017") -> list[dict]:
    labels = f"annotations/instances_{split}.json"
    return load_instances(folder, annotations=labels, images=split, num_classes=len(CLASSES))


def test_it_reads_as_coco(folder: Path) -> None:
    found = records(folder)
    assert len(found) == 150
    assert len(records(folder, "val2017")) == 5
    labels = np.concatenate([record["instances"]["labels"] for record in found])
    assert set(labels.tolist()) == set(range(1, len(CLASSES) + 1))
    for record in found:
        assert (record["instances"]["boxes"][:, :2] >= 0).all()
        assert (record["instances"]["boxes"][:, 2:] <= 64).all()
        assert (record["instances"]["boxes"][:, 2:] - record["instances"]["boxes"][:, :2] >= 1).all()


def test_the_same_seed_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    again = generate_natural(tmp_path / "again", num_train=150, num_validation=5)
    other = generate_natural(tmp_path / "other", num_train=150, num_validation=5, seed=1)
    for path in ("train2017/000001.png", "val2017/000005.png", "annotations/instances_train2017.json"):
        assert (folder / path).read_bytes() == (again / path).read_bytes()
        assert (folder / path).read_bytes() != (other / path).read_bytes()


def test_channels_are_alike_but_not_equal_and_none_alone_gives_the_hue(folder: Path) -> None:
    pixels: dict[str, list[np.ndarray]] = {hue: [] for hue in HUES}
    correlations = []
    for record in records(folder):
        image = np.asarray(cv2.imread(record["image"]), dtype=np.float64)
        for a, b in ((0, 1), (1, 2), (0, 2)):
            correlations.append(np.corrcoef(image[..., a].ravel(), image[..., b].ravel())[0, 1])
        for (x1, y1, x2, y2), label in zip(record["instances"]["boxes"], record["instances"]["labels"], strict=True):
            hue, outline = divmod(int(label) - 1, len(OUTLINES))
            if OUTLINES[outline] in ("disc", "box"):
                pixels[HUES[hue]].append(image[int(y1 + y2) // 2, int(x1 + x2) // 2])
    assert 0.5 < np.median(correlations) < 0.999
    warm, cold = (np.stack(pixels[hue]) for hue in HUES)
    for channel in range(3):
        above = (warm[:, None, channel] > cold[None, :, channel]).mean()
        assert 0.1 < above < 0.9
    difference = (warm[:, None, 2] - warm[:, None, 0] > cold[None, :, 2] - cold[None, :, 0]).mean()
    assert difference > 0.9


def test_bad_numbers_and_full_folders_are_rejected(tmp_path: Path) -> None:
    for name, value in (("num_train", 0), ("image_size", 8), ("seed", -1), ("num_validation", True)):
        with pytest.raises(ValueError, match=f"Expected {name}"):
            generate_natural(tmp_path / "a", **{name: value})  # pyright: ignore[reportArgumentType]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        generate_natural(tmp_path / "b", num_train=1, num_validation=1, overwrite=True)
    assert not (tmp_path / "a").exists()


def test_the_marker_says_what_it_is(folder: Path) -> None:
    assert "no photographs" in json.loads((folder / "synthetic.json").read_text())["about"]
