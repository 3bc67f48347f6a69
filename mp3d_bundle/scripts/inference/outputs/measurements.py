"""Size, outline and tags of lesions as plain data: outputs of a network beyond boxes, and the source of the sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..detections import LABELS, Lesion, SliceBoxes
from ..lesion_outlines import MASKS, MEASURED, Outline, fits, outline_of, polygon_area
from ..scan_protocol import ScanLike

TAG_SCORES = "tag_scores"
# Cubic millimetres of a millilitre.
MM3 = 1000.0
# Scores from which a tag is named unless the weights want otherwise.
TAG_THRESHOLD = 0.5


@dataclass(frozen=True)
class Tagging:
    """Which tags are named.

    Attributes:
        names: Of all tags, in the order of the scores.
        threshold: Scores from which one is named, one number or one for each.
    """

    names: tuple[str, ...] = ()
    threshold: float | Sequence[float] = TAG_THRESHOLD

    def named(self, scores: np.ndarray) -> list[dict[str, Any]]:
        """The tags whose scores ``(T,)`` reach the threshold, best first."""
        rows = np.flatnonzero(scores >= np.asarray(self.threshold, dtype=np.float64))
        ordered = rows[np.argsort(-scores[rows], kind="stable")].tolist()
        return [{"tag": self.names[row], "score": round(float(scores[row]), 4)} for row in ordered]


def said_otherwise(name: str, value: np.ndarray) -> bool:
    """Whether a field of one box is written in another form than its own."""
    if name == LABELS:
        return True
    return np.ndim(value) == 1 if name == TAG_SCORES else name in MEASURED and fits(name, value)


def tagging_for(found: SliceBoxes, model: Mapping[str, Any], settings: Mapping[str, Any]) -> Tagging | None:
    """The tags of a network; None for one that gives none.

    Args:
        found: What it found; its field ``tag_scores`` ``(N, T)`` counts.
        model: The facts of its weights; the names are ``tags`` of the recipe.
        settings: ``tag_threshold``, a number or T of them; the weights' own, else `TAG_THRESHOLD`, where it is None.

    Raises:
        ValueError: If there are other than T names or thresholds, or a threshold is not a number from 0 to 1.
    """
    if np.ndim(found.fields.get(TAG_SCORES, 0)) != 2:
        return None
    count = found.fields[TAG_SCORES].shape[1]
    named = (model.get("recipe") or {}).get("tags") or [f"tag {number}" for number in range(1, count + 1)]
    threshold = settings.get("tag_threshold")
    if threshold is None:
        threshold = (model.get("inference") or {}).get("tag_threshold", TAG_THRESHOLD)
    listed = list(threshold) if isinstance(threshold, (list, tuple)) else [threshold] * count
    for what, number in (("names", len(named)), ("thresholds", len(listed))):
        if number != count:
            raise ValueError(f"Expected {count} {what} of tags, as many as the network scores, got {number}.")
    if not all(type(each) in (int, float) and 0 <= each <= 1 for each in listed):
        raise ValueError(f"Expected a threshold of tags from 0 to 1, or a list of such, got {str(threshold)[:100]}.")
    return Tagging(tuple(map(printable, named)), threshold)


def printable(name: Any) -> str:
    """The name of a tag or class in a form that every file can store; weights are untrusted."""
    letters = (letter if letter.isprintable() and letter != "\\" else " " for letter in str(name))
    return "".join(letters).strip() or "unnamed"


def tagging_in(document: Mapping[str, Any]) -> Tagging | None:
    """The tags that a document was written with, see `tagging_for`."""
    names = document["model"].get("tags")
    return None if names is None else Tagging(tuple(names), document["settings"]["tag_threshold"])


def describe_box(scan: ScanLike, found: SliceBoxes, row: int, tagging: Tagging | None = None) -> dict[str, Any]:
    """Further outputs of the network for a slice box, by key; an empty dict if there are none."""
    measured = any(name in found.fields for name in MEASURED)
    outline = outline_of(found, row, scan.spacing) if measured else None
    scores = found.fields.get(TAG_SCORES)
    return {
        **({} if outline is None else _described(scan, outline, float(found.positions[found.slices[row]]) + 0.5)),
        **({} if tagging is None or scores is None else {"tags": tagging.named(scores[row])}),
    }


def volume(scan: ScanLike, found: SliceBoxes, lesion: Lesion) -> dict[str, Any]:
    """An estimate of the volume of a lesion, and where it is from.

    Of masks the areas of the outlines count, each as thick as a slice that the network saw; of boxes the ellipsoid that
    fits the 3D box.
    """
    outlines = [outline_of(found, row, scan.spacing) for row in lesion.members] if MASKS in found.fields else []
    polygons = [None if one is None else one.polygon for one in outlines]
    if polygons and polygons[lesion.members.index(lesion.best(found))] is not None:
        solid = found.solid()[list(lesion.members)]
        heights = (solid[:, 5] - solid[:, 2]) * scan.spacing[2]
        areas = [0.0 if one is None else polygon_area(one * scan.spacing[:2]) for one in polygons]
        return {"source": "mask", "estimate_ml": round(float(np.dot(areas, heights)) / MM3, 4)}
    sides = (lesion.box[3:] - lesion.box[:3]) * scan.spacing
    return {"source": "box", "estimate_ml": round(math.pi / 6 * float(np.prod(sides)) / MM3, 4)}


def axes_of_box(width: float, height: float) -> dict[str, Any]:
    """Estimates of long and short axis: the longer and the shorter side of the box in the key slice, in mm."""
    short, long = plain_numbers(sorted((width, height)))
    return {
        "axes": {"source": "box", "long_axis_mm": long, "short_axis_mm": short},
        "long_axis_estimate_mm": long,
        "short_axis_estimate_mm": short,
    }


def size_text(entry: Mapping[str, Any]) -> str:
    """Both axes of a lesion's entry and where they are from, in words, with a comma behind; "" where it has none."""
    if (axes := entry.get("axes")) is None:
        return ""
    about = f", about {entry['volume']['estimate_ml']:.1f} ml" if "volume" in entry else ""
    return f"{axes['long_axis_mm']:.1f} x {axes['short_axis_mm']:.1f} mm{about} (source: {axes['source']}), "


