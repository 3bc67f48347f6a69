"""Convert stored values to Hounsfield units, and check that they are: air and tissue must have their known values.

The rule was chosen on real scans and crops of them, with and without the shift of a missing intercept; see
docs/rejected_scans.md. It is:

* 8-bit values, and values that are all from -20 to 20, are not Hounsfield units;
* values below -1200 are padding and are ignored, as is a single value that fills in for air;
* if a tenth of all values is below -1500, and they are not one or two values of padding, they are not Hounsfield units:
  nothing is darker than air;
* if a fifth of the rest is above 3100, they are not Hounsfield units: only metal is that dense;
* if a tenth of the rest is around 1024 (soft tissue without its intercept of -1024), twice as much as in the rest
  of the range of bone, and less than a fiftieth is below fat (-100), they are stored values;
* if less than a thousandth is below water, they are accepted as a crop within soft tissue (the median from 10 to 130
  and hardly any value above 200) or with bone (hardly any value above 2,000, few around 0 or 1024), or rejected;
* if a fifth is below -300 and hardly any of it below -700, or a tenth has the lowest value and that is above -900, air
  is not where it should be: a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .volume_files.stored_image import StoredImage

_INT16 = np.iinfo(np.int16)
# Images scaled to unit range or unit variance stay below this; Hounsfield units never do.
_NORMALISED_BELOW = 20.0
# Number of planes that are checked: enough for any scan.
_PLANES = 128
# HU limits: padding is below; air; fat; noise around water; soft tissue and the densest bone are below; start of
# bone; start of metal.
_PADDING, _AIR, _FAT, _WATER, _SOFT, _DENSEST, _BONE, _METAL = -1200, (-1050, -950), -100, 20, 200, 2000, 300, 3100
# Darker than the noise of air; where a CT with much air has some of it; the lowest value of one with air in it.
_DARKEST, _MUCH_AIR, _SOME_AIR, _LOWEST = -1500, -300, -700, -900
# Stored values of soft tissue if an intercept of -1024 or -1000 is missing.
_STORED_SOFT = (824, 1224)
_NO_AIR = (
    "Much is darker than fat and nothing as dark as air (-1000): values that are cut off, or of another scale or "
    "offset, give wrong lesions."
)
_CUT = "Values from {:g} to {:g} were cut to 16 bits."
_NOTE = "Hardly any voxel is air or fat: values were read as Hounsfield units of a crop within {}."


def to_hounsfield(
    stored: StoredImage, path: Path, hu_offset: float | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rescale a volume and check that Hounsfield units result.

    Args:
        stored: The volume.
        path: Its name in messages.
        hu_offset: Added to its values; if given, their distribution is not checked.

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
    notes = [] if _INT16.min <= low and high <= _INT16.max else [_CUT.format(low, high)]
    if hu_offset is not None:
        asked = f"{hu_offset:g} was added to all values, as requested: the result was read as Hounsfield units."
        return hu, (asked, *notes)
    try:
        note = check_distribution(hu, low, high)
    except ValueError as error:
        raise ValueError(
            f"Expected Hounsfield units (air is -1000, water 0), got values from {low:g} to {high:g} in {path}: "
            f"{error} (--hu_offset NUMBER adds what is missing, --hu_offset 0 accepts them unchanged)"
        ) from error
    return hu, (*([note] if note else []), *notes)


def _rescaled(values: np.ndarray, slope: float, intercept: float, path: Path) -> tuple[np.ndarray, float, float]:
    """Rescaled values as int16, same shape, and their extremes before they were clipped."""
    scaled = (slope, intercept) != (1.0, 0.0)
    out = np.empty(values.shape, dtype=np.int16, order="F")
    low, high = np.inf, -np.inf
    for k, plane in enumerate(_planes(values)):
        with np.errstate(over="ignore", invalid="ignore"):
            hu = plane * np.float32(slope) + np.float32(intercept) if scaled else plane
        least, most = float(hu.min()), float(hu.max())
        # NaN and infinity show up in the extremes of the plane.
        if not np.isfinite([least, most]).all():
            raise ValueError(f"Expected finite voxel values, got NaN or infinity in plane {k} of {path}.")
        low, high = min(low, least), max(high, most)
        out[..., k] = np.clip(np.rint(hu), _INT16.min, _INT16.max)
    return out, low, high


def _planes(values: np.ndarray) -> Iterator[np.ndarray]:
    """The planes along the last stored axis, one at a time, so that a large scan is never held as floats as a whole."""
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
        A note if the values leave a doubt, otherwise None.

    Raises:
        ValueError: If they cannot; the message is the reason alone.
    """
    if low < high and max(-low, high) <= _NORMALISED_BELOW:
        raise ValueError("an image that was normalised already?")
    counts = _histogram(hu)
    dark = np.sort(counts[: _DARKEST - _INT16.min])
    # Padding has one value, or two.
    if dark[:-2].sum() >= 0.1 * counts.sum():
        raise ValueError("values of another scale or with another offset, as so many are darker than air?")

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
    gas, lowest = share(_PADDING, _MUCH_AIR), int(np.flatnonzero(counts)[0])
    cut_off = counts[lowest] >= 0.1 * total and _LOWEST < lowest + _INT16.min < -_WATER
    if cut_off or (gas >= 0.2 and share(_PADDING, _SOME_AIR) < 0.02 * gas):
        return _NO_AIR
    if shifted >= 0.1 and shifted >= 2 * (bone - shifted) and share(_PADDING, _FAT) < 0.02:
        raise ValueError("a CT stored without its rescale intercept of -1024, or an MR?")
    if below_water >= 0.001 or spike >= 0.01 * whole:
        return None
    middle, high = (int(np.searchsorted(counts.cumsum(), part * total)) + _INT16.min for part in (0.5, 0.99))
    if 10 <= middle <= 130 and high < _SOFT:
        return _NOTE.format("soft tissue")
    # Pictures and MR have a background of 0; MR and lungs without intercept have as many values beyond bone.
    if middle > 10 and high < _DENSEST and share(-_WATER, _WATER) < 0.05 and shifted < 0.3:
        return _NOTE.format("soft tissue and bone")
    raise ValueError("a mask, an 8-bit picture, an MR, or a CT stored without its rescale intercept?")


def _histogram(hu: np.ndarray) -> np.ndarray:
    """How often each int16 occurs, ``(65536,)`` int64, in planes spread over the volume."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for k in np.unique(np.linspace(0, hu.shape[-1] - 1, _PLANES).astype(int)):
        counts += np.bincount(hu[..., k].ravel().astype(np.int32) - _INT16.min, minlength=1 << 16)
    return counts
