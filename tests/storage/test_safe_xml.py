"""XML from anywhere: read, or rejected in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.storage import safe_xml
from scripts.storage.safe_xml import parse_xml, plain_tag, read_xml


def test_elements_are_called_without_their_namespace(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<root xmlns="urn:x"><child>text</child></root>')
    root = read_xml(tmp_path / "a.xml")
    assert plain_tag(root) == "root"
    assert [(plain_tag(child), child.text) for child in root] == [("child", "text")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "without definitions of its own"),
        (b"<!doctype a><a/>", "without definitions of its own"),
        (b"<a><b></a>", "Expected XML, cannot read here"),
        (b"", "Expected XML, cannot read here"),
        (b'<?xml version="1.0" encoding="none"?><a/>', "Expected XML, cannot read here"),
    ],
)
def test_anything_else_is_rejected(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_xml(content, "here")


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_xml, "MAX_XML", 10)
    (tmp_path / "a.xml").write_text("<root></root>")
    with pytest.raises(ValueError, match="is larger"):
        read_xml(tmp_path / "a.xml")
