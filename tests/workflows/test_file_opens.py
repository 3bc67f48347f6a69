"""How often a DICOM file is opened on the way from its folder to the results."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.data.intensity import IntensityWindow
from scripts.data.scans import find_scans as finding
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.outputs.result_folder import describe_source
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.storage.atomic_files import hash_files
from scripts.workflows.infer_scans import ScanRunner
from support.fake_dicom import write_ct
from support.fake_scans import BlobDetector, ball_scan
from support.fake_weights import weights_of

_OPENED: list[str] | None = None


def _note(event: str, arguments: tuple) -> None:
    if _OPENED is not None and event == "open":
        _OPENED.append(str(arguments[0]))


# An audit hook cannot be removed: it does nothing outside of `opens`.
sys.addaudithook(_note)


@contextmanager
def opens(folder: Path) -> Iterator[Counter[str]]:
    """Count how often each file of a folder is opened, by its name."""
    global _OPENED
    _OPENED, counts = [], Counter()
    try:
        yield counts
    finally:
        counts.update(Path(name).name for name in _OPENED if Path(name).parent == folder)
        _OPENED = None


@pytest.fixture(params=[".dcm", ""], ids=["by suffix", "by content"])
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = write_ct(tmp_path / "ct", ball_scan(), spacing=(1.0, 1.0, 2.5))
    for path in folder.iterdir():
        path.rename(path.with_suffix(request.param))
    (folder / "notes.txt").write_text("not opened")
    (folder / "README").write_text("opened once")
    return folder


@pytest.mark.parametrize("outputs", [("json", "csv"), ("json", "csv", "slicer", "dicom")])
def test_each_file_is_opened_twice_from_the_folder_to_the_results(
    series: Path, tmp_path: Path, outputs: tuple[str, ...]
) -> None:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    weights = weights_of(BlobDetector(), {"name": "blob"})
    with opens(series) as counts:
        runner = ScanRunner(find_scans(series), detector, weights, ResultWriter(tmp_path / "out", outputs=outputs))
        assert runner.run() == []
    assert (tmp_path / "out" / "lesions.json").is_file()
    assert (tmp_path / "out" / "lesions_seg.dcm").is_file() == ("dicom" in outputs)
    assert counts.pop("README") == 1
    # Its header when it is found, its pixels when it is read.
    assert set(counts.values()) == {2}
    assert len(counts) == len(ball_scan())


def test_the_hash_of_the_bytes_that_were_read_is_that_of_the_files(series: Path) -> None:
    (source,) = find_scans(series)
    with source.open() as scan, opens(series) as counts:
        assert describe_source(scan)["sha256"] == scan.sha256
    assert not counts
    assert scan.sha256 == hash_files(scan.files)


def test_headers_beyond_the_limit_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_ct(tmp_path / name, ball_scan()[:3], SeriesInstanceUID=f"1.2.{ord(name)}")
    monkeypatch.setattr(finding, "MAX_KEPT_HEADERS", 5)
    found = []
    for source in find_scans(tmp_path):
        with opens(source.path) as counts, source.open() as scan:
            found.append(scan.sha256)
        assert set(counts.values()) == {1 if source.path.name == "a" else 2}
    assert len(set(found)) == 2
