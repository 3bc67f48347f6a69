"""Lesions as a table, one row each: ``lesions.csv``."""

from __future__ import annotations

import csv
import io

from ..detections import ScanResult

_CORNERS = ("1", "2")


def lesion_table(result: ScanResult) -> dict[str, bytes]:
    """Write the lesions of a scan as ``lesions.csv``.

    The notice has a column of its own, so that every reader can read the rest. Fields of one number a lesion are
    columns behind it. Which columns there are depends on the weights and the settings, not on what was found.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    voxel = [f"{axis}{end}" for end in _CORNERS for axis in "ijk"]
    lps = [f"{axis}{end}_mm" for end in _CORNERS for axis in "xyz"]
    size = [f"size_{axis}_mm" for axis in "xyz"]
    probability = ["probability"] if result.document["model"]["no_probability"] is None else []
    axes = ["long_axis_estimate_mm", "short_axis_estimate_mm"]
    fields = [name for name, values in result.found.fields.items() if values.ndim == 1]
    last = ["key_slice", "num_slices", "notice", *fields]
    writer.writerow(["lesion", "score", *probability, *voxel, *lps, *size, *axes, *last])
    for entry in result.entries:
        writer.writerow(
            [
                entry["lesion"],
                entry["score"],
                *(entry[name] for name in probability),
                *entry["box_voxel"],
                *entry["box_lps_mm"],
                *entry["size_mm"],
                *(entry[name] for name in axes),
                entry["key_slice"],
                entry["num_slices"],
                " ".join(result.notices),
                *(entry["fields"][name] for name in fields),
            ]
        )
    return {"lesions.csv": text.getvalue().encode()}
