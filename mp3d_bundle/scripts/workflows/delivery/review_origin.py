"""Which result a review is of, and the numbers of its lesions: a lesion keeps both in the results of the review."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...inference.detections import FIRST_RESULT
from ...inference.outputs.lesions_document import result_sha256
from ...storage.printable import shown
from ...storage.safe_json import read_json

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ReviewOrigin:
    """What identifies the lesions of a review.

    Attributes:
        result: SHA-256 of the result that was reviewed.
        first: SHA-256 of the result in which the lesions got their numbers; another one if that was itself the result
            of a review.
        numbers: Of each lesion.
    """

    result: str
    first: str
    numbers: tuple[int, ...]


def read_origin(path: Path) -> ReviewOrigin:
    """Read it from a review that `scripts.data.importing.truth.reviews.read_review` has accepted.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not name its result, or its lesions are not numbered.
    """
    content: Any = read_json(path, "a review (lesions_reviewed.json)")
    result = _digest(content.get("result_sha256"), f"result_sha256 of {path}")
    settings = content.get("settings")
    first = settings.get(FIRST_RESULT) if isinstance(settings, Mapping) else None
    first = result if first is None else _digest(first, f"settings.{FIRST_RESULT} of {path}")
    numbers = tuple(lesion.get("lesion") for lesion in content["lesions"])
    last = 0
    for at, number in enumerate(numbers, start=1):
        if type(number) is not int or number <= last:
            raise ValueError(f"Expected rising numbers of lesions from 1, got {shown(number)} in entry {at} of {path}.")
        last = number
    return ReviewOrigin(result, first, numbers)


def differing_result(origin: ReviewOrigin, digest: str, folder: Path) -> str | None:
    """SHA-256 of the result in a folder if it is of the same scan, and neither the reviewed one nor made from it.

    Args:
        origin: Of the review.
        digest: SHA-256 of the files of the scan.
        folder: With or without ``lesions.json``; one that cannot be read counts as none.
    """
    try:
        document: Any = read_json(folder / "lesions.json", "results (lesions.json)")
        if document["input"]["sha256"] != digest:
            return None
        known = result_sha256(document), document["settings"].get(FIRST_RESULT)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return None
    return None if {origin.result, origin.first}.intersection(known) else known[0]


def _digest(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(
            f"Expected a SHA-256 of 64 hexadecimal digits (0 to 9, a to f), got {shown(value)} as {where}."
        )
    return value
