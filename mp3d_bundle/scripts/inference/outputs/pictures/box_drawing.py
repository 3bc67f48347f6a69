"""Draw boxes on a CT slice.

Truth is green and dashed, detections are yellow, detections known to be wrong red; dashes show both
where they coincide and help colour-blind readers. Lines are thin and run just outside the
box, and a score is written next to its box, never on one, so that the lesion itself stays free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ....storage.atomic_files import replacing

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

TRUTH: Colour = (80, 230, 110)
DETECTION: Colour = (255, 215, 40)
WRONG: Colour = (255, 90, 80)
CLOSE_UP: Colour = (140, 140, 140)
_TEXT: Colour = (235, 235, 235)
_NOTICE: Colour = (255, 170, 120)
_STRIP: Colour = (24, 24, 24)
_RIM: Colour = (20, 20, 20)
# Slices whose longer side has fewer pixels are enlarged to this size.
SMALLEST_SIDE = 512
# DeepLesion's most frequent display window (soft tissue), for images that name none.
_SOFT_TISSUE = (-175.0, 275.0)
_DASH = 5
_FONT_SIZE = 14
_LEGEND = {
    TRUTH: "annotated",
    DETECTION: "detected (score)",
    WRONG: "false positive",
    CLOSE_UP: "shown next to it, around the box of the caption",
}


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib includes a font, so that pictures look the same on every machine.
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _check_slice(hu_slice: np.ndarray) -> None:
    if hu_slice.ndim != 2 or hu_slice.size == 0:
        raise ValueError(f"Expected a slice of shape (H, W), got {hu_slice.shape}.")


def display_window(image: Mapping[str, Any]) -> tuple[float, float]:
    """Lowest and highest HU to show of a record or a case: its own ``window``, or soft tissue if it names none."""
    low, high = image.get("window") or _SOFT_TISSUE
    return float(low), float(high)


def window_slice(hu_slice: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Map a CT slice to grey values.

    Args:
        hu_slice: ``(H, W)`` Hounsfield units.
        window: Lowest and highest value shown, in HU: black and white.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        ValueError: If the slice is not two-dimensional or the window is empty.
    """
    _check_slice(hu_slice)
    low, high = window
    if not high > low:
        raise ValueError(f"Expected a window (low, high) in HU with low < high, got {tuple(window)}.")
    grey = (hu_slice.astype(np.float32) - low) * (255.0 / (high - low))
    return np.clip(np.nan_to_num(grey), 0, 255).round().astype(np.uint8)


def _resize(hu_slice: np.ndarray, longer_side: int | None) -> tuple[np.ndarray, float, float]:
    """Resize so that the longer side has ``longer_side`` pixels; also the factors in x and y."""
    height, width = hu_slice.shape
    factor = (longer_side or max(height, width, SMALLEST_SIDE)) / max(height, width)
    if factor == 1.0:
        return hu_slice, 1.0, 1.0
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return cv2.resize(hu_slice.astype(np.float32), size, interpolation=method), size[0] / width, size[1] / height


def _frames(boxes: Any, factor_x: float, factor_y: float) -> list[Rectangle]:
    """Rectangles of pixels that run just outside half-open boxes."""
    edges = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * [factor_x, factor_y, factor_x, factor_y]
    return [(float(np.floor(x1)) - 1, float(np.floor(y1)) - 1, float(np.ceil(x2)), float(np.ceil(y2)))
            for x1, y1, x2, y2 in edges]  # fmt: skip


