"""DICOM elements whose bytes do not fit their kind end in one line with the name of the place, or have no effect."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from scripts.data.importing.truth.slice_places import SlicePlaces
from scripts.data.importing.truth.truth_files import TruthRules, find_truth
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import Scan, read_scan
from scripts.inference.outputs.dicom.source_images import read_sources
from scripts.inference.outputs.source_names import name_image, name_series
from support.fake_dicom import write_ct
from support.fake_scans import ball_scan
from support.fake_truth import write_dicom_case, write_rtstruct, write_seg

# Numbers, tags, dates and a kind that does not exist: each with its own errors in pydicom.
KINDS = (b"FD", b"AT", b"DA", b"ZZ")
PIXELS = 0x7FE00010

pytestmark = pytest.mark.filterwarnings("ignore")


def elements_of(dataset: pydicom.Dataset) -> Iterator[tuple[int, int]]:
    """Group and element of everything in a data set and its sequences but for pixels and sequences."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from elements_of(item)
        elif element.tag != PIXELS and element.VR not in ("OB", "OW", "UN", "UT", "OF"):
            yield element.tag.group, element.tag.element


def changed(content: bytes, tag: tuple[int, int], kind: bytes) -> bytes:
    """The content of a file with every element of a tag said to be of another kind."""
    key = struct.pack("<HH", *tag)
    start = 132 + 12
    head, rest = content[:start], content[start:]
    parts = rest.split(key)
    return head + key.join([parts[0], *(kind + part[2:] for part in parts[1:])])


def test_a_slice(tmp_path: Path) -> None:
    source = write_ct(tmp_path / "whole", ball_scan(), SeriesDescription="Thorax", PatientAge="050Y", PatientWeight=70)
    tags = sorted(set(elements_of(pydicom.dcmread(next(source.iterdir())))))
    assert len(tags) > 30
    outcomes: Counter[str] = Counter()
    folder = tmp_path / "damaged"
    folder.mkdir()
    for tag in tags:
        for kind in KINDS:
            for path in source.iterdir():
                (folder / path.name).write_bytes(changed(path.read_bytes(), tag, kind))
            outcomes[outcome_of(folder)] += 1
    assert min(outcomes["read"], outcomes["rejected"]) > 20, outcomes


def outcome_of(folder: Path) -> str:
    """Read the scans of a folder, and what results need of their headers."""
    try:
        for source in find_scans(folder):
            with source.open() as scan:
                assert name_series(scan) is not None
                assert name_image(scan, 0) is not None
                read_sources(scan.files, scan.headers)
    except (OSError, ValueError) as error:
        return rejected(error, folder)
    return "read"


def rejected(error: Exception, folder: Path) -> str:
    """Check the message of an error."""
    assert "\n" not in str(error)
    assert str(folder) in str(error), error
    return "rejected"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return read_scan(write_dicom_case(tmp_path_factory.mktemp("dicom") / "CT"))


@pytest.mark.parametrize("write", [write_rtstruct, write_seg])
def test_a_truth(tmp_path: Path, scan: Scan, write: object) -> None:
    assert callable(write)
    path = tmp_path / "truth.dcm"
    write(path, scan.path)
    content = path.read_bytes()
    places = SlicePlaces.of(scan)
    outcomes: Counter[str] = Counter()
    for tag in sorted(set(elements_of(pydicom.dcmread(path)))):
        for kind in KINDS:
            path.write_bytes(changed(content, tag, kind))
            try:
                for truth in find_truth(path, TruthRules())[0]:
                    truth.read(places, truth.image)
                outcomes["read"] += 1
            except (OSError, ValueError) as error:
                outcomes[rejected(error, tmp_path)] += 1
    assert min(outcomes["read"], outcomes["rejected"]) > 10, outcomes
