"""Read ``report.html`` back: a scan in approximate Hounsfield units, for programs that have no other copy of it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ....storage.safe_json import parse_json
from .report_page import BLEND, COARSE, FINE

# A page of 600 slices has 42 MB; we never write one ten times as large.
_MAX_BYTES = 1 << 29
# No millimetre of a scan is farther away.
_FARTHEST = 1e5
_DATA = re.compile(rb'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
_SLICE = re.compile(rb'<script type="text/plain" id="s(\d+)">([A-Za-z0-9+/=]*)</script>')


@dataclass(frozen=True)
class ReportVolume:
    """The scan of a report.

    Attributes:
        hu: ``(Z, H, W)`` int16, approximate: from compressed pictures, within -1350 and 2000 HU.
        affine: ``(4, 4)``, index (x, y, z) of the middle of a voxel to LPS mm.
        result: SHA-256 of the result that the page shows.
    """

    hu: np.ndarray
    affine: np.ndarray
    result: str


def read_report(path: Path, longest_side: int = 256) -> ReportVolume:
    """Read the scan of a ``report.html``.

    Args:
        path: The page.
        longest_side: Slices with more pixels along a side are reduced to so many.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not such a page, or of an older version.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"Expected a report.html, got {path} of {path.stat().st_size >> 20} MiB.")
    content = path.read_bytes()
    found = _DATA.search(content)
    try:
        if found is None:
            raise ValueError("it has no data")
        data = parse_json(found[1])
        depth, height, width = (int(number) for number in data["shape"])
        affine = np.array([*data["affine"], [0, 0, 0, 1]], dtype=np.float64)
        coded = {int(match[1]): match[2] for match in _SLICE.finditer(content)}
        if len(coded) != depth or set(coded) != set(range(depth)) or min(depth, height, width) < 1:
            raise ValueError("its slices are not those it names")
        if affine.shape != (4, 4) or not (np.abs(affine) <= _FARTHEST).all() or not np.linalg.det(affine):
            raise ValueError("its matrix is not that of a scan")
        scale = min(1.0, longest_side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        planes = [_plane(coded[z], data["picture"], size) for z in range(depth)]
        result = str(data["result"])
    except (TypeError, KeyError, ValueError, OverflowError, binascii.Error, cv2.error) as error:
        raise ValueError(
            f"Expected a report.html of this version of the bundle, cannot read {path}: {error}."
        ) from error
    across, down = width / size[0], height / size[1]
    reduced = np.array([[across, 0, 0, across / 2 - 0.5], [0, down, 0, down / 2 - 0.5], [0, 0, 1, 0], [0, 0, 0, 1]])
    return ReportVolume(np.stack(planes), affine @ reduced, result)


def _plane(coded: bytes, picture: Mapping[str, Any] | list[int], size: tuple[int, int]) -> np.ndarray:
    """One slice ``(H, W)`` int16, put together from its two pictures as the page does."""
    width, height, offset = (int(number) for number in picture)
    both = cv2.imdecode(np.frombuffer(base64.b64decode(coded, validate=True), np.uint8), cv2.IMREAD_GRAYSCALE)
    if both is None or both.shape != (offset + height, width):
        raise ValueError("a slice is not the picture it should be")
    values, greys = np.array(COARSE).T
    coarse = np.interp(np.arange(256), greys, values)[both[offset:]]
    fine = FINE[0] + both[:height] * ((FINE[1] - FINE[0]) / 255)
    hu = (coarse + np.interp(coarse, BLEND, (0, 1, 1, 0)) * (fine - coarse)).astype(np.float32)
    return cv2.resize(hu, size, interpolation=cv2.INTER_AREA).round().astype(np.int16)
