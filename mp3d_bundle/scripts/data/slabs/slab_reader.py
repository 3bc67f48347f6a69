"""Slabs: from 16-bit PNG slices to a stack of HU slices on an even z lattice.

A *slab* holds ``D`` (odd) slices at a fixed spacing, 2.5 mm in the paper (section 3.1), whose centre
slice ``D // 2`` is the labelled key slice as it was stored. Only the slices that the lattice touches are
read: 13 at 1 mm, 9 at 2.5 mm, 5 at 5 mm for a slab of nine.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ...storage.needed_files import need_folder
from ..intensity import IntensityWindow
from .slice_store import slice_exists, slice_names, stored_series
from .z_lattice import LATTICES, ON_A_SLICE, Blend

__all__ = ["IntensityWindow", "SlabReader", "blend_on", "blend_slices", "read_slice", "resample_z"]

logger = logging.getLogger(__name__)

_SLICE_NAME = re.compile(r"(\d+)\.png")


def read_slice(path: str | Path) -> np.ndarray:
    """Read one DeepLesion slice, a 16-bit grey PNG that stores HU + 32768, or a slice of a store.

    Args:
        path: The PNG; or its path in a store, see `scripts.data.slabs.slice_store`.

    Returns:
        ``(H, W)`` int16 HU. The whole range of a 16-bit PNG, -32768 to 32767, fits without clipping.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not a PNG that can be read to its end, or is 8-bit, or has colours.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        if (stored := stored_series(Path(path).parent)) is not None:
            return stored.read(int(Path(path).stem))
        raise FileNotFoundError(f"Expected a slice (16-bit PNG) at {path}, but the file does not exist.") from None
    # A PNG ends with its IEND chunk; the decoder would fill the rest of a truncated file with zeros.
    if content[:8].tobytes() != b"\x89PNG\r\n\x1a\n" or b"IEND" not in content[-32:].tobytes():
        raise ValueError(f"Expected a complete PNG, got {content.size} bytes that are not one in {path}.")
    stored = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise ValueError(f"Expected a PNG, but the decoder cannot read {path}: the file is damaged.")
    if stored.ndim != 2 or stored.dtype != np.uint16:
        channels = 1 if stored.ndim == 2 else stored.shape[2]
        raise ValueError(
            f"Expected a 16-bit grey PNG (HU + 32768), got {8 * stored.dtype.itemsize} bits and "
            f"{channels} channel(s) in {path}."
        )
    # Flipping the top bit subtracts 32768 in two's complement, without wrapping around.
    return np.bitwise_xor(stored, np.uint16(0x8000), out=stored).view(np.int16)


