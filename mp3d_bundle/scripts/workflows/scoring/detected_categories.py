"""Which category of a truth in COCO style a name or a number means."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...storage.printable import shown, shown_name
from .coco_detections import FlatDetection, place_in

logger = logging.getLogger(__name__)

# Names that a message lists.
_NAMED = 20


def one_category(categories: Sequence[Mapping[str, Any]], wanted: Any, where: str) -> Any:
    """The id of the only category that a name or a number fits.

    Args:
        categories: Of the truth.
        wanted: A whole number, which is an id, or a text: an id or a name.
        where: What asks for it, for messages.

    Raises:
        ValueError: If there is none or several, or it has no id.
    """
    by_name = isinstance(wanted, str)
    text = str(int(wanted) if isinstance(wanted, float) and wanted.is_integer() else wanted).strip()
    fitting = [
        entry for entry in categories if text == str(entry.get("id")) or (by_name and text == str(entry.get("name")))
    ]
    if len(fitting) == 1 and type(fitting[0].get("id")) in (int, str):
        return fitting[0]["id"]
    names = (shown_name(f"{entry.get('name')} ({entry.get('id')})") for entry in (fitting or categories)[:_NAMED])
    known = ", ".join(names)
    if len(fitting) > 1:
        raise ValueError(f"Expected one category, got {shown(wanted)}, which fits {known}, {where}.")
    raise ValueError(f"Expected one of the categories {known}, got {shown(wanted)} {where}.")


def with_known_categories(
    rows: Sequence[FlatDetection], categories: Sequence[Mapping[str, Any]], path: Path
) -> list[FlatDetection]:
    """Detections with the ids of their categories as the truth has them.

    Args:
        rows: The detections.
        categories: Of the truth.
        path: Of the detections, for messages.

    Raises:
        ValueError: If a detection has no category, or one that the truth does not have.
    """
    known: dict[Any, Any] = {}
    for _, kind, *_, place in rows:
        if kind is None or kind == "":
            raise ValueError(
                f"Expected a category of every detection, as --category is given, got none in {place_in(path, place)}."
            )
        key = type(kind), str(kind)
        if key not in known:
            known[key] = one_category(categories, kind, f"in {place_in(path, place)}")
    return [(image, known[type(kind), str(kind)], box, score, place) for image, kind, box, score, place in rows]


def tell_unknown(kinds: Sequence[Any], known: Mapping[str, str], path: Path) -> None:
    """Log how many detections are of a category that the truth does not have, if any.

    Args:
        kinds: Category of each detection.
        known: Names by the texts that mean them.
        path: Of the detections.
    """
    strange = [kind for kind in kinds if str(kind) not in known]
    if strange:
        logger.warning(
            "%s: %d of %d detections are of a category that the truth does not have (%s the first): they count in the "
            "figures of all lesions alone.",
            *(path, len(strange), len(kinds), shown(strange[0])),
        )
