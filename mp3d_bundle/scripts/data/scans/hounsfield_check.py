"""Stored values to Hounsfield units, and whether they are such: body and air have to be where Hounsfield put them.

The rule was chosen on real scans and crops of such, as they are and shifted as files without their intercept are; see
docs/rejected_scans.md. It is:

* 8-bit values, and values within -20 to 20 all over, are none;
* values below -1200 are padding and say nothing, nor does one value alone that fills in for air;
* where a fifth of the rest is above 3100, values are none: only metal is there;
* where a tenth of the rest is around 1024 (soft tissue without its intercept of -1024), twice as much as in the rest
  of the range of bone, and less than a fiftieth is below fat (-100), they are stored values;
* where less than a thousandth is below water, they are those of a crop within soft tissue (the median from 10 to 130
  and hardly any value above 200) or of one with bone (hardly any value above 2,000, few around 0 or 1024), or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .volume_files.stored_image import StoredImage

_INT16 = np.iinfo(np.int16)
# Images scaled to unit range or unit variance stay below this; Hounsfield units never do.
_NORMALISED_BELOW = 20.0
# The planes that are looked at: enough of any scan.
_PLANES = 128
# HU: lower values are padding; where air is; fat; how far noise takes water; soft tissue and the densest bone lie
# below; where bone begins; where metal does.
_PADDING, _AIR, _FAT, _WATER, _SOFT, _DENSEST, _BONE, _METAL = -1200, (-1050, -950), -100, 20, 200, 2000, 300, 3100
# Where soft tissue comes without an intercept of -1024 or -1000.
_STORED_SOFT = (824, 1224)
_NOTE = "Next to no voxel is air or fat: values were taken for Hounsfield units of a crop within {}."


def to_hounsfield(
    stored: StoredImage, path: Path, hu_offset: float | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rescale a volume and check that Hounsfield units result.

    Args:
        stored: The volume.
        path: What messages call it.
        hu_offset: What is added to its values; where it is given, their distribution is not looked at.

    Returns:
        int16 HU of the same shape, values beyond clipped, and notes.

    Raises:
        ValueError: If values are not Hounsfield units, NaN or infinite.
    """
    values = stored.values
    if values.dtype.itemsize == 1:
        raise ValueError(f"Expected Hounsfield units in at least 16 bits, got 8-bit values in {path}.")
    slope, intercept = stored.slope, stored.intercept + (hu_offset or 0.0)
    if values.dtype == np.int16 and (slope, intercept) == (1.0, 0.0):
        hu, low, high = values, float(values.min()), float(values.max())
    else:
        hu, low, high = _rescaled(values, slope, intercept, path)
    if hu_offset is not None:
        return hu, (f"{hu_offset:g} was added to all values, as asked: they were taken for Hounsfield units as such.",)
    try:
        note = check_distribution(hu, low, high)
    except ValueError as error:
        raise ValueError(
            f"Expected Hounsfield units (air is -1000, water 0), got values from {low:g} to {high:g} in {path}: "
            f"{error} (--hu_offset NUMBER adds what is missing, --hu_offset 0 takes them as they are)"
        ) from error
    return hu, ((note,) if note else ())


def _rescaled(values: np.ndarray, slope: float, intercept: float, path: Path) -> tuple[np.ndarray, float, float]:
    """Rescaled values as int16, same shape, and their extremes before they were clipped."""
    scaled = (slope, intercept) != (1.0, 0.0)
    out = np.empty(values.shape, dtype=np.int16, order="F")
    low, high = np.inf, -np.inf
    for k, plane in enumerate(_planes(values)):
        with np.errstate(over="ignore", invalid="ignore"):
            hu = plane * np.float32(slope) + np.float32(intercept) if scaled else plane
        least, most = float(hu.min()), float(hu.max())
        # NaN and infinity spread to the extremes of the plane.
        if not np.isfinite([least, most]).all():
            raise ValueError(f"Expected finite voxel values, got NaN or infinity in plane {k} of {path}.")
        low, high = min(low, least), max(high, most)
        out[..., k] = np.clip(np.rint(hu), _INT16.min, _INT16.max)
    return out, low, high


def _planes(values: np.ndarray) -> Iterator[np.ndarray]:
    """The planes along the last stored axis, one at a time: a large scan is never held as floats at once."""
    for k in range(values.shape[-1]):
        plane = values[..., k]
        yield plane if plane.dtype == np.float32 else plane.astype(np.float64)


def check_distribution(hu: np.ndarray, low: float, high: float) -> str | None:
    """Check that values can be Hounsfield units.

    Args:
        hu: ``(I, J, K)`` int16.
        low: The least of them before they were clipped.
        high: The greatest.

    Returns:
        A note where the values leave a doubt, else None.

    Raises:
        ValueError: If they cannot; the message is the reason alone.
    """
    if low < high and max(-low, high) <= _NORMALISED_BELOW:
        raise ValueError("an image that was normalised already?")
    counts = _histogram(hu)

    def share(first: int, last: int = _INT16.max) -> float:
        """Share of values from ``first`` on and below ``last``."""
        return float(counts[first - _INT16.min : last - _INT16.min].sum()) / total

    counts[: _PADDING - _INT16.min] = 0
    air = slice(_AIR[0] - _INT16.min, _AIR[1] - _INT16.min)
    whole, spike = counts.sum(), counts[air].max()
    counts[air] -= np.where(counts[air] == spike, spike, 0) if spike else 0
    total = counts.sum()
    if total == 0:
        return None
    if share(_METAL) >= 0.2:
        raise ValueError("values of another scale or with another offset?")
    shifted, bone = share(*_STORED_SOFT), share(_BONE)
    below_water = share(_PADDING, -_WATER)
    if shifted >= 0.1 and shifted >= 2 * (bone - shifted) and share(_PADDING, _FAT) < 0.02:
        raise ValueError("a CT stored without its rescale intercept of -1024, or an MR?")
    if below_water >= 0.001 or spike >= 0.01 * whole:
        return None
    middle, high = (int(np.searchsorted(counts.cumsum(), part * total)) + _INT16.min for part in (0.5, 0.99))
    if 10 <= middle <= 130 and high < _SOFT:
        return _NOTE.format("soft tissue")
    # Pictures and MR have a background of 0, and MR and lungs without their intercept are as often beyond bone.
    if middle > 10 and high < _DENSEST and share(-_WATER, _WATER) < 0.05 and shifted < 0.3:
        return _NOTE.format("soft tissue and bone")
    raise ValueError("a mask, an 8-bit picture, an MR, or a CT stored without its rescale intercept?")


def _histogram(hu: np.ndarray) -> np.ndarray:
    """How often each int16 occurs, ``(65536,)`` int64, in planes spread over the volume."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for k in np.unique(np.linspace(0, hu.shape[-1] - 1, _PLANES).astype(int)):
        counts += np.bincount(hu[..., k].ravel().astype(np.int32) - _INT16.min, minlength=1 << 16)
    return counts