def _draw_dashed(canvas: ImageDraw.ImageDraw, frame: Rectangle, colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = frame
    for start in np.arange(x1, x2, 2 * _DASH):
        for y in (y1, y2):
            canvas.line([(start, y), (min(start + _DASH, x2), y)], fill=colour, width=width)
    for start in np.arange(y1, y2, 2 * _DASH):
        for x in (x1, x2):
            canvas.line([(x, start), (x, min(start + _DASH, y2))], fill=colour, width=width)


def _draw_lines(canvas: ImageDraw.ImageDraw, lines: Sequence[np.ndarray], colour: Colour, width: int) -> None:
    """Draw lines ``(P, 2)`` in pixel edges of the picture, each with a dark rim."""
    # Edges of pixels lie half a pixel before their centres.
    corners = [[(float(x), float(y)) for x, y in points - 0.5] for points in lines]
    for each in corners:
        canvas.line(each, fill=_RIM, width=width + 2, joint="curve")
    for each in corners:
        canvas.line(each, fill=colour, width=width, joint="curve")


def _overlap(first: Rectangle, second: Rectangle) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def _place(frame: Rectangle, text_size: tuple[float, float], taken: Iterable[Rectangle], image: Rectangle) -> Rectangle:
    """Find a place for a label next to a frame: the one that covers least of the occupied area."""
    x1, y1, x2, y2 = frame
    width, height = text_size
    gap = 2.0
    corners = [
        (x1, y1 - height - gap),
        (x1, y2 + gap),
        (x2 - width, y1 - height - gap),
        (x2 - width, y2 + gap),
        (x2 + gap + 1, y1),
        (x1 - width - gap - 1, y1),
        (x2 + gap + 1, y2 - height),
        (x1 - width - gap - 1, y2 - height),
    ]
    taken = list(taken)
    places: list[tuple[float, int, Rectangle]] = []
    for order, (x, y) in enumerate(corners):
        x = float(np.clip(x, image[0], max(image[2] - width, image[0])))
        y = float(np.clip(y, image[1], max(image[3] - height, image[1])))
        place = (x, y, x + width, y + height)
        places.append((sum(_overlap(place, other) for other in taken), order, place))
    return min(places)[2]


def _draw_scores(
    canvas: ImageDraw.ImageDraw,
    labels: Sequence[tuple[Rectangle, str, Colour]],
    frames: Sequence[Rectangle],
    image: Rectangle,
) -> None:
    # A large picture is viewed from a distance.
    font = _font(round(_FONT_SIZE * max(1.0, max(image) / 768)))
    taken = list(frames)
    for frame, text, colour in labels:
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font, stroke_width=1)
        place = _place(frame, (right - left, bottom - top), taken, image)
        canvas.text(
            (place[0] - left, place[1] - top), text, font=font, fill=colour, stroke_width=1, stroke_fill=(0, 0, 0)
        )
        taken.append(place)


def draw_boxes(
    hu_slice: np.ndarray,
    predicted: Mapping[str, Any] | None,
    true_boxes: Any = None,
    *,
    window: tuple[float, float],
    caption: str | None = None,
    longer_side: int | None = None,
) -> np.ndarray:
    """Draw detections and truth on a CT slice.

    Args:
        hu_slice: ``(H, W)`` Hounsfield units.
        predicted: Detections to draw: ``boxes`` ``(M, 4)`` in pixels of the slice, ``scores`` ``(M,)``
            and, if known, ``hit`` ``(M,)`` bool (False is drawn as wrong) and ``lines``, M lists of lines ``(P, 2)``
            in pixels of the slice that are drawn in place of the box; None for none.
        true_boxes: ``(N, 4)`` annotated boxes in pixels of the slice; None without annotations.
        window: Lowest and highest value shown, in HU.
        caption: Text for a strip below the slice, with the key to the colours; None for no strip.
        longer_side: Resize the slice so that its longer side has this many pixels; by default a slice of
            fewer than 512 is enlarged to 512 and a larger one keeps its size.

    Returns:
        ``(H', W', 3)`` uint8 RGB.

    Raises:
        ValueError: If the slice is not ``(H, W)``, the window is empty or a detection has no score.
    """
    _check_slice(hu_slice)
    shown, factor_x, factor_y = _resize(hu_slice, longer_side)
    picture = Image.fromarray(window_slice(shown, window)).convert("RGB")
    canvas = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 700))
    truth = _frames(true_boxes if true_boxes is not None else [], factor_x, factor_y)
    found = _frames(predicted["boxes"] if predicted is not None else [], factor_x, factor_y)
    scores = np.asarray(predicted["scores"] if predicted is not None else [], dtype=np.float64).reshape(-1)
    if len(scores) != len(found):
        raise ValueError(f"Expected one score per box, got {len(scores)} scores and {len(found)} boxes.")
    hit = np.ones(len(found), dtype=bool)
    if predicted is not None and predicted.get("hit") is not None:
        hit = np.asarray(predicted["hit"], dtype=bool)
    colours = [DETECTION if right else WRONG for right in hit]
    drawn_lines = [*(predicted or {}).get("lines", [])] or [[] for _ in found]
    boxed = [at for at, lines in enumerate(drawn_lines) if not len(lines)]
    for x1, y1, x2, y2 in [*(found[at] for at in boxed), *truth]:
        # A dark rim outside the line keeps it visible on bright tissue.
        canvas.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_RIM)
    for at in boxed:
        canvas.rectangle(found[at], outline=colours[at], width=line)
    for lines, colour in zip(drawn_lines, colours, strict=True):
        _draw_lines(canvas, [points * [factor_x, factor_y] for points in lines], colour, line)
    for frame in truth:
        _draw_dashed(canvas, frame, TRUTH, line)
    labels = [(frame, f"{score:.2f}", colour) for frame, score, colour in zip(found, scores, colours, strict=True)]
    _draw_scores(canvas, labels, [*found, *truth], (0.0, 0.0, float(picture.width), float(picture.height)))
    drawn = np.asarray(picture)
    if caption is None:
        return drawn
    return add_caption(drawn, caption, legend=[*([TRUTH] if truth else []), *dict.fromkeys(colours)])


