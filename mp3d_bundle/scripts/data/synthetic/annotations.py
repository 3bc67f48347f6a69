"""Annotations of a synthetic series: rows of ``DL_info.csv`` and three-dimensional labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...box_frames import to_deeplesion
from ..deeplesion.columns import SPLITS
from .foci import Focus
from .series import Series

TRAIN, VALIDATION, TEST = SPLITS.values()
# Lengths of the body that the third number of the normalised location refers to, mm.
_BODY_TOP, _BODY_LENGTH = -360.0, 800.0
_LUNG = 5
# Of a series that is labelled on every slice: a lesion has a label where its radius is at least this share of that in
# its middle, and is not seen where it is at most the other; slices with anything between have no row.
_LABELLED_SCALE, _UNSEEN_SCALE = 0.5, 0.05


@dataclass(frozen=True)
class Identity:
    """Identity of a series.

    Attributes:
        patient: Patient number, from 1.
        study: Study number, from 1.
        series: Series number, from 1.
        split: 1 train, 2 validation, 3 test.
        gender: "M" or "F".
        age: Years, or None.
    """

    patient: int
    study: int
    series: int
    split: int
    gender: str = "F"
    age: int | None = None

    @property
    def folder(self) -> str:
        """Name of the series' folder."""
        return f"{self.patient:06d}_{self.study:02d}_{self.series:02d}"


def recist(contour: np.ndarray) -> np.ndarray:
    """End points of the longest diameter and of the longest one perpendicular to it.

    Args:
        contour: ``(n, 2)`` outline of a lesion, px.

    Returns:
        ``(4, 2)``: both ends of the long diameter, then both ends of the short one.
    """
    gaps = contour[:, None, :] - contour[None, :, :]
    lengths = np.hypot(gaps[..., 0], gaps[..., 1])
    i, j = np.unravel_index(int(lengths.argmax()), lengths.shape)
    along = gaps[i, j] / lengths[i, j]
    skew = np.abs(gaps @ along)
    across = np.abs(gaps @ np.array([-along[1], along[0]]))
    square = skew <= 0.05 * across
    k, m = np.unravel_index(int(np.where(square, across, 0).argmax()), across.shape)
    return contour[[i, j, k, m]]


def key_rows(series: Series, identity: Identity, padding: float) -> list[dict[str, str]]:
    """``DL_info.csv`` rows of a series' labelled lesions.

    Args:
        series: The series.
        identity: Its identity.
        padding: Pixels between end points and box.
    """
    rows = []
    for key in series.keys:
        for focus in series.foci:
            if focus.labelled and abs(focus.shape.z - series.grid.height(key)) < 1e-6:
                rows.append(_row(series, identity, key) | _of_lesion(series, identity, focus, padding))
    return rows


def slice_rows(series: Series, identity: Identity, padding: float) -> list[dict[str, str]]:
    """``DL_info.csv`` rows of the slices on which every lesion is labelled; a slice without a lesion has one too.

    Slices near an end of a lesion, where it is neither unseen nor wide enough for a label, have none.

    Args:
        series: The series.
        identity: Its identity.
        padding: Pixels between end points and box.
    """
    rows = []
    lesions = [focus for focus in series.foci if focus.lesion]
    for number in series.labelled:
        height = series.grid.height(number)
        scales = [float(focus.shape.scale_at(np.array([height]))[0]) for focus in lesions]
        if any(_UNSEEN_SCALE < scale < _LABELLED_SCALE for scale in scales):
            continue
        slice_row = _row(series, identity, number)
        cut = [focus for focus, scale in zip(lesions, scales, strict=True) if scale >= _LABELLED_SCALE]
        rows += [slice_row | _of_lesion(series, identity, focus, padding, height) for focus in cut] or [slice_row]
    return rows


