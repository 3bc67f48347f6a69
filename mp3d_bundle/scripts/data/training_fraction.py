"""A share of the training images, sampled at random (paper section 3.4, Table 5)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from .records import RecordT

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset:
    """Draws a share of the images, not of the boxes or patients: 20 % of DeepLesion's are the paper's "around 4,500".

    Every image has a random number of its own, made from its file name and the seed. A smaller share therefore lies
    within every larger one of the same seed, and the choice depends neither on the machine, nor on versions of
    libraries, nor on the order of the labels.

    Attributes:
        fraction: Share of the images, above 0 and at most 1.
        seed: Another seed draws other images.
    """

    fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.fraction, bool) or not 0 < self.fraction <= 1:
            raise ValueError(f"Expected a share of the training images above 0 and at most 1, got {self.fraction!r}.")

    def __call__(self, records: Sequence[RecordT]) -> list[RecordT]:
        """Draw from ``records``; they keep their order, and there is at least one where there are any."""
        if self.fraction == 1:
            return list(records)
        count = max(int(self.fraction * len(records) + 0.5), min(len(records), 1))
        names = sorted((record["file_name"] for record in records), key=self._number)
        chosen = set(names[:count])
        logger.info("Training on %d of %d images (%g of them, seed %d).", count, len(records), self.fraction, self.seed)
        return [record for record in records if record["file_name"] in chosen]

    def _number(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