def mark_sides(image: np.ndarray) -> np.ndarray:
    """Write R and A on the edges of an axial picture in radiological view: patient's right and front.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, the patient's right at the left edge, the front at the top.

    Returns:
        The same with the letters.
    """
    picture = Image.fromarray(image)
    canvas = ImageDraw.Draw(picture)
    font = _font(round(_FONT_SIZE * max(1.0, max(picture.size) / 768)))
    style: dict[str, Any] = {"font": font, "fill": _TEXT, "stroke_width": 1, "stroke_fill": (0, 0, 0)}
    canvas.text((6, picture.height / 2), "R", anchor="lm", **style)
    canvas.text((picture.width / 2, 4), "A", anchor="mt", **style)
    return np.asarray(picture)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in _short_enough(paragraph.split(), font, width):
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _short_enough(words: Sequence[str], font: ImageFont.FreeTypeFont, width: float) -> Iterator[str]:
    """Words, those that are wider than a line in parts, such as a UID."""
    for word in words:
        while font.getlength(word) > width and len(word) > 1:
            fitting = (count for count in range(len(word) - 1, 0, -1) if font.getlength(word[:count]) <= width)
            end = next(fitting, 1)
            yield word[:end]
            word = word[end:]
        yield word


def add_caption(
    image: np.ndarray, caption: str, *, legend: Sequence[Colour] = (), notice: str | None = None
) -> np.ndarray:
    """Add a strip with text below a picture.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        caption: Text; wrapped to the width, a longer word in parts; line breaks are kept.
        legend: Colours to explain, of `TRUTH`, `DETECTION`, `WRONG` and `CLOSE_UP`.
        notice: Text below the rest in another colour, for notices.

    Returns:
        ``(H + strip, W, 3)`` uint8 RGB.
    """
    font = _font(_FONT_SIZE)
    margin, step = 8, round(_FONT_SIZE * 1.35)
    room = image.shape[1] - 2 * margin
    lines = [(line, _TEXT) for line in _wrap(caption, font, room)]
    notices = [(line, _NOTICE) for line in _wrap(notice or "", font, room)]
    names = [(colour, _LEGEND[colour]) for colour in legend]
    # If the picture is too narrow, the key has a line for each name.
    wide = sum(font.getlength(name) + 3 * _FONT_SIZE for _, name in names) <= room
    rows = (1 if wide else len(names)) if names else 0
    strip = Image.new("RGB", (image.shape[1], (len(lines) + rows + len(notices)) * step + margin), _STRIP)
    canvas = ImageDraw.Draw(strip)
    x, y = margin, margin // 2
    for line, colour in lines:
        canvas.text((x, y), line, font=font, fill=colour)
        y += step
    for colour, name in names:
        sample = (float(x), float(y + 3), float(x + _FONT_SIZE), float(y + _FONT_SIZE))
        if colour == TRUTH:
            _draw_dashed(canvas, sample, colour, 1)
        else:
            canvas.rectangle(sample, outline=colour)
        canvas.text((x + _FONT_SIZE + 6, y), name, font=font, fill=colour)
        x, y = (x + round(font.getlength(name)) + 3 * _FONT_SIZE, y) if wide else (margin, y + step)
    y += step if names and wide else 0
    for line, colour in notices:
        canvas.text((margin, y), line, font=font, fill=colour)
        y += step
    return np.concatenate([image, np.asarray(strip)])


def write_png(image: np.ndarray, path: Path) -> None:
    """Write an ``(H, W, 3)`` uint8 RGB picture as PNG, whole or not at all.

    Raises:
        OSError: If the file cannot be written; the message names it.
    """
    with replacing(path) as part:
        Image.fromarray(image).save(part, format="PNG")
