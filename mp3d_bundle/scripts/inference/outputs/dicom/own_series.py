"""What all DICOM results of a scan have in common: their series, what they say of themselves, the lesions on images.

A file that takes the place of an earlier one in a folder joins the series of that one with the next number.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from ....storage.dicom_errors import ODD_CONTENT
from ...detections import FIRST_RESULT, Lesion, ScanResult
from ...scan_protocol import ScanLike
from ..lesions_document import result_sha256
from .mask_regions import outlines_on
from .source_images import Outlined, Rectangle, SourceSlice, cut, nearest

logger = logging.getLogger(__name__)
# It logs every module of attributes that it copies.
logging.getLogger("highdicom").setLevel(logging.WARNING)

MANUFACTURER = "MP3D bundle"
PRODUCT = "MP3D lesion detector"
# Texts of this kind have at most 64 characters.
_SERIES = "Lesion {}. Not a medical device; research use only"


@dataclass(frozen=True)
class OwnSeries:
    """The series of one result file.

    Attributes:
        number: SeriesNumber.
        shown: What it shows: ``"boxes"`` or ``"outlines"``.
        version: Of the software.
        earlier: The file that it takes the place of, see `earlier_file`.
    """

    number: int
    shown: str
    version: str
    earlier: Dataset | None = None

    def equipment(self) -> dict[str, Any]:
        """UIDs, numbers and descriptions, as highdicom names them.

        A file joins the series of the one before it, if all that a series has in common is the same.
        """
        described, earlier = _SERIES.format(self.shown), self.earlier
        joins = earlier is not None and (earlier.get("SeriesDescription"), earlier.get("SoftwareVersions")) == (
            described,
            self.version,
        )
        return {
            "series_instance_uid": earlier.SeriesInstanceUID if earlier is not None and joins else hd.UID(),
            "series_number": self.number,
            "sop_instance_uid": hd.UID(),
            "instance_number": int(earlier.InstanceNumber) + 1 if earlier is not None and joins else 1,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": PRODUCT,
            "software_versions": self.version,
            "device_serial_number": "0",
            "series_description": described,
            "content_qualification": hd.ContentQualificationValues.RESEARCH,
            "specific_character_set": "ISO_IR 192",
        }


def earlier_file(folder: Path | None, name: str, header: Dataset) -> Dataset | None:
    """The file of an earlier run in the folder, if it is ours and of the same study."""
    if folder is None or not (folder / name).is_file():
        return None
    try:
        earlier = dcmread(folder / name, stop_before_pixels=True)
        same = (earlier.Manufacturer, earlier.StudyInstanceUID) == (MANUFACTURER, header.StudyInstanceUID)
        named = int(earlier.InstanceNumber) > 0 and earlier.SeriesInstanceUID
        # Asked for here, as pydicom converts values, and finds damage, on access.
        _ = earlier.get("SeriesDescription"), earlier.get("SoftwareVersions")
        return earlier if same and named else None
    except ODD_CONTENT:
        logger.warning("%s: an earlier file that cannot be read is replaced.", folder / name)
        return None


def outlined_lesions(result: ScanResult, slices: Sequence[SourceSlice]) -> list[Outlined]:
    """The lesions of a result on its images; a lesion has the same tracking UID in all files of the same result.

    In the results of a review it keeps the UID that it had in the result in which it got its number.
    """
    result_hash = result.document["settings"].get(FIRST_RESULT) or result_sha256(result.document)
    return [
        Outlined(
            entry=entry,
            rectangles=_on_images(result, lesion, entry, slices),
            tracking=generate_uid(entropy_srcs=[result_hash, str(entry["lesion"])]),
            key=nearest(slices, entry["key_point_lps_mm"]),
        )
        for lesion, entry in zip(result.lesions, result.entries, strict=True)
    ]


def _on_images(
    result: ScanResult, lesion: Lesion, entry: Mapping[str, Any], slices: Sequence[SourceSlice]
) -> list[Rectangle]:
    """Position of a lesion on the images: its masks, or its box."""
    rectangles = cut(result.scan, lesion.box, slices)
    return outlines_on(result.scan, result.found, lesion, rectangles, slices) if "outline" in entry else rectangles


def files_or_warning(scan: ScanLike, make: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
    """What ``make`` gives; nothing for a scan that was not read from DICOM, or whose headers do not allow it."""
    if scan.series is None:
        return {}
    try:
        return make()
    # Headers of all kinds come from scanners and archives: a bad header must not cost a lesion.
    except ODD_CONTENT as error:
        logger.warning("%s: no DICOM results are written. %s", scan.path, error)
        logger.debug("%s", scan.path, exc_info=True)
        return {}


def file_bytes(dataset: Dataset) -> bytes:
    """A dataset as the content of a file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
