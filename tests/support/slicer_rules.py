"""What 3D Slicer demands of markups files, for tests: the rules of its published schema 1.0.3, put down anew.

Keys that the schema does not name are allowed in it and here.
"""

from __future__ import annotations

from typing import Any

_TEXT, _FLAG, _NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "number"}
_POSITIVE = {"type": "number", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}


def _numbers(count: int, item: dict[str, Any] = _NUMBER) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": count, "maxItems": count}


_CODE = {"type": "array", "items": _TEXT, "minItems": 3, "maxItems": 3}
_POINT = {
    **dict.fromkeys(("id", "label", "description", "associatedNodeID"), _TEXT),
    **dict.fromkeys(("selected", "locked", "visibility"), _FLAG),
    "position": _numbers(3),
    "orientation": _numbers(9),
    "positionStatus": {"enum": ["undefined", "preview", "defined"]},
}
_DISPLAY = {
    **dict.fromkeys(("visibility", "propertiesLabelVisibility", "pointLabelsVisibility", "handlesInteractive"), _FLAG),
    **dict.fromkeys(("color", "selectedColor"), _numbers(3, _SHARE)),
    **dict.fromkeys(("textScale", "glyphScale", "lineThickness"), _POSITIVE),
    "opacity": _SHARE,
}
_MEASUREMENT = {
    **dict.fromkeys(("name", "description", "printFormat"), _TEXT),
    "enabled": _FLAG,
    "value": _NUMBER,
    "units": {"anyOf": [_TEXT, _CODE]},
}
_MARKUP = {
    "type": {"enum": ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve", "Plane", "ROI"]},
    **dict.fromkeys(("name", "labelFormat", "roiType"), _TEXT),
    "coordinateSystem": {"enum": ["LPS", "RAS"]},
    "coordinateUnits": {"anyOf": [{"enum": ["mm", "um"]}, _CODE]},
    **dict.fromkeys(("locked", "fixedNumberOfControlPoints"), _FLAG),
    **dict.fromkeys(("center", "size"), _numbers(3)),
    "orientation": _numbers(9),
    "controlPoints": {"type": "array", "items": {"type": "object", "properties": _POINT}},
    "measurements": {"type": "array", "items": {"type": "object", "properties": _MEASUREMENT}},
    "display": {"type": "object", "properties": _DISPLAY},
}
MARKUPS_RULES = {
    "type": "object",
    "required": ["@schema", "markups"],
    "properties": {
        "@schema": {"type": "string", "pattern": r"markups-schema-v1\.0\.3\.json#$"},
        "markups": {"type": "array", "items": {"type": "object", "required": ["type"], "properties": _MARKUP}},
    },
}
