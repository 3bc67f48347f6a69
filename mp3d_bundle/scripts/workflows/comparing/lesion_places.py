"""Where a lesion is found again in the archive: its image and series, and its height, as columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of the image of the key slice, and of the series.
_IMAGE = ("instance_number", "sop_instance_uid", "frame_number")
_SERIES = ("series_instance_uid", "study_date")
PLACE_COLUMNS = tuple(
    column
    for when in ("before", "after")
    for column in (f"z_{when}_mm", *(f"{name}_{when}" for name in (*_IMAGE, *_SERIES)))
)


def place_of(document: Mapping[str, Any], number: int | None, when: str) -> dict[str, Any]:
    """Where a lesion is in one of two scans.

    Args:
        document: Content of ``lesions.json`` of the scan.
        number: Of the lesion; None if the scan has no such one.
        when: ``"before"`` or ``"after"``.

    Returns:
        The columns of `PLACE_COLUMNS` of that scan: z of the key slice in LPS mm, number and UID of its image and its
        frame in an Enhanced CT, UID of the series and date of the study; None where it is unknown, or the scan was not
        read from DICOM.
    """
    lesion = next((one for one in document["lesions"] if one["lesion"] == number), {})
    image, series = lesion.get("image") or {}, document["input"].get("dicom") or {}
    point = lesion.get("key_point_lps_mm")
    return {
        f"z_{when}_mm": None if point is None else round(float(point[2]), 2),
        **{f"{name}_{when}": image.get(name) for name in _IMAGE},
        **{f"{name}_{when}": series.get(name) for name in _SERIES},
    }
