"""Photographs with named boxes: detections yellow, truth green."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .box_drawing import DETECTION, TRUTH, Colour

Named = tuple[Sequence[float], str]


def draw_photograph(
    pixels: np.ndarray, detections: Sequence[Named], truths: Sequence[Named] = (), *, longer_side: int = 320
) -> Image.Image:
    """Draw boxes and their names on a photograph.

    Args:
        pixels: ``(H, W, 3)`` uint8, red, green, blue.
        detections: Boxes ``x1, y1, x2, y2`` in pixels of the photograph, each with its text.
        truths: The same as annotated; drawn underneath.
        longer_side: Of the picture, in pixels.

    Returns:
        The picture.
    """
    image = Image.fromarray(pixels)
    factor = longer_side / max(image.size)
    image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    canvas = ImageDraw.Draw(image)
    for box, text in truths:
        _draw(canvas, [value * factor for value in box], text, colour=TRUTH, width=3)
    for box, text in detections:
        _draw(canvas, [value * factor for value in box], text, colour=DETECTION, width=1)
    return image


def _draw(canvas: ImageDraw.ImageDraw, box: Sequence[float], text: str, *, colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = box
    canvas.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width)
    if text:
        place = (max(x1, 0.0) + 2, max(y1, 0.0) + 1)
        canvas.rectangle(canvas.textbbox(place, text), fill=(24, 24, 24))
        canvas.text(place, text, fill=colour)


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 3) -> Image.Image:
    """Put pictures side by side, row after row, on white.

    Raises:
        ValueError: If the picture is missing.
    """
    if not pictures:
        raise ValueError("Expected at least one picture to put on a sheet, got none.")
    width, height = max(each.width for each in pictures), max(each.height for each in pictures)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), (255, 255, 255))
    for place, each in enumerate(pictures):
        row, column = divmod(place, columns)
        sheet.paste(each, (column * width + (width - each.width) // 2, row * height + (height - each.height) // 2))
    return sheet
