"""Pages of hits, misses and false positives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from scripts.inference.outputs.html.gallery import (
    GalleryItem,
    choose_items,
    draw_item,
    gallery_items,
    write_gallery,
)
from scripts.inference.outputs.pictures.box_drawing import DETECTION, TRUTH, WRONG


def item(kind: str, name: str, score: float = 0.5, side: float = 20.0, **changes: Any) -> GalleryItem:
    box = np.array([30.0, 40.0, 30.0 + side, 40.0 + side])
    values: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "hu_slice": np.full((96, 128), 50, dtype=np.int16),
        "window": (-175.0, 275.0),
        "box": box,
        "score": score,
        "predicted": {"boxes": box[None] + 2, "scores": np.array([score]), "hit": np.array([kind == "hit"])},
        "true_boxes": box[None],
    }
    return GalleryItem(**{**values, **changes})


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


def test_false_positives_come_with_the_highest_score_first() -> None:
    items = [item("false positive", name, score) for name, score in (("a", 0.2), ("b", 0.9), ("c", 0.5))]
    assert [one.name for one in choose_items([*items, item("hit", "d")], "false positive", 2)] == ["b", "c"]


def test_misses_come_with_the_largest_first() -> None:
    items = [item("miss", name, float("nan"), side) for name, side in (("a", 10), ("b", 40), ("c", 20))]
    assert [one.name for one in choose_items(items, "miss", 2)] == ["b", "c"]


def test_hits_are_taken_evenly() -> None:
    items = [item("hit", str(number), number / 10) for number in range(11)]
    assert [one.name for one in choose_items(items, "hit", 3)] == ["10", "5", "0"]
    assert [one.name for one in choose_items(items, "hit", 20)] == [str(number) for number in range(10, -1, -1)]


def test_an_item_shows_slice_and_close_up() -> None:
    picture = draw_item(item("hit", "a"))
    assert picture.shape[1] == 806
    assert picture.shape[0] > 400
    for half in (picture[:400, :400], picture[:400, 406:]):
        assert count(half, TRUTH) > 20
        assert count(half, DETECTION) > 20
        assert count(half, WRONG) == 0
    # The close-up is larger: its box takes more of the picture.
    assert count(picture[:400, 406:], TRUTH) > 2 * count(picture[:400, :400], TRUTH)


@pytest.mark.parametrize("corner", [(0, 0), (108, 0), (0, 76), (108, 76)])
def test_the_close_up_of_a_border_lesion_holds_its_box(corner: tuple[int, int]) -> None:
    box = np.array([*corner, corner[0] + 20, corner[1] + 20], dtype=np.float64)
    nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "hit": np.zeros(0, dtype=bool)}
    ramp = np.tile(np.arange(128, dtype=np.int16), (96, 1))
    picture = draw_item(
        item("miss", "a", float("nan"), hu_slice=ramp, box=box, true_boxes=box[None], predicted=nothing)
    )
    # 20 px of the 50 px (2.5 times the box) that the close-up shows in 400: sides of 160 px, two to four visible.
    assert count(picture[:400, 406:], TRUTH) > 120


@pytest.mark.parametrize("shape", [(512, 512), (1024, 1024), (96, 128), (128, 96)])
def test_every_image_size_gives_the_same_tile(shape: tuple[int, int]) -> None:
    assert draw_item(item("hit", "a", hu_slice=np.zeros(shape, dtype=np.int16))).shape[1] == 806


def test_a_lesion_as_large_as_the_image() -> None:
    box = np.array([-5.0, 0.0, 128.0, 96.0])
    assert draw_item(item("miss", "a", float("nan"), box=box, true_boxes=box[None])).shape[1] == 806


def test_slices_are_read_for_shown_items_only(tmp_path: Path) -> None:
    read: list[str] = []

    def read_slice(case: Mapping[str, Any]) -> np.ndarray:
        read.append(case["id"])
        return np.zeros((64, 64), dtype=np.int16)

    findings = []
    for number in range(5):
        case = {"id": str(number), "patient": "p", "true_boxes": [], "slice_interval": 5.0}
        box = np.array([5.0, 5.0, 20.0, 20.0])
        predicted = {"boxes": box[None], "scores": np.array([number / 10]), "hit": np.array([False])}
        kind = "false positive"
        findings.append({"kind": kind, "case": case, "box": box, "score": number / 10, "predicted": predicted})
    items = gallery_items(findings, read_slice)
    assert read == []
    assert items[0].details == "patient p, 5 mm slices"
    assert items[0].window == (-175.0, 275.0)
    write_gallery(items, tmp_path, limit=2)
    assert read == ["4", "3"]


def test_the_cases_window_is_used() -> None:
    case = {"id": "a", "true_boxes": [], "window": (-1500, 500)}
    finding = {"kind": "miss", "case": case, "box": np.zeros(4), "score": float("nan"), "predicted": {}}
    (one,) = gallery_items([finding], lambda _: np.zeros((4, 4)))
    assert one.window == (-1500.0, 500.0)


def test_pages_and_index(tmp_path: Path) -> None:
    items = [item("hit", f"h{number}", number / 10) for number in range(8)]
    items += [item("miss", "m", float("nan"))]
    index = write_gallery(items, tmp_path / "gallery", title="At 1 FP <per image>", notice="not real", limit=7)
    names = sorted(path.name for path in index.parent.iterdir())
    assert names == ["hits_01.png", "hits_02.png", "index.html", "misses_01.png"]
    text = index.read_text(encoding="utf-8")
    assert "<h1>At 1 FP &lt;per image&gt;</h1>" in text
    assert "not real" in text
    assert "7 of 8 shown" in text
    assert "0 of 0 shown" in text
    # Self-contained: every link is a file in the same folder.
    links = set(re.findall(r'(?:src|href)="([^"]*)"', text))
    assert links == {"hits_01.png", "hits_02.png", "misses_01.png"}


def test_the_notice_is_part_of_every_picture(tmp_path: Path) -> None:
    items = [item(kind, "a") for kind in ("hit", "miss", "false positive")]
    write_gallery(items, tmp_path / "with", notice="not real")
    write_gallery(items, tmp_path / "without")
    for name in ("hits_01.png", "misses_01.png", "false_positives_01.png"):
        with_notice, without = (cv2.imread(str(tmp_path / folder / name)) for folder in ("with", "without"))
        assert with_notice is not None
        assert without is not None
        assert len(with_notice) > len(without)


def test_a_shorter_gallery_leaves_no_old_pages_and_no_other_file_is_touched(tmp_path: Path) -> None:
    (tmp_path / "hits_notes.png").write_text("mine")
    write_gallery([item("hit", str(number)) for number in range(8)], tmp_path)
    write_gallery([item("hit", "a")], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hits_01.png", "hits_notes.png", "index.html"]


def test_an_empty_gallery_says_so(tmp_path: Path) -> None:
    index = write_gallery([], tmp_path)
    assert index.read_text().count("0 of 0 shown") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_an_unknown_kind_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected items of kind .*got 'nodule' for a"):
        write_gallery([item("nodule", "a")], tmp_path)


def test_a_slice_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(H, W\), got \(3, 8, 8\) for 000001"):
        draw_item(item("hit", "000001.png", hu_slice=np.zeros((3, 8, 8))))
