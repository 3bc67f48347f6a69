"""The numbers and tags of a lesion for a structured report (DICOM PS3.16, TID 300 and TID 1419).

Long and short axis say how they came about: Derivation is measured or estimated, and a parameter of the algorithm names
the source. Tags and classes have no public codes: theirs are of the scheme ``99MP3D``, with the place among all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from highdicom import sr
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

SCORE = CodedConcept("246262008", "SCT", "Score")
SCHEME = "99MP3D"
TAG = CodedConcept("tag", SCHEME, "Tag of the network")
CLASS = CodedConcept("class", SCHEME, "Class of the network")
_AXES = {"long_axis": codes.SCT.LongAxis, "short_axis": codes.SCT.ShortAxis}
_REGIONS = {
    "head and neck": codes.SCT.HeadAndNeck,
    "chest": codes.SCT.Chest,
    "abdomen": codes.SCT.Abdomen,
    "pelvis": codes.SCT.Pelvis,
    "limbs": codes.SCT.Extremity,
}
# Meanings of codes end after 64 characters.
_MEANING = 64


def measurements(
    entry: Mapping[str, Any],
    image: sr.SourceImageForMeasurement,
    algorithm: sr.AlgorithmIdentification,
    tags: Sequence[str],
) -> list[sr.Measurement]:
    """Score, probability where the weights have a calibration, both axes, an estimate of the volume, scores of tags.

    Args:
        entry: The entry of the lesion in ``lesions.json``.
        image: The image of its best slice.
        algorithm: What found it.
        tags: Names of all tags.
    """
    found = [sr.Measurement(SCORE, entry["score"], codes.UCUM.NoUnits, referenced_images=[image])]
    if "probability" in entry:
        percent = round(100 * entry["probability"], 2)
        found.append(sr.Measurement(codes.DCM.CertaintyOfFinding, percent, codes.UCUM.Percent))
    found += [_axis(name, entry["axes"], algorithm, referenced_images=[image]) for name in _AXES]
    volume = entry["volume"]
    found.append(
        sr.Measurement(
            codes.SCT.Volume,
            volume["estimate_ml"],
            codes.UCUM.CubicCentimeter,
            derivation=codes.SCT.Estimated,
            algorithm_id=_source(algorithm, volume["source"]),
        )
    )
    for tag in entry.get("tags", ()):
        name = CodedConcept(f"score{_place(tag, tags)}", SCHEME, f"Score of tag: {tag['tag']}"[:_MEANING])
        found.append(sr.Measurement(name, tag["score"], codes.UCUM.NoUnits))
    return found


def lines(entry: Mapping[str, Any], frame: str, algorithm: sr.AlgorithmIdentification) -> list[sr.Measurement]:
    """Both axes with the lines that they were measured along; none where a box is all that is known.

    Groups of regions may not hold them: they make a group of their own.

    Args:
        entry: The entry of the lesion in ``lesions.json``.
        frame: UID of the frame of reference.
        algorithm: What found it.
    """
    found = []
    for name in _AXES:
        if (ends := entry["axes"].get(f"{name}_lps_mm")) is not None:
            line = sr.CoordinatesForMeasurement3D(sr.GraphicTypeValues3D.POLYLINE, np.array(ends), frame)
            found.append(_axis(name, entry["axes"], algorithm, referenced_coordinates=[line]))
    return found


def _axis(
    name: str, axes: Mapping[str, Any], algorithm: sr.AlgorithmIdentification, **references: Any
) -> sr.Measurement:
    return sr.Measurement(
        _AXES[name],
        axes[f"{name}_mm"],
        codes.UCUM.Millimeter,
        derivation=codes.SCT.Estimated if axes["source"] == "box" else codes.SCT.Measured,
        algorithm_id=_source(algorithm, axes["source"]),
        **references,
    )


def _source(algorithm: sr.AlgorithmIdentification, source: str) -> sr.AlgorithmIdentification:
    """The algorithm, with where it takes a size from as its parameter."""
    return sr.AlgorithmIdentification(algorithm[0].value, algorithm[1].value, parameters=[f"source={source}"])


def _place(tag: Mapping[str, Any], tags: Sequence[str]) -> int:
    return list(tags).index(tag["tag"]) + 1


def sites(entry: Mapping[str, Any]) -> list[sr.FindingSite] | None:
    """The region of a lesion as its finding site; None where it is unknown."""
    code = _REGIONS.get(entry["region"]["name"])
    return None if code is None else [sr.FindingSite(code)]


def evaluations(
    entry: Mapping[str, Any], tags: Sequence[str], classes: Sequence[str] = ()
) -> list[sr.QualitativeEvaluation]:
    """The class of a lesion, where the network distinguishes several, and its tags, best first.

    Args:
        entry: The entry of the lesion in ``lesions.json``.
        tags: Names of all tags; the place of a tag among them is its code.
        classes: Names of all classes, likewise.
    """
    own = []
    if "class" in entry:
        place = list(classes).index(entry["class"]) + 1
        value = CodedConcept(f"class{place}", SCHEME, entry["class"][:_MEANING])
        own.append(sr.QualitativeEvaluation(CLASS, value))
    coded = [CodedConcept(f"tag{_place(tag, tags)}", SCHEME, tag["tag"][:_MEANING]) for tag in entry.get("tags", ())]
    return [*own, *(sr.QualitativeEvaluation(TAG, value) for value in coded)]
