"""An ontology of tags as Excel writes it: texts in one part of the archive, cells with their numbers in another."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

_SPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
HEADER = ("id", "class", "tag", "synonyms", "count", "exclusive", "parents", "children")


def write_ontology(path: Path, rows: Sequence[tuple[str, str, str]], *, shared: bool = True) -> Path:
    """Write name, exclusions and parents of each tag.

    Args:
        path: The file.
        rows: Lists as the sheet has them, with " | " between the entries.
        shared: Whether texts are in a part of their own.
    """
    table = [HEADER, *(("7", "bodypart", name, name, "3", excluded, parents, "") for name, excluded, parents in rows)]
    texts: list[str] = []
    lines = []
    for number, row in enumerate(table, start=1):
        cells = []
        for letter, text in zip("ABCDEFGH", row, strict=True):
            if not text:
                continue
            if shared and not text.isdecimal():
                texts.append(f"<si><r><t>{escape(text[:1])}</t></r><r><t>{escape(text[1:])}</t></r></si>")
                cells.append(f'<c r="{letter}{number}" t="s"><v>{len(texts) - 1}</v></c>')
            elif text.isdecimal():
                cells.append(f'<c r="{letter}{number}"><v>{text}</v></c>')
            else:
                cells.append(f'<c r="{letter}{number}" t="inlineStr"><is><t>{escape(text)}</t></is></c>')
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {_SPACE}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )
        if shared:
            archive.writestr("xl/sharedStrings.xml", f"<sst {_SPACE}>{''.join(texts)}</sst>")
    return path
