"""Pages of hits, misses and false positives with an index to read in a browser, offline.

False positives are sorted with the highest score first, misses with the largest lesion first. Hits are
sampled evenly from the highest score to the lowest, so that the pages show typical ones too.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ....storage.atomic_files import replacing
from ..pictures.box_drawing import (
    CLOSE_UP,
    DETECTION,
    TRUTH,
    WRONG,
    add_caption,
    display_window,
    draw_boxes,
    write_png,
)

_INDEX = "index.html"
# Kinds of items in reading order: name of the files, and heading.
KINDS = {
    "false positive": ("false_positives", "False positives, the highest score first"),
    "miss": ("misses", "Missed lesions, the largest first"),
    "hit": ("hits", "Found lesions, evenly from the highest score to the lowest"),
}
_COLUMNS, _ROWS = 2, 3
_VIEW = 400  # pixels of each of the two views of an item
_GAP = 6
# The close-up shows this many times the longer side of the box, and at least this share of the image.
_CONTEXT, _SMALLEST_SHARE = 2.5, 0.2


@dataclass(frozen=True)
class GalleryItem:
    """One finding to show.

    Attributes:
        kind: ``"hit"``, ``"miss"`` or ``"false positive"``.
        name: Name of the image, for the caption.
        hu_slice: ``(H, W)`` Hounsfield units, or a function that reads them when the picture is drawn.
        window: Lowest and highest value shown, in HU.
        box: ``(4,)`` pixels, the box of the item.
        score: Score of the detection; NaN for a lesion that no detection overlaps.
        predicted: ``boxes``, ``scores`` and ``hit`` of the detections to draw.
        true_boxes: ``(N, 4)`` pixels.
        details: Further text for the caption.
    """

    kind: str
    name: str
    hu_slice: np.ndarray | Callable[[], np.ndarray]
    window: tuple[float, float]
    box: np.ndarray
    score: float
    predicted: Mapping[str, Any]
    true_boxes: np.ndarray
    details: str = ""


def gallery_items(
    findings: Iterable[Mapping[str, Any]], read_slice: Callable[[Mapping[str, Any]], np.ndarray]
) -> list[GalleryItem]:
    """Make gallery items of findings without reading an image yet.

    Args:
        findings: Dictionaries with ``kind``, ``case``, ``box``, ``score`` and ``predicted`` (what
            ``scripts.metrics.image.hits_and_misses.list_findings`` returns).
        read_slice: Reads the ``(H, W)`` key slice of a case in HU; called for the items shown only.

    Returns:
        One item per finding, in the same order.
    """
    items = []
    for finding in findings:
        case = finding["case"]
        words = [f"patient {case['patient']}"] if case.get("patient") else []
        words += [f"{case['slice_interval']:g} mm slices"] if case.get("slice_interval") is not None else []
        items.append(
            GalleryItem(
                kind=finding["kind"],
                name=case["id"],
                hu_slice=lambda case=case: read_slice(case),
                window=display_window(case),
                box=np.asarray(finding["box"], dtype=np.float64),
                score=float(finding["score"]),
                predicted=finding["predicted"],
                true_boxes=np.asarray(case["true_boxes"], dtype=np.float64).reshape(-1, 4),
                details=", ".join(words),
            )
        )
    return items


def _area(item: GalleryItem) -> float:
    return float((item.box[2] - item.box[0]) * (item.box[3] - item.box[1]))


def choose_items(items: Sequence[GalleryItem], kind: str, limit: int) -> list[GalleryItem]:
    """Choose and sort the items of one kind, see the top of this module.

    Args:
        items: Items of any kind.
        kind: Key of `KINDS`.
        limit: Largest number of items to keep.

    Returns:
        At most ``limit`` items.
    """
    chosen = [item for item in items if item.kind == kind]
    if kind == "miss":
        return sorted(chosen, key=lambda item: (-_area(item), item.name))[:limit]
    chosen.sort(key=lambda item: (-item.score, item.name))
    if kind != "hit" or len(chosen) <= limit:
        return chosen[:limit]
    return [chosen[row] for row in np.linspace(0, len(chosen) - 1, limit).round().astype(int)]


def _region(box: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """The square region of the close-up: x1, y1, x2, y2 in whole pixels, inside the image."""
    side = max(_CONTEXT * max(box[2] - box[0], box[3] - box[1]), _SMALLEST_SHARE * max(height, width))
    side = round(min(side, height, width))
    x = round(float(np.clip((box[0] + box[2] - side) / 2, 0, width - side)))
    y = round(float(np.clip((box[1] + box[3] - side) / 2, 0, height - side)))
    return x, y, x + side, y + side


def _inside(boxes: Any, region: tuple[int, int, int, int]) -> np.ndarray:
    """Which boxes are visible in a region."""
    edges = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    x1, y1, x2, y2 = region
    return (edges[:, 0] < x2) & (edges[:, 2] > x1) & (edges[:, 1] < y2) & (edges[:, 3] > y1)


def _close_up(item: GalleryItem, hu_slice: np.ndarray) -> np.ndarray:
    region = _region(item.box, *hu_slice.shape)
    x1, y1, x2, y2 = region
    shift = np.array([x1, y1, x1, y1], dtype=np.float64)
    keep = _inside(item.predicted["boxes"], region)
    predicted = {
        "boxes": np.asarray(item.predicted["boxes"], dtype=np.float64).reshape(-1, 4)[keep] - shift,
        "scores": np.asarray(item.predicted["scores"])[keep],
        "hit": np.asarray(item.predicted["hit"], dtype=bool)[keep],
    }
    true_boxes = item.true_boxes[_inside(item.true_boxes, region)] - shift
    return draw_boxes(hu_slice[y1:y2, x1:x2], predicted, true_boxes, window=item.window, longer_side=_VIEW)


def _overview(item: GalleryItem, hu_slice: np.ndarray) -> np.ndarray:
    """The whole slice on a black square, with the region of the close-up outlined in grey."""
    picture = draw_boxes(hu_slice, item.predicted, item.true_boxes, window=item.window, longer_side=_VIEW)
    factor = _VIEW / max(hu_slice.shape)
    x1, y1, x2, y2 = (round(factor * edge) for edge in _region(item.box, *hu_slice.shape))
    picture = cv2.rectangle(picture.copy(), (x1, y1), (x2 - 1, y2 - 1), CLOSE_UP, 1)
    square = np.zeros((_VIEW, _VIEW, 3), dtype=np.uint8)
    top, left = (_VIEW - picture.shape[0]) // 2, (_VIEW - picture.shape[1]) // 2
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square


def draw_item(item: GalleryItem) -> np.ndarray:
    """Draw one item: the whole slice, a close-up next to it, and a caption below.

    Args:
        item: What to draw; its slice is read now.

    Returns:
        ``(H, 806, 3)`` uint8 RGB.

    Raises:
        ValueError: If the slice is not ``(H, W)``.
    """
    hu_slice = item.hu_slice() if callable(item.hu_slice) else item.hu_slice
    if hu_slice.ndim != 2 or hu_slice.size == 0:
        raise ValueError(f"Expected a slice of shape (H, W), got {hu_slice.shape} for {item.name}.")
    gap = np.zeros((_VIEW, _GAP, 3), dtype=np.uint8)
    views = np.concatenate([_overview(item, hu_slice), gap, _close_up(item, hu_slice)], axis=1)
    low, high = item.window
    words = [_outcome(item), *([item.details] if item.details else []), f"window {low:g} to {high:g} HU"]
    return add_caption(views, f"{item.name}: {', '.join(words)}")


def _outcome(item: GalleryItem) -> str:
    if item.kind == "miss":
        return "missed" if np.isnan(item.score) else f"missed (best box scores {item.score:.2f})"
    return f"{'found' if item.kind == 'hit' else 'false positive'}, score {item.score:.2f}"


def _page(tiles: Sequence[np.ndarray], caption: str, notice: str | None) -> np.ndarray:
    """Put pictures side by side, row after row, with a strip below."""
    rows = []
    for start in range(0, len(tiles), _COLUMNS):
        row = list(tiles[start : start + _COLUMNS])
        row += [np.zeros_like(tiles[0])] * (min(_COLUMNS, len(tiles)) - len(row))
        height = max(len(tile) for tile in row)
        padded = [np.pad(tile, ((0, height - len(tile)), (0, 2 * _GAP), (0, 0))) for tile in row]
        rows.append(np.pad(np.concatenate(padded, axis=1), ((0, 2 * _GAP), (0, 0), (0, 0))))
    return add_caption(np.concatenate(rows), caption, legend=[TRUTH, DETECTION, WRONG, CLOSE_UP], notice=notice)


def _write_pages(items: Sequence[GalleryItem], kind: str, folder: Path, notice: str | None) -> list[str]:
    """Write the pages of one kind, remove further pages of an earlier gallery, and return the names."""
    stem, heading = KINDS[kind]
    size = _COLUMNS * _ROWS
    count = -(-len(items) // size)
    names = [f"{stem}_{number:02d}.png" for number in range(1, count + 1)]
    for number, name in enumerate(names):
        tiles = [draw_item(item) for item in items[number * size : (number + 1) * size]]
        caption = f"{heading}: page {number + 1} of {count}"
        write_png(_page(tiles, caption, notice), folder / name)
    for old in folder.glob(f"{stem}_[0-9][0-9]*.png"):
        if old.name not in names:
            old.unlink()
    return names


_STYLE = (
    "body{background:#181818;color:#ddd;font-family:sans-serif;margin:2em auto;max-width:1640px;padding:0 1em}"
    "img{max-width:100%}.notice{color:#ffaa78;font-weight:bold}a{color:#9cf}"
)


def _index(title: str, notice: str | None, sections: Sequence[tuple[str, int, int, Sequence[str]]]) -> str:
    """The index as HTML; a section has a heading, the number of items shown, their total and names of pages."""
    lines = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body><main>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    if notice:
        lines.append(f'<p class="notice">{html.escape(notice)}</p>')
    lines.append(
        "<p>Green and dashed: annotated. Yellow: detected, overlaps an annotated lesion enough. Red: false"
        " positive; if not every lesion is annotated, as in DeepLesion, it may still be a lesion. The"
        " grey square in the slice on the left is enlarged on the right.</p>"
    )
    for heading, shown, total, names in sections:
        lines += [f"<h2>{html.escape(heading)}</h2>", f"<p>{shown} of {total} shown.</p>"]
        lines += [f'<p><a href="{name}"><img src="{name}" alt="{html.escape(heading)}"></a></p>' for name in names]
    return "\n".join([*lines, "</main></body></html>", ""])


def write_gallery(
    items: Sequence[GalleryItem],
    output_dir: str | Path,
    *,
    title: str = "Hits, misses and false positives",
    notice: str | None = None,
    limit: int = 24,
) -> Path:
    """Write pages of pictures and an ``index.html`` that shows them.

    Args:
        items: Findings of any kind, in any order.
        output_dir: Folder to write to, created if needed; an earlier gallery there is replaced.
        title: Heading of the index, for example with the score threshold.
        notice: Notice for every viewer, e.g. that the data are synthetic; part of every picture.
        limit: Largest number of items of each kind.

    Returns:
        Path of the index.

    Raises:
        ValueError: If an item's kind is unknown or its slice has the wrong shape.
        OSError: If a slice cannot be read or a file not be written.
    """
    unknown = [item for item in items if item.kind not in KINDS]
    if unknown:
        raise ValueError(f"Expected items of kind {', '.join(KINDS)}, got {unknown[0].kind!r} for {unknown[0].name}.")
    folder = Path(output_dir)
    sections = []
    for kind, (_, heading) in KINDS.items():
        chosen = choose_items(items, kind, limit)
        names = _write_pages(chosen, kind, folder, notice)
        sections.append((heading, len(chosen), sum(item.kind == kind for item in items), names))
    index = folder / _INDEX
    text = _index(title, notice, sections)
    with replacing(index) as part:
        part.write_text(text, encoding="utf-8")
    return index
