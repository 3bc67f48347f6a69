"""Read boxes drawn by people: 3D Slicer's ROI markups from Slicer, MONAI Label or `run inferring`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.printable import shown, shown_name
from ...storage.safe_json import parse_json
from .scan import Scan

# A Slicer ROI that was never turned: its axes point to the right, to the back and up, or to the left, back and up.
_UNTURNED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# A box takes 1 kB or less.
MAX_BYTES = 1 << 26
_MILLIMETRES = ("mm", "millimeter", "millimeters", "")
# What Slicer, and `run inferring`, add to a name.
_NUMBER = re.compile(r"[-_ ]\d+( \([\d.]+\))?$")
# Nothing in a scanner is farther away in mm.
_FARTHEST = 1e5
_SIGNS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


def read_markups(path: str | Path) -> np.ndarray:
    """Read the box ROIs of a markups file without their names, see `read_named_markups`.

    Returns:
        ``(N, 8, 3)`` float64, the corners of each box in LPS mm.
    """
    return read_named_markups(path)[1]


def read_named_markups(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read the box ROIs of a markups file.

    Args:
        path: JSON with ``markups``, each of type ``ROI`` with ``center`` and ``size`` in mm and, if it was turned,
            ``orientation`` (its axes as the columns of a 3 x 3 matrix, row by row); LPS or RAS as the file declares.

    Returns:
        What each box is called, without the number that Slicer adds (``tumour-1``), ``""`` where it has no name; and
        ``(N, 8, 3)`` float64, its corners in LPS mm.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not such a file; the markup is named.
    """
    path = Path(path)
    # Messages leave out the folder: its path on a server must not be disclosed.
    if path.exists() and not path.is_file():
        raise ValueError(f"Expected boxes as Slicer markups (JSON), got no regular file: {path.name}.")
    with path.open("rb") as file:
        return parse_markups(file.read(MAX_BYTES + 1), path.name)


def parse_markups(data: bytes, where: str) -> tuple[list[str], np.ndarray]:
    """The box ROIs in the content of a markups file, see `read_named_markups`.

    Args:
        data: The content.
        where: What it is, for messages.

    Raises:
        ValueError: If it is not that of such a file; the markup is named.
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
        content = parse_json(data)
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"Expected boxes as Slicer markups (JSON), got something else in {where}: {error}.") from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list):
        raise ValueError(f"Expected boxes as Slicer markups, got no list 'markups' in {where}.")
    corners = [
        _corners(markup, f"markup {number} of {where}")
        for number, markup in enumerate(markups, start=1)
        if not _is_part(markup)
    ]
    names = [_name(markup) for markup in markups if not _is_part(markup)]
    return names, np.array(corners, dtype=np.float64).reshape(-1, 8, 3)


def _name(markup: Mapping[str, Any]) -> str:
    """The name of a markup, or of its control point, which Slicer calls after the markup."""
    points = markup.get("controlPoints")
    first = points[0] if isinstance(points, list) and points else None
    for named, key in ((markup, "name"), (first, "label")):
        text = named.get(key) if isinstance(named, Mapping) else None
        if isinstance(text, str) and text.strip():
            return _NUMBER.sub("", text.strip())
    return ""


def _is_part(markup: Any) -> bool:
    """Whether a markup is the outline or an axis that `run inferring` wrote next to the box it belongs to."""
    return isinstance(markup, Mapping) and markup.get("type") in ("ClosedCurve", "Line") and "partOf" in markup


def _corners(markup: Any, where: str) -> np.ndarray:
    if not isinstance(markup, Mapping) or markup.get("type", "ROI") != "ROI" or markup.get("roiType", "Box") != "Box":
        kind = type(markup).__name__
        if isinstance(markup, Mapping):
            kind = markup.get("roiType") if markup.get("type", "ROI") == "ROI" else markup.get("type")
        raise ValueError(f"Expected a box ROI, got {shown_name(kind)} as {where}.")
    centre = _numbers(markup, "center", 3, where)
    size = _numbers(markup, "size", 3, where)
    if (size <= 0).any():
        raise ValueError(f"Expected a size above zero, got {size.tolist()} as {where}.")
    axes = _numbers({"orientation": _UNTURNED, **markup}, "orientation", 9, where).reshape(3, 3)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise ValueError(f"Expected an orientation with axes at right angles, got {axes.ravel().tolist()} as {where}.")
    system = markup.get("coordinateSystem", "LPS")
    if system not in ("LPS", "RAS"):
        raise ValueError(f"Expected the coordinate system LPS or RAS, got {shown(system)} as {where}.")
    # One unit, or one of each axis, in Slicer's own words or as codes of UCUM.
    units = markup.get("coordinateUnits", "mm")
    if any(unit not in _MILLIMETRES for unit in (units if isinstance(units, list) else [units])):
        raise ValueError(f"Expected millimetres as coordinateUnits, got {shown(units)} as {where}.")
    return (centre + (_SIGNS * size) @ axes.T) * (1.0 if system == "LPS" else np.array([-1.0, -1.0, 1.0]))


def _numbers(markup: Mapping[str, Any], key: str, count: int, where: str) -> np.ndarray:
    try:
        values = np.array(markup.get(key), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.shape != (count,) or not (np.abs(values) <= _FARTHEST).all():
        raise ValueError(
            f"Expected {count} numbers as {key}, got {shown(markup.get(key))} as {where} (none beyond {_FARTHEST:g})."
        )
    return values


def boxes_in_scan(scan: Scan, corners: np.ndarray, where: str) -> np.ndarray:
    """The bounds of boxes along the axes of a scan.

    Args:
        scan: The scan.
        corners: ``(N, 8, 3)`` LPS mm.
        where: What the boxes belong to, for messages.

    Returns:
        ``(N, 6)`` float64 canonical edges ``x1, y1, z1, x2, y2, z2``, clipped to the scan.

    Raises:
        ValueError: If a box is outside the scan.
    """
    clipped = cut_boxes(bounds_of_corners(scan, corners), scan.hu.shape[::-1])
    outside = np.flatnonzero((clipped[:, 3:] <= clipped[:, :3]).any(axis=1))
    if len(outside):
        raise ValueError(f"Expected boxes inside the scan, but box {outside[0] + 1} of {where} is outside.")
    return clipped


def bounds_of_corners(scan: Scan, corners: np.ndarray) -> np.ndarray:
    """What `boxes_in_scan` returns, not clipped: boxes may reach beyond the scan, or be outside of it."""
    inverse = np.linalg.inv(scan.affine)
    points = corners @ inverse[:3, :3].T + inverse[:3, 3] + 0.5
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def cut_boxes(boxes: np.ndarray, extent: Sequence[int]) -> np.ndarray:
    """Boxes ``(..., 6)`` in voxels (edges), cut at the edges of an array of ``extent`` voxels."""
    return boxes.clip(0, np.tile(extent, 2))
