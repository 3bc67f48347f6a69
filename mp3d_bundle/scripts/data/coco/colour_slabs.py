"""Photographs as slabs: the three colours are three slices of one channel (paper section 2.2)."""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

COLOURS = "RGB"
# Eight bits a colour; deeper ones would be cut off, not scaled, on their way to RGB.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# Errors that a damaged file can raise in addition to OSError, depending on which byte is wrong.
_DAMAGES = (OSError, SyntaxError, ValueError, TypeError, EOFError, KeyError, IndexError, OverflowError, struct.error)


def read_colour(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a photograph of any common kind: colour, grey, palette, CMYK, with transparency (which is left out).

    Cameras store some pictures rotated and record that (EXIF orientation). They are rotated upright, as in the
    released code, unless only the stored orientation has the size that the labels give.

    Args:
        path: The image file.
        size: ``(height, width)`` that the labels give; None for any.

    Returns:
        ``(H, W, 3)`` uint8, red, green, blue.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not an image, is damaged or truncated, has more than 8 bits a colour, or another size.
    """
    try:
        with Image.open(path) as stored:
            stored.load()
            if stored.mode not in _MODES:
                raise ValueError(f"expected 8 bits a colour, its mode is {stored.mode}")
            upright = ImageOps.exif_transpose(stored)
            picture = stored if size is not None and _size(upright) != size and _size(stored) == size else upright
            pixels = np.asarray(picture.convert(COLOURS))
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected an image at {path}, but the file does not exist.") from None
    except (*_DAMAGES, Image.DecompressionBombError) as error:
        raise ValueError(f"Expected a complete image, cannot read {path}: {error}.") from error
    if size is not None and pixels.shape[:2] != size:
        raise ValueError(
            f"Expected an image of {size[1]} x {size[0]} pixels (width x height) as in its labels, got "
            f"{pixels.shape[1]} x {pixels.shape[0]} in {path}."
        )
    return pixels


def _size(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width


class ColourSlabReader:
    """Read a photograph as a slab of three slices.

    Args:
        order: The colours in the order of the slices: ``"BGR"`` as in the released code, ``"RGB"``, or any other.

    Raises:
        ValueError: If the order does not name each of the three colours once.
    """

    num_slices = 3

    def __init__(self, order: str = "BGR") -> None:
        if not isinstance(order, str) or sorted(order) != sorted(COLOURS):
            raise ValueError(f"Expected an order of the colours R, G and B, such as BGR, got {order!r}.")
        self.order = order
        self._places = [COLOURS.index(colour) for colour in order]

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """Read the image of a record (see `scripts.data.coco.coco_instances`).

        Returns:
            ``(3, H, W)`` float32 from 0 to 255.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file cannot be used, or its size is not the one in the labels; see `read_colour`.
        """
        pixels = read_colour(record["image"], tuple(record["image_size"]))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[self._places], dtype=np.float32)