def _of_lesion(
    series: Series, identity: Identity, focus: Focus, padding: float, height: float | None = None
) -> dict[str, str]:
    """Cells of a lesion in the slice at a height, or in that of its middle."""
    shape, body = focus.shape, series.body
    x, y, z, scale = shape.x, shape.y, shape.z, 1.0
    if height is not None:
        z = height
        (x,), (y,), (scale,) = *shape.centre_at(np.array([z])), shape.scale_at(np.array([z]))
    # Index i is the centre of a pixel, at i + 0.5 of the slab frame's edges; DL_info.csv counts from 1.
    ends = np.round(to_deeplesion(recist(shape.contour() * scale) + (np.array([x, y]) + 0.5)), 3)
    box = np.concatenate([ends.min(axis=0) - padding, ends.max(axis=0) + padding])
    diameters = np.hypot(*(ends[::2] - ends[1::2]).T)
    location = (
        0.5 + (x - body.x) / body.half_width / 2,
        0.5 + (y - body.y) / body.half_depth / 2,
        (z - _BODY_TOP) / _BODY_LENGTH,
    )
    window = (-1500, 500) if focus.kind == _LUNG else (-175, 275)
    return {
        "Measurement_coordinates": _join(ends.ravel(), 6),
        "Bounding_boxes": _join(box, 6),
        "Lesion_diameters_Pixel_": _join(diameters, 6),
        "Normalized_lesion_location": _join(np.clip(location, 0.0, 1.0), 6),
        "Coarse_lesion_type": str(-1 if identity.split == TRAIN else focus.kind),
        "DICOM_windows": _join(window, 6),
    }


def _row(series: Series, identity: Identity, key: int) -> dict[str, str]:
    """Cells of a slice, those of a lesion empty."""
    grid = series.grid
    return {
        "File_name": f"{identity.folder}_{key:03d}.png",
        "Patient_index": str(identity.patient),
        "Study_index": str(identity.study),
        "Series_ID": str(identity.series),
        "Key_slice_index": str(key),
        "Measurement_coordinates": "",
        "Bounding_boxes": "",
        "Lesion_diameters_Pixel_": "",
        "Normalized_lesion_location": "",
        "Coarse_lesion_type": "-1",
        "Possibly_noisy": "0",
        "Slice_range": _join(series.block_of(key), 6),
        "Spacing_mm_px_": _join((grid.spacing, grid.spacing, grid.interval), 6),
        "Image_size": _join((grid.size, grid.size), 6),
        "DICOM_windows": _join((-175, 275), 6),
        "Patient_gender": identity.gender,
        "Patient_age": "" if identity.age is None else f"{identity.age:.1f}",
        "Train_Val_Test": str(identity.split),
    }


def _join(values: Sequence[float] | np.ndarray, digits: int) -> str:
    return ", ".join(f"{round(float(value), digits):.{digits + 6}g}" for value in values)


def lesion_labels(series: Series, identity: Identity) -> list[dict[str, object]]:
    """Every lesion of a series, labelled or not, sub-volume by sub-volume.

    Returns:
        One dict a sub-volume: ``series``, ``slice_range`` (first, last slice number), ``spacing``
        (x, y, z mm) and ``lesions``, each with ``box`` (x1, y1, x2, y2 of the outline over all its
        slices, slab frame, px), ``slices`` (first, last number), ``box_mm`` (x1, y1, z1, x2, y2, z2;
        x and y from the slab frame's origin, z from slice 1), ``labelled`` and ``key_slice``.
    """
    labels = []
    for first, last in series.blocks:
        numbers = np.arange(first, last + 1)
        z = series.grid.heights(first, last)
        lesions = [_lesion(series, focus, numbers, z) for focus in series.foci if focus.lesion]
        labels.append(
            {
                "series": identity.folder,
                "slice_range": [first, last],
                "spacing": [series.grid.spacing, series.grid.spacing, series.grid.interval],
                "lesions": [lesion for lesion in lesions if lesion is not None],
            }
        )
    return labels


def _lesion(series: Series, focus: Focus, numbers: np.ndarray, z: np.ndarray) -> dict[str, object] | None:
    shape, grid = focus.shape, series.grid
    scale = shape.scale_at(z)
    seen = np.flatnonzero(scale > 0.05)
    if not len(seen):
        return None
    x, y = (place[seen, None] for place in shape.centre_at(z))
    outline = shape.contour()[None] * scale[seen, None, None]
    # The centre of pixel i is at i + 0.5 in the slab frame's half-open edges.
    columns, rows = outline[..., 0] + x + 0.5, outline[..., 1] + y + 0.5
    box = [columns.min(), rows.min(), columns.max(), rows.max()]
    low, high = (height - grid.first_height for height in shape.z_range)
    box_mm = [box[0] * grid.spacing, box[1] * grid.spacing, low]
    box_mm += [box[2] * grid.spacing, box[3] * grid.spacing, high]
    key = round((shape.z - grid.first_height) / grid.interval) + 1
    return {
        "labelled": focus.labelled,
        "key_slice": int(key) if focus.labelled else None,
        "box": [round(float(value), 3) for value in box],
        "slices": [int(numbers[seen[0]]), int(numbers[seen[-1]])],
        "box_mm": [round(float(value), 3) for value in box_mm],
        "type": focus.kind,
        "hu": round(float(shape.value), 1),
    }
