"""Another key slice of the same lesion: the augmentation along z that MULAN is trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import RandomizableTransform

from ..boxes import RECIST_PADDING
from .records import Record
from .slabs.slice_store import slice_exists


class RandKeySliced(RandomizableTransform):
    """Move the key slice of a record along z, as far as its smallest lesion surely reaches.

    The lesion is taken for a ball of its short diameter, the annotated one or that of the box. Offsets are whole
    slices, those near 0 more often (triangular). Put it in front of `LoadSlabd`.

    Args:
        share: Of the ball's radius, how far the key slice may move.

    Raises:
        ValueError: If the share is not from 0 to 1.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__(prob=1.0)
        if not 0 <= share <= 1:
            raise ValueError(f"Expected a share from 0 to 1, got {share!r}.")
        self.share = share
        self.place = 0.5

    def randomize(self, data: Any | None = None) -> None:
        """Draw `place`, 0 to 1: where in the distribution of offsets."""
        self.place = float(self.R.uniform())

    def reach(self, record: Record) -> int:
        """Most slices that the key slice of ``record`` may move."""
        found = record["instances"]
        if not len(found["boxes"]):
            return 0
        short = (found["boxes"][:, 2:] - found["boxes"][:, :2]).min(axis=1)
        own: Any = record
        short = short - 2 * own.get("box_padding", RECIST_PADDING)
        if "diameters" in found:
            measured = np.asarray(found["diameters"]).min(axis=1)
            short = np.where(np.isfinite(measured), measured, short)
        radius = max(float(short.min()), 0.0) / 2 * max(record["spacing"])
        return int(self.share * radius / record["slice_interval"])

    def __call__(self, record: Record, randomize: bool = True) -> Record:
        """Return the record of the drawn slice, or of the next one towards the key slice that is stored."""
        if randomize:
            self.randomize()
        reach = self.reach(record)
        weights = reach + 1 - np.abs(np.arange(-reach, reach + 1))
        offset = int(np.searchsorted(weights.cumsum(), self.place * weights.sum(), side="right")) - reach
        key, path = record["key_slice"], Path(record["image"])
        first, last = record.get("slice_range") or (key - reach, key + reach)
        while offset:
            moved = path.with_name(f"{str(key + offset).zfill(len(path.stem))}{path.suffix}")
            if first <= key + offset <= last and slice_exists(moved):
                return {**record, "image": str(moved), "key_slice": key + offset}
            offset -= int(np.sign(offset))
        return {**record}
