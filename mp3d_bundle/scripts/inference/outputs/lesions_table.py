"""Lesions as a table, one row each: ``lesions.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...storage.atomic_files import table_text
from ..detections import LABELS, ScanResult
from ..lesion_outlines import AXES, LENGTHS, MASKS
from .measurements import measured_text
from .named_classes import classes_in
from .source_names import SERIES_KEYS, name_image

_CORNERS = ("1", "2")
_AXES = ("long_axis", "short_axis")


def _points(points: Sequence[Sequence[float]]) -> str:
    """``x y z; x y z; ...``, so that a field holds any number of points."""
    return "; ".join(" ".join(f"{value:g}" for value in point) for point in points)


def lesion_table(result: ScanResult) -> dict[str, bytes]:
    """Write the lesions of a scan as ``lesions.csv``.

    The notice has a column of its own, so that every reader can read the rest. The estimates from the box are empty
    where the network measures (``axes_source``); ends of the axes and outlines are points in LPS mm, separated by
    semicolons. Fields of one number a lesion are columns behind the notice. Which columns there are depends on the
    input (DICOM or not, frames or files), the weights and the settings, not on what was found.
    """
    voxel = [f"{axis}{end}" for end in _CORNERS for axis in "ijk"]
    lps = [f"{axis}{end}_mm" for end in _CORNERS for axis in "xyz"]
    size = [f"size_{axis}_mm" for axis in "xyz"]
    probability = ["probability"] if result.document["model"]["no_probability"] is None else []
    estimates, axes = [f"{name}_estimate_mm" for name in _AXES], [f"{name}_mm" for name in _AXES]
    scalars = (name for name, values in result.found.fields.items() if values.ndim == 1)
    fields = [name for name in scalars if name not in (*LENGTHS, LABELS)]
    kind = [] if classes_in(result.document) is None else ["class"]
    tags = ["tags"] if "tags" in result.document["model"] else []
    series = result.document["input"].get("dicom")
    names = [] if series is None else [*(name_image(result.scan, 0) or ()), *SERIES_KEYS]
    remarks = ["comment", "measured"] if "review" in result.document["settings"] else []
    last = ["key_slice", *names, "num_slices", "notice", *remarks, *tags, *fields]
    sizes = [*estimates, *axes, "axes_source", "volume_estimate_ml", "volume_source"]
    region = ["region", "region_source"]
    ends = [f"{name}_lps_mm" for name in _AXES] if {MASKS, AXES} & set(result.found.fields) else []
    outline = ["outline_lps_mm"] if MASKS in result.found.fields else []
    rows: list[list[Any]] = [
        ["lesion", *kind, "score", *probability, *voxel, *lps, *size, *sizes, *ends, *outline, *region, *last]
    ]
    for entry in result.entries:
        rows.append(
            [
                entry["lesion"],
                *(entry[name] for name in kind),
                entry["score"],
                *(entry[name] for name in probability),
                *entry["box_voxel"],
                *entry["box_lps_mm"],
                *entry["size_mm"],
                *(entry.get(name) for name in estimates),
                *(entry["axes"][name] for name in (*axes, "source")),
                *(entry["volume"][name] for name in ("estimate_ml", "source")),
                *(_points(entry["axes"].get(name, ())) for name in ends),
                *(_points(entry.get("outline", {}).get("lps_mm", ())) for _ in outline),
                *(entry["region"][name] for name in ("name", "source")),
                entry["key_slice"],
                *({**entry.get("image", {}), **(series or {})}.get(name) for name in names),
                entry["num_slices"],
                " ".join(result.notices),
                *((entry.get("review", {}).get("comment", ""), measured_text(entry)) if remarks else ()),
                *("; ".join(f"{tag['tag']} {tag['score']:.2f}" for tag in entry[name]) for name in tags),
                *(entry["fields"][name] for name in fields),
            ]
        )
    return {"lesions.csv": table_text(rows).encode()}