class SlabReader:
    """Read the slab around a key slice.

    Args:
        num_slices: Slices ``D`` of a slab, odd and at least 1.
        spacing: Distance between the slab's slices in mm (2.5 in the paper).
        mode: ``"corrected"`` (true linear interpolation) or ``"released"`` (the released code's weights), see
            `scripts.data.slabs.z_lattice`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, num_slices: int = 9, *, spacing: float = 2.5, mode: str = "corrected") -> None:
        if isinstance(num_slices, bool) or not isinstance(num_slices, int) or num_slices < 1 or num_slices % 2 == 0:
            raise ValueError(f"Expected an odd number of slices, at least 1, got {num_slices!r}.")
        if not (math.isfinite(spacing) and spacing > 0):
            raise ValueError(f"Expected a slab spacing in mm above zero, got {spacing!r}.")
        if mode not in LATTICES:
            raise ValueError(f"Expected one of the z modes {sorted(LATTICES)}, got {mode!r}.")
        self.num_slices = num_slices
        self.spacing = float(spacing)
        self.mode = mode
        self._gaps_told: set[str] = set()

    def plan(self, record: Mapping[str, Any]) -> list[Blend]:
        """Plan the slab of ``record``: ``num_slices`` blends, in offsets from its key slice.

        Raises:
            FileNotFoundError: If the folder of the series does not exist.
            ValueError: If the record's slice interval is not above zero.
        """
        interval = float(record["slice_interval"])
        if not (math.isfinite(interval) and interval > 0):
            raise ValueError(f"Expected a slice interval in mm above zero, got {interval} for {record['image']}.")
        key = int(record["key_slice"])
        stored = {number - key for number in _stored_numbers(Path(record["image"]).parent)}
        slice_range = record.get("slice_range")
        limits = None if slice_range is None else (int(slice_range[0]) - key, int(slice_range[1]) - key)
        ratio, reach = self.spacing / interval, self.num_slices // 2
        self._tell_gaps(record, stored, limits, math.ceil(ratio * reach))
        return LATTICES[self.mode](ratio, reach, stored, limits)

    def thickness(self, record: Mapping[str, Any]) -> float:
        """mm between the slab's slices: the spacing, or the slice interval where slices are read as stored."""
        return max(float(record["slice_interval"]), self.spacing) if self.mode == "native" else self.spacing

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """Read the slab of ``record``.

        Args:
            record: A labelled key slice; ``image`` (path of its PNG), ``key_slice``, ``slice_interval`` (mm)
                and, if known, ``slice_range`` are used.

        Returns:
            ``(D, H, W)`` float32 HU; slice ``D // 2`` is the key slice as stored.

        Raises:
            FileNotFoundError: If the key slice or the folder of its series does not exist.
            ValueError: If a slice is not a 16-bit grey PNG, or the slices differ in size.
        """
        slices, blends = self.read_slices(record)
        slab = np.empty((self.num_slices, *slices[0].shape), dtype=np.float32)
        for index, blend in enumerate(blends):
            blend_slices(slices[blend.near], slices[blend.far], blend.weight, out=slab[index])
        return slab

    def read_slices(self, record: Mapping[str, Any]) -> tuple[list[np.ndarray], list[Blend]]:
        """Read what a slab is made of: the stored slices and how they are blended, see `blend_on`.

        Args:
            record: As for a call.

        Returns:
            Slices ``(H, W)`` int16 HU, each once, and for each of the slab's ``D`` slices the blend, its ``near``
            and ``far`` numbers of these slices.

        Raises:
            FileNotFoundError: As for a call.
            ValueError: Likewise.
        """
        key_path = Path(record["image"])
        blends = self.plan(record)
        offsets = sorted({offset for blend in blends for offset in (blend.near, blend.far)}, key=abs)
        paths = [_neighbour(key_path, int(record["key_slice"]) + offset) for offset in offsets]
        place = {offset: number for number, offset in enumerate(offsets)}
        return _read_alike(paths), [Blend(place[each.near], place[each.far], each.weight) for each in blends]

    def _tell_gaps(
        self, record: Mapping[str, Any], stored: set[int], limits: tuple[int, int] | None, reach: int
    ) -> None:
        """Log once per series when slices that its labels promise are not in the folder."""
        series = Path(record["image"]).parent.name
        if limits is None or series in self._gaps_told:
            return
        wanted = range(max(limits[0], -reach), min(limits[1], reach) + 1)
        absent = sorted(set(wanted) - stored)
        if absent:
            self._gaps_told.add(series)
            logger.warning(
                "%s: slice %d and %d more near key slice %d are not in the folder though within its slice range; "
                "the nearest stored slice towards the key slice takes their place.",
                series,
                record["key_slice"] + absent[0],
                len(absent) - 1,
                record["key_slice"],
            )


def _neighbour(key_path: Path, number: int) -> Path:
    """Path of another slice, named with as many digits as the key slice; or with three, as 1000.png follows 999.png."""
    digits = len(key_path.stem)
    path = key_path.with_name(f"{number:0{digits}d}.png")
    return path.with_name(f"{number:03d}.png") if digits > max(3, len(str(number))) and not slice_exists(path) else path


def _stored_numbers(folder: Path) -> list[int]:
    """The numbers of the slices in the folder of a series, with one listing."""
    need_folder(folder, "the slices of a series in")
    listed = slice_names(folder)
    names = (_SLICE_NAME.fullmatch(name) for name in (os.listdir(folder) if listed is None else listed))
    return [int(name[1]) for name in names if name]


