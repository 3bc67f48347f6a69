"""Detections on slices from a table."""

from __future__ import annotations

from pathlib import Path

from ...data.importing.set_tables import read_table
from ...storage.safe_json import text_number
from .coco_detections import FlatDetection

_IMAGE = ("image", "file_name", "id")
_BOX = ("x1", "y1", "x2", "y2")
_KIND = ("category_id", "class", "label")
# Columns that give boxes in another way than corners.
_OTHER_BOX = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("w", "h"), ("bbox",))


def table_detections(path: Path) -> list[FlatDetection]:
    """Read a CSV file with ``image``, ``x1 y1 x2 y2`` (pixels from 0, half-open) and ``score``.

    Args:
        path: The file; it may have ``category_id``, ``class`` or ``label`` as well.

    Returns:
        Every detection; its place is its line.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If columns are missing or give boxes in two ways, or a row cannot be used; it is named.
    """
    columns, rows = read_table(path)
    image = next((columns[name] for name in _IMAGE if name in columns), None)
    if image is None or not {*_BOX, "score"} <= set(columns):
        raise ValueError(f"Expected the columns image, x1, y1, x2, y2, score, got {', '.join(columns)} in {path}.")
    if other := next((names for names in _OTHER_BOX if set(names) <= set(columns)), None):
        raise ValueError(f"Expected boxes as {', '.join(_BOX)} alone, got {', '.join(other)} as well in {path}.")
    found: list[FlatDetection] = []
    kind = next((columns[name] for name in _KIND if name in columns), None)
    for line, row in rows:
        try:
            box = [text_number(row[columns[name]]) for name in _BOX]
            found.append((str(row[image]), row[kind] if kind else None, box, text_number(row[columns["score"]]), line))
        except (TypeError, ValueError):
            raise ValueError(f"Expected a box and a score, got others in line {line} of {path}.") from None
    return found
