"""What inference needs of a scan; `scripts.data.scans.scan.Scan` is one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np


class ScanLike(Protocol):
    """A CT in canonical orientation that knows the way back to its file and to millimetres."""

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
    def path(self) -> Path:
        """The file, or the folder of the series."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it consists of."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the input was understood."""
        ...

    @property
    def series(self) -> str | None:
        """SeriesInstanceUID of a DICOM series, ``"none"`` if it has none; None for other files."""
        ...

    @property
    def places(self) -> np.ndarray | None:
        """``(K,)``, of unevenly spaced slices the place of each on the even axis ``k`` of ``stored_from_canonical``."""
        ...

    @property
    def sha256(self) -> str | None:
        """Of the bytes of the files one after the other, in hexadecimal; None where it was not taken in reading."""
        ...

    @property
    def headers(self) -> tuple[bytes | None, ...]:
        """Of a DICOM series the bytes of each file before its pixels, where they are known; empty for other files."""
        ...

    def evenly(self) -> ScanLike:
        """The same scan as if its slices had been stored on even places."""
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
