"""What the tests keep to among themselves: none imports another, and ``support`` holds only what is used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("*.py"))}


def imported(tree: ast.Module) -> set[str]:
    """The parts of the names of all modules that are imported."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {part for name in names for part in name.split(".")}


def test_no_test_imports_another() -> None:
    """What several tests need is in ``support``, or a fixture."""
    tests = {path.stem for path in SOURCES if path.stem.startswith("test_")} | {"conftest"}
    found = {path.name: both for path, text in SOURCES.items() if (both := imported(ast.parse(text)) & tests)}
    assert not found


def test_what_support_offers_is_used() -> None:
    words = {path: re.findall(r"\w+", text) for path, text in SOURCES.items()}
    for path in sorted((TESTS / "support").glob("*.py")):
        for node in ast.parse(SOURCES[path]).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                uses = sum(found.count(node.name) for found in words.values())
                assert uses > 1, f"{path.name}: {node.name} is used nowhere"
