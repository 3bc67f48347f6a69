"""The attributes of a scan that inference needs; `scripts.data.scans.scan.Scan` is one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np


class ScanLike(Protocol):
    """A CT in canonical orientation, with conversions to its file and to millimetres."""

    @property
    def hu(self) -> np.ndarray:
        """``(Z, H, W)`` int16 Hounsfield units, axes towards head, back and left."""
        ...

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between voxel centres along x, y, z of ``hu``."""
        ...

    @property
    def affine(self) -> np.ndarray:
        """``(4, 4)``, voxel-centre index (x, y, z) of ``hu`` to LPS mm."""
        ...

    @property
    def stored_from_canonical(self) -> np.ndarray:
        """``(4, 4)``, voxel-centre index (x, y, z) of ``hu`` to index (i, j, k) of the stored array."""
        ...

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """``(I, J, K)`` of the stored array."""
        ...

    @property
    def slice_axis(self) -> int:
        """The stored axis along the patient."""
        ...

    @property
    def sheared(self) -> bool:
        """Whether slices were shifted back over each other (tilted gantry)."""
        ...

    @property
    def path(self) -> Path:
        """The file, or the folder of the series."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it consists of, of a DICOM series that of each slice."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user about how the input was read."""
        ...

    @property
    def series(self) -> str | None:
        """SeriesInstanceUID of a DICOM series, ``"none"`` if it has none; None for other files."""
        ...

    @property
    def places(self) -> np.ndarray | None:
        """``(K,)``, positions of unevenly spaced slices on the even axis ``k`` of ``stored_from_canonical``."""
        ...

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the bytes of the files one after the other, in hexadecimal; None if it was not computed."""
        ...

    @property
    def headers(self) -> tuple[bytes | None, ...]:
        """The bytes of each file of a DICOM series before its pixels, if known; empty for other files."""
        ...

    @property
    def frames(self) -> tuple[int | None, ...]:
        """Of Enhanced CT the number of each slice in its file, from 1, None for a file of one slice; else empty."""
        ...

    def evenly(self) -> ScanLike:
        """The same scan with its slices on even positions."""
        ...

    def points_to_lps(self, points: np.ndarray) -> np.ndarray:
        """Canonical edges ``(N, 3)`` to mm."""
        ...

    def boxes_to_lps(self, boxes: np.ndarray) -> np.ndarray:
        """Canonical edges ``(N, 6)`` to mm, low corner first."""
        ...

    def boxes_to_stored(self, boxes: np.ndarray) -> np.ndarray:
        """Canonical edges ``(N, 6)`` to stored edges, low corner first."""
        ...
