"""Lesions as 3D Slicer markups: one ROI node per lesion, named and scored, at its position in the patient.

Where the network measures, the outline in the best slice is a closed curve and both axes are lines, next to the ROI.
Slicer (5.0 and later) opens ``lesions.mrk.json`` by drag and drop; the nodes appear in the Markups module in
the order of the scores. The file follows Slicer's markups schema 1.0.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...storage.safe_json import Json
from ..detections import Lesion, ScanResult
from ..lesion_outlines import outline_of
from ..scan_protocol import ScanLike
from .lesions_document import strict_json
from .measurements import in_slice, region_text, size_text, tags_text
from .measurements import plain_numbers as _numbers
from .named_classes import class_text
from .source_names import image_text

# Slicer recognises the schema by this name; nothing is downloaded from there.
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_COLOUR = [1.0, 0.84, 0.16]
_SELECTED = [1.0, 0.6, 0.1]


def slicer_markups(result: ScanResult) -> dict[str, bytes]:
    """Write the lesions of a scan as ROI nodes in LPS millimetres.

    Args:
        result: The results of the scan.

    Returns:
        ``lesions.mrk.json``: the ROI nodes, then the curves and lines.
    """
    return {"lesions.mrk.json": markups_file(result, [node for _, node in markup_nodes(result)])}


def markup_nodes(result: ScanResult) -> list[tuple[int, dict[str, Json]]]:
    """The nodes of a scan with the numbers of their lesions: the ROI nodes, then the curves and lines."""
    axes = box_axes(result.scan)
    notice = " ".join(result.notices)
    pairs = list(zip(result.lesions, result.entries, strict=True))
    boxes = [(entry["lesion"], _roi(result.scan, axes, lesion, entry, notice)) for lesion, entry in pairs]
    drawn = [(entry["lesion"], node) for lesion, entry in pairs for node in _drawn(result, lesion, entry, notice)]
    return [*boxes, *drawn]


def markups_file(result: ScanResult, nodes: Sequence[dict[str, Json]]) -> bytes:
    """A file that holds nodes, the notices, and the name of the series."""
    series = {"series": named} if (named := result.document.get("input", {}).get("dicom")) else {}
    return strict_json({"@schema": SCHEMA, "notices": result.notices, **series, "markups": list(nodes)})


def box_axes(scan: ScanLike) -> np.ndarray:
    """The directions of the scan's x, y, z as the columns of a rotation ``(3, 3)`` in LPS.

    Rounding in the header may turn the axes off a right angle; the nearest rotation is returned.
    """
    directions = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    return left @ right


def _drawn(result: ScanResult, lesion: Lesion, entry: Mapping[str, Any], notice: str) -> list[dict[str, Json]]:
    """The outline and the axes of a lesion in its best slice, as far as the network gives them."""
    measured = entry.get("axes", {}).get("source", "box") != "box"
    outline = outline_of(result.found, lesion.best(result.found), result.scan.spacing) if measured else None
    if outline is None:
        return []
    long, short = (f"{length:.1f} mm, " for length in outline.lengths_mm)
    parts = [] if outline.polygon is None else [("ClosedCurve", "outline", "", outline.polygon)]
    if outline.axes is not None:
        parts += [("Line", "long axis", long, outline.axes[:2]), ("Line", "short axis", short, outline.axes[2:])]
    height = float(result.found.positions[lesion.key]) + 0.5
    nodes = []
    for kind, name, length, points in parts:
        places = result.scan.points_to_lps(in_slice(points, height))
        text = f"{length}source: {outline.source}. {notice}"
        nodes.append({**_node(kind, f"Lesion {entry['lesion']} {name}", text, places), "partOf": entry["lesion"]})
    return nodes


def _heading(kind: str, name: str, text: str) -> dict[str, Json]:
    """What every markup says first."""
    return {
        "type": kind,
        "name": name,
        "description": text,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "fixedNumberOfControlPoints": True,
    }


def _node(kind: str, name: str, text: str, places: np.ndarray) -> dict[str, Json]:
    """A curve or a line through places ``(P, 3)`` in LPS mm."""
    points = [{"id": str(number), "label": f"{name}-{number}", "position": _numbers(place), "locked": True,
               "positionStatus": "defined"} for number, place in enumerate(places, start=1)]  # fmt: skip
    return {
        **_heading(kind, name, text),
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": points,
        "display": {
            "visibility": True,
            "color": _COLOUR,
            "selectedColor": _SELECTED,
            "propertiesLabelVisibility": False,
            "pointLabelsVisibility": False,
            "glyphScale": 0.3,
        },
    }


def _roi(scan: ScanLike, turn: np.ndarray, lesion: Lesion, entry: Mapping[str, Any], notice: str) -> dict[str, Json]:
    """The box of a lesion."""
    centre = scan.points_to_lps((lesion.box[None, :3] + lesion.box[None, 3:]) / 2)[0]
    size = (lesion.box[3:] - lesion.box[:3]) * scan.spacing
    name = f"Lesion {entry['lesion']} ({entry['score']:.2f})"
    found = f"{entry['num_slices']} slices{image_text(entry)}{region_text(entry)}{tags_text(entry)}"
    text = f"score {entry['score']:.4f}{class_text(entry)}, {size_text(entry)}{found}. {notice}"
    position, orientation = _numbers(centre), _numbers(turn.ravel(), digits=9)
    return {
        **_heading("ROI", name, text),
        "labelFormat": "%N",
        "lastUsedControlPointNumber": 1,
        "roiType": "Box",
        "center": position,
        "orientation": orientation,
        "size": _numbers(size),
        "insideOut": False,
        "controlPoints": [_centre(name, text, position, orientation)],
        "measurements": _measurements(entry),
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


def _centre(name: str, text: str, position: list[float], orientation: list[float]) -> dict[str, Json]:
    """The only control point of a box."""
    return {
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


def _measurements(entry: Mapping[str, Any]) -> list[dict[str, Json]]:
    """What Slicer lists next to a box. Sizes from the box itself stay estimates, in words."""
    found = [_measurement("score", entry["score"], "confidence of the detector, 0 to 1")]
    if "probability" in entry:
        found.append(_measurement("probability", entry["probability"], "the calibrated score, 0 to 1"))
    axes = entry.get("axes", {"source": "box"})
    if axes["source"] != "box":
        found += [
            _measurement(f"{name} axis", axes[f"{name}_axis_mm"], f"source: {axes['source']}", "mm")
            for name in ("long", "short")
        ]
    return found


def _measurement(name: str, value: float, description: str, units: str = "") -> dict[str, Json]:
    return {
        "name": name,
        "enabled": True,
        "value": value,
        "units": units,
        "description": description,
        "printFormat": "%5.3f",
    }
