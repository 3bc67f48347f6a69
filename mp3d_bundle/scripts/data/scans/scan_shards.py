"""A share of a list of scans, for machines that work on one list without talking to each other.

Imports nothing heavy: the option is checked before PyTorch and MONAI are imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

# Number of the share, from 0, and number of shares.
SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


class Named(Protocol):
    """What of a scan tells its place in the list, see `scripts.data.scans.find_scans.ScanSource`."""

    @property
    def name(self) -> str:
        """Name of its results."""
        ...

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...

    @property
    def series(self) -> str | None:
        """SeriesInstanceUID of a DICOM scan."""
        ...


AnyScan = TypeVar("AnyScan", bound=Named)


def shard_numbers(shard: str) -> tuple[int, int]:
    """Read ``i/n``.

    Args:
        shard: Number of the share, from 0, and number of shares: ``0/4`` to ``3/4``.

    Returns:
        ``i`` and ``n``.

    Raises:
        ValueError: If it is anything else; ``4/4`` is.
    """
    numbers = SHARD.fullmatch(shard)
    number, total = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if number >= total:
        raise ValueError(f"Expected a share i/n with i from 0 to n - 1, such as 0/4, got {shard!r}.")
    return number, total


def take_shard(scans: Sequence[AnyScan], shard: str | None) -> list[AnyScan]:
    """One share of the scans, every ``n``-th of them by name and path.

    Neighbours in an archive, which are often alike in size, go to different shares. The order in which the scans
    came does not matter, so that machines whose shells sort differently agree.

    Args:
        scans: All scans, the same on every machine.
        shard: ``i/n``, see `shard_numbers`; None for all scans in the order in which they came.

    Returns:
        The scans of the share, empty if there are fewer scans than shares. The shares of all ``i`` have no scan
        in common, and together they are all scans.

    Raises:
        ValueError: If ``shard`` is not a share.
    """
    if shard is None:
        return list(scans)
    number, total = shard_numbers(shard)
    return sorted(scans, key=lambda scan: (scan.name, str(scan.path), scan.series or ""))[number::total]
