"""Names of ``DL_info.csv``, its columns and its splits. Imports neither NumPy nor PyTorch."""

from __future__ import annotations

LABELS = "DL_info.csv"
# What the generator says of a synthetic set.
SYNTHETIC = "synthetic.json"

COLUMNS = (
    "File_name",
    "Patient_index",
    "Study_index",
    "Series_ID",
    "Key_slice_index",
    "Measurement_coordinates",
    "Bounding_boxes",
    "Lesion_diameters_Pixel_",
    "Normalized_lesion_location",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Slice_range",
    "Spacing_mm_px_",
    "Image_size",
    "DICOM_windows",
    "Patient_gender",
    "Patient_age",
    "Train_Val_Test",
)

# The class of a lesion, in other data sets; DeepLesion does not have this column.
CLASS_COLUMN = "Lesion_class"
# Whether a box is a region to ignore; likewise.
IGNORED_COLUMN = "Ignored"

# Train_Val_Test of the official split.
SPLITS = {"train": 1, "validation": 2, "test": 3}
