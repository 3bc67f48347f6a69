"""Options for scans that would otherwise be rejected, see docs/rejected_scans.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Headers cannot claim more than this, unless a user says otherwise: 3,000 slices of 512 x 512 in float32 fit.
MAX_GIGABYTES = 4.0


@dataclass(frozen=True)
class ReadingRules:
    """How strictly scans are read.

    Attributes:
        hu_offset: What is added to the values to make Hounsfield units of them, on top of the file's own slope and
            intercept. Where it is given, 0 included, the values count as Hounsfield units whatever their distribution.
        any_geometry: Take voxel sizes, extents and places that no CT of a person has.
        max_gigabytes: Most GiB of voxels that the header of one file may claim.
    """

    hu_offset: float | None = None
    any_geometry: bool = False
    max_gigabytes: float = MAX_GIGABYTES

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If one is not of its kind.
        """
        if self.hu_offset is not None and not _finite(self.hu_offset):
            raise ValueError(f"Expected a number of Hounsfield units as hu_offset, got {self.hu_offset!r}.")
        if not isinstance(self.any_geometry, bool):
            raise ValueError(f"Expected True or False as any_geometry, got {self.any_geometry!r}.")
        if not _finite(self.max_gigabytes) or self.max_gigabytes <= 0:
            raise ValueError(f"Expected a positive number as max_gigabytes, got {self.max_gigabytes!r}.")


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


DEFAULT_RULES = ReadingRules()
