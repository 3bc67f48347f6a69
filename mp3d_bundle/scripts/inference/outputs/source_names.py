"""What an archive calls a scan that was read from DICOM, and each of its images: numbers and UIDs of the headers.

With them a lesion is found again where the images are kept. The patient's name is not among them: outputs other than
DICOM leave the archive.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pydicom

from ...storage.dicom_errors import ODD_CONTENT
from ..scan_protocol import ScanLike

_SERIES = {
    "study_instance_uid": "StudyInstanceUID",
    "study_date": "StudyDate",
    "accession_number": "AccessionNumber",
    "series_instance_uid": "SeriesInstanceUID",
    "series_number": "SeriesNumber",
    "series_description": "SeriesDescription",
}
_IMAGE = {"instance_number": "InstanceNumber", "sop_instance_uid": "SOPInstanceUID"}
SERIES_KEYS = tuple(_SERIES)
# No text of these attributes is longer.
_LONGEST = 64


def name_series(scan: ScanLike) -> dict[str, str | None] | None:
    """What the archive calls the series of a scan, by `SERIES_KEYS`.

    Returns:
        Each as text, None where the images have none; None for a scan that was not read from DICOM.
    """
    return read_header(scan, 0, _SERIES)


def name_image(scan: ScanLike, index: int) -> dict[str, Any] | None:
    """What the archive calls the image of one stored slice.

    Args:
        scan: The scan.
        index: Along the stored axis ``k``.

    Returns:
        ``instance_number`` (None where the image has none), ``sop_instance_uid`` and, of Enhanced CT alone,
        ``frame_number`` in that file, from 1; None for a scan that was not read from DICOM.
    """
    found = read_header(scan, index, _IMAGE)
    if found is None:
        return None
    number = found["instance_number"]
    whole = number is not None and number.lstrip("+-").isdecimal()
    return {
        **found,
        "instance_number": int(number) if number is not None and whole else None,
        **({"frame_number": scan.frames[index]} if scan.frames else {}),
    }


def image_text(entry: Mapping[str, Any]) -> str:
    """ ", image 60" of a lesion's entry whose image has a number, with ", frame 7" of several; else ""."""
    image = entry.get("image", {})
    named = (("image", image.get("instance_number")), ("frame", image.get("frame_number")))
    return "".join(f", {word} {number}" for word, number in named if number is not None)


def series_text(series: Mapping[str, Any] | None) -> str:
    """Name of a series for readers: number and description, study date and accession number, if known.

    Args:
        series: What `name_series` gives.
    """
    series = series or {}
    shown = (("series", "series_number"), ("", "series_description"), ("study of", "study_date"),
             ("accession number", "accession_number"))  # fmt: skip
    return ", ".join(f"{word} {series[key]}".strip() for word, key in shown if series.get(key))


def read_header(scan: ScanLike, index: int, names: dict[str, str]) -> dict[str, str | None] | None:
    """Attributes of the image of one stored slice as printable texts.

    Args:
        scan: The scan.
        index: Along the stored axis ``k``.
        names: Keywords of the attributes by the names that they get.

    Returns:
        None where the image has none; None in place of all for a scan that was not read from DICOM.
    """
    if scan.series is None or not scan.files:
        return None
    known = scan.headers[index] if index < len(scan.headers) else None
    source = scan.files[index] if known is None else io.BytesIO(known)
    try:
        header = pydicom.dcmread(source, stop_before_pixels=True, specific_tags=[*names.values()], force=True)
    # What was read as a scan may still hold an element that pydicom stumbles over.
    except ODD_CONTENT:
        return dict.fromkeys(names)
    return {key: _text(header, keyword) for key, keyword in names.items()}


def _text(header: pydicom.Dataset, keyword: str) -> str | None:
    """The printable text of an attribute; None where there is none."""
    try:
        text = str(header.get(keyword) or "")
    except ODD_CONTENT:
        return None
    printable = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return printable.encode("utf-8", "replace").decode()[:_LONGEST] or None
