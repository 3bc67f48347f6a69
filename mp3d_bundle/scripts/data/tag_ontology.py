"""Which tags of lesions exclude each other, from the authors' ontology of tags (``lesion_ontology_181022.xlsx``).

Its first sheet has a header and a row for each tag; among the columns are its name, the tags that it excludes and its
parents, lists with " | " between their entries. It belongs to its authors (rsummers11/CADLab) and is read where the
user keeps it. Yan et al., CVPR 2019.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ..storage.safe_xml import MAX_XML, parse_xml, plain_tag

PATTERN = "lesion_ontology*.xlsx"
_SHEET, _TEXTS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
_NAME, _EXCLUDED, _PARENTS = "C", "F", "G"
_BETWEEN = " | "


def exclusions(path: Path, names: Sequence[str]) -> np.ndarray:
    """Which tags a lesion cannot have because of one that it has.

    A tag excludes what its row says, all that descends from it, and what its parents exclude, as in the released code.

    Args:
        path: The ontology.
        names: Names of the tags.

    Returns:
        ``(T, T)`` bool: row ``i`` has the tags that tag ``i`` excludes.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not such a file, or has none of the tags.
    """
    rows = {row.get(_NAME, ""): row for row in _rows(path)}
    place = {name: at for at, name in enumerate(names)}
    if not rows.keys() & place.keys():
        raise ValueError(f"Expected tags like {names[0]!r} in column {_NAME} of {path}, got none of {len(names)}.")
    found, parents = (np.zeros((len(names), len(names)), dtype=bool) for _ in range(2))
    for name, at in place.items():
        for matrix, column in ((found, _EXCLUDED), (parents, _PARENTS)):
            listed = rows.get(name, {}).get(column, "").split(_BETWEEN)
            matrix[at, [place[other] for other in listed if other in place]] = True
    before = -1
    while before != (before := int(found.sum())):
        found = found | (found @ parents.T) | (parents @ found)
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Texts of the cells of the first sheet by the letters of their columns, row by row."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: _member(archive, name, path) for name in (_SHEET, _TEXTS) if name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"Expected an Excel file (xlsx), got something else in {path}: {error}.") from error
    if _SHEET not in members:
        raise ValueError(f"Expected a sheet of an Excel file, got none in {path}.")
    texts = [_text(entry) for entry in members[_TEXTS]] if _TEXTS in members else []
    for row in (each for each in members[_SHEET].iter() if plain_tag(each) == "row"):
        cells = {}
        for cell in row:
            column = re.match("[A-Z]+", cell.get("r", ""))
            if column is not None:
                cells[column[0]] = _value(cell, texts, path)
        yield cells


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> ElementTree.Element:
    if archive.getinfo(name).file_size > MAX_XML:
        raise ValueError(f"Expected XML of at most {MAX_XML >> 20} MiB, {name} of {path} is larger.")
    return parse_xml(archive.read(name), f"{name} of {path}")


def _text(element: ElementTree.Element) -> str:
    """All text below an element, whatever its format."""
    return "".join(str(each.text or "") for each in element.iter() if plain_tag(each) == "t")


def _value(cell: ElementTree.Element, texts: Sequence[str], path: Path) -> str:
    value = next((str(each.text or "") for each in cell if plain_tag(each) == "v"), "")
    if cell.get("t") != "s":
        return _text(cell) or value
    if not value.isdecimal() or int(value) >= len(texts):
        raise ValueError(f"Expected the number of a text below {len(texts)}, got {value[:20]!r} in {path}.")
    return texts[int(value)]
