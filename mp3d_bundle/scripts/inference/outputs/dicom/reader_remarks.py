"""What a reader added to a lesion in a review, for a structured report: a comment, and measurements of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from highdicom import sr
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

ATTENUATION = CodedConcept("112031", "DCM", "Attenuation Coefficient")
APPROXIMATE = "Measured by a reader on compressed pictures: approximate."


def comment(text: str) -> sr.TextContentItem:
    """A comment as a part of a measurement group."""
    return sr.TextContentItem(codes.DCM.Comment, text, sr.RelationshipTypeValues.CONTAINS)


def reader_measurements(entry: Mapping[str, Any], frame: str) -> list[sr.Measurement]:
    """The measurements of a reader for a lesion.

    Args:
        entry: The entry of the lesion in ``lesions.json``.
        frame: UID of the frame of reference.

    Returns:
        Lengths and axes with the lines they were measured along; of regions the mean, the standard deviation and the
        area.
    """
    found: list[sr.Measurement] = []
    for one in entry.get("review", {}).get("measurements", ()):
        points = np.array(one["points_lps_mm"])
        if one["tool"] == "roi":
            hounsfield = codes.UCUM.HounsfieldUnit
            found += [
                sr.Measurement(ATTENUATION, one["mean_hu"], hounsfield, derivation=codes.SCT.Mean),
                sr.Measurement(ATTENUATION, one["sd_hu"], hounsfield, derivation=codes.SCT.StandardDeviation),
                sr.Measurement(codes.SCT.Area, one["area_mm2"], codes.UCUM.SquareMillimeter),
            ]
        elif one["tool"] == "ruler":
            found.append(_line(codes.SCT.Length, one["length_mm"], points, frame))
        else:
            lines = sorted((points[:2], points[2:]), key=lambda line: -np.linalg.norm(line[1] - line[0]))
            found.append(_line(codes.SCT.LongAxis, one["long_axis_mm"], lines[0], frame))
            found.append(_line(codes.SCT.ShortAxis, one["short_axis_mm"], lines[1], frame))
    return found


def _line(name: Any, length: float, points: np.ndarray, frame: str) -> sr.Measurement:
    line = sr.CoordinatesForMeasurement3D(sr.GraphicTypeValues3D.POLYLINE, points, frame)
    return sr.Measurement(
        name, length, codes.UCUM.Millimeter, derivation=codes.SCT.Measured, referenced_coordinates=[line]
    )
