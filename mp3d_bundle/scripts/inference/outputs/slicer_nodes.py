"""Lesions as 3D Slicer markups: one ROI node per lesion, named and scored, where it lies in the patient.

Slicer (5.0 and later) opens ``lesions.mrk.json`` by drag and drop; the nodes appear in the Markups module in
the order of the scores. The file follows Slicer's markups schema 1.0.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..detections import Lesion, ScanResult
from ..scan_protocol import ScanLike
from .lesions_document import strict_json

# Slicer accepts a file by this name; nothing is fetched from there.
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_COLOUR = [1.0, 0.84, 0.16]
_SELECTED = [1.0, 0.6, 0.1]


def slicer_markups(result: ScanResult) -> dict[str, bytes]:
    """Write the lesions of a scan as ROI nodes in LPS millimetres.

    Args:
        result: What is known about the scan.

    Returns:
        ``lesions.mrk.json``.
    """
    axes = box_axes(result.scan)
    notice = " ".join(result.notices)
    pairs = zip(result.lesions, result.entries, strict=True)
    nodes = [_roi(result.scan, axes, lesion, entry, notice) for lesion, entry in pairs]
    content = {"@schema": SCHEMA, "notices": result.notices, "markups": nodes}
    return {"lesions.mrk.json": strict_json(content)}


def box_axes(scan: ScanLike) -> np.ndarray:
    """The directions of the scan's x, y, z as the columns of a rotation ``(3, 3)`` in LPS.

    The axes of a scan may be off a right angle by what its header rounds; the nearest rotation is given.
    """
    directions = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    return left @ right


def _roi(scan: ScanLike, axes: np.ndarray, lesion: Lesion, entry: Mapping[str, Any], notice: str) -> dict[str, Any]:
    centre = scan.points_to_lps((lesion.box[None, :3] + lesion.box[None, 3:]) / 2)[0]
    size = (lesion.box[3:] - lesion.box[:3]) * scan.spacing
    name = f"Lesion {entry['lesion']} ({entry['score']:.2f})"
    text = f"score {entry['score']:.4f}, {entry['num_slices']} slices. {notice}"
    position, orientation = _numbers(centre), _numbers(axes.ravel(), digits=9)
    point = {
        "id": "1",
        "label": name,
        "description": text,
        "associatedNodeID": "",
        "position": position,
        "orientation": orientation,
        "selected": True,
        "locked": True,
        "visibility": True,
        "positionStatus": "defined",
    }
    return {
        "type": "ROI",
        "name": name,
        "description": text,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "fixedNumberOfControlPoints": True,
        "labelFormat": "%N",
        "lastUsedControlPointNumber": 1,
        "roiType": "Box",
        "center": position,
        "orientation": orientation,
        "size": _numbers(size),
        "insideOut": False,
        "controlPoints": [point],
        "measurements": [
            _measurement("score", entry["score"], "confidence of the detector, 0 to 1"),
            *(
                [_measurement("probability", entry["probability"], "the calibrated score, 0 to 1")]
                if "probability" in entry
                else []
            ),
        ],
        "display": {
            "visibility": True,
            "opacity": 1.0,
            "color": _COLOUR,
            "selectedColor": _SELECTED,
            "propertiesLabelVisibility": True,
            "pointLabelsVisibility": False,
            "textScale": 3.0,
            "glyphScale": 1.0,
            "handlesInteractive": False,
        },
    }


def _measurement(name: str, value: float, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "enabled": True,
        "value": value,
        "units": "",
        "description": description,
        "printFormat": "%5.3f",
    }


def _numbers(values: Any, digits: int = 4) -> list[float]:
    return [round(float(value), digits) + 0.0 for value in values]
