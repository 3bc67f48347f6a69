"""Reading XML from anywhere: of limited size, and without definitions of its own, which could build without end."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

MAX_XML = 1 << 26


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file that defines no entities of its own.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not XML, or larger than 64 MiB.
    """
    if path.stat().st_size > MAX_XML:
        raise ValueError(f"Expected XML of at most {MAX_XML >> 20} MiB, {path} is larger.")
    return parse_xml(path.read_bytes(), str(path))


def parse_xml(content: bytes, where: str) -> ElementTree.Element:
    """`read_xml` of content that has been read; ``where`` names it in messages."""
    if b"<!ENTITY" in content or b"<!DOCTYPE" in content.upper():
        raise ValueError(f"Expected XML without definitions of its own (DOCTYPE), got some in {where}.")
    try:
        return ElementTree.parse(io.BytesIO(content)).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"Expected XML, cannot read {where}: {error}.") from error


def plain_tag(element: ElementTree.Element) -> str:
    """The name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]
