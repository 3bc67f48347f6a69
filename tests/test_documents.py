"""The documents: links and anchors lead somewhere, files and options they name exist, their snippets run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLE = REPOSITORY / "mp3d_bundle"
DOCS = BUNDLE / "docs"
FOLDERS = ("mp3d_bundle", "benchmarks", "integrations", "tests", "research")
DOCUMENTS = [
    path
    for path in sorted(
        [*REPOSITORY.glob("*.md"), *(found for name in FOLDERS for found in (REPOSITORY / name).rglob("*.md"))]
    )
    if path.name != "CHANGELOG.md"
]
FILE_NAMES = {path.name for name in (*FOLDERS, "tools") for path in (REPOSITORY / name).rglob("*.*")}
FILE_NAMES |= {path.name for path in REPOSITORY.glob("*.*")}
# A page that links nowhere to a file on purpose would be a mistake; addresses of the web are not followed.
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    broken = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        place = (path.parent / target).resolve() if target else path
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(link)
    assert not broken


def test_the_index_names_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"index.md"}
    assert pages == {link for link in LINK.findall(index) if link.endswith(".md")}
    assert "docs/index.md" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "(index.md)" in (DOCS / "README.md").read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A page without its blocks, and without the files that the examples of ``extending.md`` make."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
    return re.sub(r"(?m)^New file `[^`]+`", "", text)  # see test_extending_page.py


def each_of(name: str) -> list[str]:
    """``a/b.py`` and ``a/c.py`` of ``a/{b,c}.py``."""
    before, _, rest = name.partition("{")
    words, _, behind = rest.partition("}")
    return [before + word + behind for word in words.split(",")]


def found(base: Path, name: str) -> bool:
    return any(base.glob(name)) if "*" in name else (base / name).exists()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_a_page_names_exist(path: Path) -> None:
    """Sources, tests and configs in backticks; ``tests/`` and ``research/`` exist only in the repository."""
    text = prose(path)
    named = re.findall(r"`((?:mp3d_bundle/|scripts/|tests/|research/|configs/|tools/|benchmarks/)[\w/.{},*-]*)`", text)
    named = [single for name in named for single in each_of(name)]
    absent = [name for name in named if not any(found(base, name) for base in (REPOSITORY, BUNDLE))]
    bare = re.findall(r"`([\w-]+\.(?:py|md))`", text)
    assert not absent + [name for name in bare if name not in FILE_NAMES]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_modules_that_a_page_names_exist(path: Path) -> None:
    """``scripts.metrics.froc.Curve`` in backticks: the module, and in its source the name."""
    absent = []
    made = re.findall(r"(?m)^New file `(.+)\.py`", path.read_text(encoding="utf-8"))
    for name in re.findall(r"`(scripts(?:\.\w+)+)`", prose(path)):
        place, rest = BUNDLE, name.split(".")
        while rest and (place / rest[0]).is_dir():
            place /= rest.pop(0)
        source = place / f"{rest[0] if rest else '__init__'}.py"
        rest, source = (rest[1:], source) if source.is_file() else (rest, place / "__init__.py")
        known = not rest or re.search(rf"\b{rest[0]}\b", source.read_text(encoding="utf-8"))
        if not known and not any(name.startswith(file.replace("/", ".")) for file in made):
            absent.append(name)
    assert not absent


def test_the_citation_is_the_papers() -> None:
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    paper = cited["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "Xu", "Chen", "Ma", "Li", "Wang", "Yu"]
    for page in (REPOSITORY / "README.md", DOCS / "README.md"):
        assert paper["title"] in " ".join(page.read_text(encoding="utf-8").replace("\n> ", " ").split())
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert cited["version"] == metadata["version"]