def measured_text(entry: Mapping[str, Any]) -> str:
    """What a reader measured, in words: "ruler 12.3 mm; roi mean 40 HU, SD 9, 1.25 cm2"; "" without a review."""
    words = {
        "ruler": "{length_mm:.1f} mm",
        "diameters": "{long_axis_mm:.1f} x {short_axis_mm:.1f} mm",
        "roi": "mean {mean_hu:.0f} HU, SD {sd_hu:.0f}, {cm2:.2f} cm2",
    }
    measured = entry.get("review", {}).get("measurements", ())
    said = (words[one["tool"]].format(cm2=one.get("area_mm2", 0) / 100, **one) for one in measured)
    return "; ".join(f"{one['tool']} {text}" for one, text in zip(measured, said, strict=True))


def region_text(entry: Mapping[str, Any]) -> str:
    """ ", chest" of a lesion's entry whose region is known, else ""."""
    name = entry.get("region", {}).get("name", "unknown")
    return "" if name == "unknown" else f", {name}"


def tags_text(entry: Mapping[str, Any]) -> str:
    """ ", nodule (0.90), lung (0.62)" of a lesion's entry with tags, else ""."""
    return "".join(f", {tag['tag']} ({tag['score']:.2f})" for tag in entry.get("tags", ()))


def _described(scan: ScanLike, outline: Outline, height: float) -> dict[str, Any]:
    long, short = plain_numbers(outline.lengths_mm)
    axes: dict[str, Any] = {"source": outline.source, "long_axis_mm": long, "short_axis_mm": short}
    if outline.axes is not None:
        ends = _places(scan, outline.axes, height)
        for name, first in (("long_axis", 0), ("short_axis", 2)):
            axes |= {f"{name}_{frame}": points[first : first + 2] for frame, points in ends.items()}
    return {"axes": axes, **({} if outline.polygon is None else {"outline": _places(scan, outline.polygon, height)})}


def in_slice(points: np.ndarray, height: float) -> np.ndarray:
    """Points ``(P, 2)`` of a slice as canonical edges ``(P, 3)``; ``height`` is the slice's middle along z."""
    return np.column_stack([points, np.full(len(points), height)])


def _places(scan: ScanLike, points: np.ndarray, height: float) -> dict[str, list[list[float]]]:
    """Points of a slice in the voxels of the stored file and in LPS mm."""
    edges = in_slice(points, height)
    stored = scan.boxes_to_stored(np.concatenate([edges, edges], axis=1))[:, :3]
    return {
        "voxel": [plain_numbers(point) for point in stored],
        "lps_mm": [plain_numbers(point) for point in scan.points_to_lps(edges)],
    }


def plain_numbers(values: Any, digits: int = 4) -> list[float]:
    """Plain floats, rounded; adding zero turns -0.0 into 0.0."""
    return [round(float(value), digits) + 0.0 for value in values]