def _read_alike(paths: Sequence[Path]) -> list[np.ndarray]:
    """Read the key slice and its neighbours, which must have its size, in as many threads as torch may use.

    That is one thread in the worker processes of a data loader, which divide the samples among them.
    """
    threads = min(torch.get_num_threads(), len(paths))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            slices = list(pool.map(read_slice, paths))
    else:
        slices = [read_slice(path) for path in paths]
    shape = slices[0].shape
    for path, pixels in zip(paths, slices, strict=True):
        if pixels.shape != shape:
            raise ValueError(f"Expected a slice of {shape} pixels like its key slice, got {pixels.shape} in {path}.")
    return slices


def blend_slices(near: np.ndarray, far: np.ndarray, weight: float, *, out: np.ndarray) -> None:
    """Write ``(1 - weight) * near + weight * far`` to ``out`` (float32), exactly where the weight is 0.5."""
    if near is far or weight == 0.0:
        out[...] = near
        return
    # The difference of two int16 slices needs 17 bits: taken in float32, where it is exact.
    np.subtract(far, near, out=out, dtype=np.float32)
    out *= np.float32(weight)
    out += near


def blend_on(slices: torch.Tensor, blends: Sequence[Blend]) -> torch.Tensor:
    """Blend slices on the device they are on, to the values of `SlabReader`.

    Args:
        slices: ``(N, H, W)`` int16 HU.
        blends: For each of D slices; ``near`` and ``far`` are numbers of ``slices``.

    Returns:
        ``(D, H, W)`` float32 HU.
    """
    device = slices.device
    near, far = (slices[torch.tensor([getattr(b, end) for b in blends], device=device)] for end in ("near", "far"))
    weights = torch.tensor([blend.weight for blend in blends], dtype=torch.float32, device=device)
    near = near.to(torch.float32)
    # In the order of `blend_slices`, so that the same rounding comes out.
    return far.to(torch.float32).sub_(near).mul_(weights[:, None, None]).add_(near)


def resample_z(
    volume: np.ndarray, positions_mm: np.ndarray, targets_mm: np.ndarray, *, dtype: type[np.generic] = np.float32
) -> np.ndarray:
    """Resample a stack of slices to other z positions by linear interpolation, one slice at a time.

    Beyond the first and the last slice these two are repeated, as in `corrected_lattice`.

    Args:
        volume: ``(Z, H, W)`` HU, int16 or float32.
        positions_mm: ``(Z,)`` position of each slice, strictly rising or strictly falling.
        targets_mm: ``(T,)`` wanted positions in any order.
        dtype: float32, or int16 to round to whole HU at half the memory.

    Returns:
        ``(T, H, W)`` of ``dtype``.

    Raises:
        ValueError: If the shapes do not agree, positions are not finite or not strictly monotonic, or the
            dtype is another one.
    """
    positions = np.asarray(positions_mm, dtype=np.float64)
    targets = np.asarray(targets_mm, dtype=np.float64)
    if volume.ndim != 3 or positions.shape != (len(volume),) or len(volume) == 0 or targets.ndim != 1:
        raise ValueError(
            f"Expected a volume (Z, H, W) with Z positions and a list of targets, got {volume.shape}, "
            f"{positions.shape} and {targets.shape}."
        )
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.int16)):
        raise ValueError(f"Expected float32 or int16 as output, got {np.dtype(dtype)}.")
    steps = np.diff(positions)
    if not (np.isfinite(positions).all() and np.isfinite(targets).all() and ((steps > 0).all() or (steps < 0).all())):
        raise ValueError("Expected finite slice positions that only rise or only fall, each once.")
    if len(positions) > 1 and steps[0] < 0:
        volume, positions = volume[::-1], positions[::-1]
    places = np.interp(targets, positions, np.arange(len(positions), dtype=np.float64))
    whole = np.rint(places)
    places = np.where(np.abs(places - whole) < ON_A_SLICE, whole, places)
    resampled = np.empty((len(targets), *volume.shape[1:]), dtype=dtype)
    blended = np.empty(volume.shape[1:], dtype=np.float32)
    for index, place in enumerate(places.tolist()):
        near, far = math.floor(place), math.ceil(place)
        blend_slices(volume[near], volume[far], place - near, out=blended)
        resampled[index] = np.rint(blended) if resampled.dtype == np.int16 else blended
    return resampled
