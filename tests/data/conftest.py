"""Label files in DeepLesion's format, one row at a time."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

OFFICIAL = {
    "File_name": "000001_01_01_109.png",
    "Patient_index": "1",
    "Study_index": "1",
    "Series_ID": "1",
    "Key_slice_index": "109",
    "Measurement_coordinates": "233.537, 95.0204, 234.057, 106.977, 231.169, 101.605, 236.252, 101.143",
    "Bounding_boxes": "226.169, 90.0204, 241.252, 111.977",
    "Lesion_diameters_Pixel_": "11.9677, 5.10387",
    "Normalized_lesion_location": "0.44666, 0.283794, 0.434454",
    "Coarse_lesion_type": "3",
    "Possibly_noisy": "0",
    "Slice_range": "103, 115",
    "Spacing_mm_px_": "0.488281, 0.488281, 5",
    "Image_size": "512, 512",
    "DICOM_windows": "-175, 275",
    "Patient_gender": "F",
    "Patient_age": "62.0",
    "Train_Val_Test": "1",
}


def fill_in(changes: dict[str, str]) -> dict[str, str]:
    """A whole row: the official example with ``changes``, its key slice following its file name."""
    row = {**OFFICIAL, **changes}
    if "File_name" in changes and "Key_slice_index" not in changes:
        number = int(row["File_name"].removesuffix(".png").replace("/", "_").rsplit("_", 1)[1])
        row["Key_slice_index"] = str(number)
        if "Slice_range" not in changes:
            row["Slice_range"] = f"{number - 12}, {number + 12}"
    return row


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """Write a ``DL_info.csv`` whose rows are the official example with the given changes."""

    def write(*rows: dict[str, str], columns: list[str] | None = None, name: str = "DL_info.csv") -> Path:
        columns = list(OFFICIAL) if columns is None else columns
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(fill_in(row) for row in rows)
        return path

    return write
