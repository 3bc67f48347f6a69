"""Shares of a list, done one by one: together they are what one run gives, to the last byte."""

from __future__ import annotations

import pickle
import re
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.workflows.infer_scans import ScanOutcome, ScanRunner
from support.fake_scans import BlobDetector, ball_scan
from support.fake_weights import weights_of

NAMES = ("a", "b", "deep/c", "d", "e")


def runner(folder: Path, output: Path, shard: str | None = None) -> ScanRunner:
    weights = weights_of(BlobDetector(), {"name": "blob"})
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    writer = ResultWriter(output, outputs=("json", "csv", "report", "overlays"))
    return ScanRunner(find_scans(folder), detector, weights, writer, shard=shard)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of five scans, and a sixth that cannot be read."""
    for number, name in enumerate(NAMES):
        hu = ball_scan(shape=(8, 40, 56), centre_mm=(20.0 + 2 * number, 16, 10))
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0]))
        nibabel.save(image, tmp_path / "in" / f"{name}.nii")
    (tmp_path / "in" / "cut.nii").write_bytes(b"cut")
    return tmp_path / "in"


def results_of(folder: Path) -> dict[str, bytes]:
    """The files by name, without the time that they took."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    timing = rb'"timing_s": \{[^}]*\}'
    return {name: re.sub(timing, b"", content) for name, content in files.items() if not name.endswith("finished.json")}


@pytest.mark.parametrize("shares", [1, 3, 8])
def test_shares_give_together_what_one_run_gives(
    tmp_path: Path, scans: Path, caplog: pytest.LogCaptureFixture, shares: int
) -> None:
    caplog.set_level("INFO")
    with pytest.raises(SystemExit, match=r"1 of 6 scans failed:"):
        runner(scans, tmp_path / "whole").main()
    ends: list[str] = []
    # More shares than scans are not an error: an array may have more tasks.
    for number in range(shares):
        before = results_of(tmp_path / "shares")
        try:
            runner(scans, tmp_path / "shares", f"{number}/{shares}").main()
        except SystemExit as stopped:
            ends.append(str(stopped.code))
        after = results_of(tmp_path / "shares")
        assert {name: after[name] for name in before} == before
    assert len(ends) == 1
    assert str(scans / "cut.nii") in ends[0]
    whole = results_of(tmp_path / "whole")
    assert len([name for name in whole if name.endswith("lesions.json")]) == len(NAMES)
    assert results_of(tmp_path / "shares") == whole
    assert "skipped" not in caplog.text
    assert f"Share {shares - 1}/{shares}: {6 // shares} of 6 scans." in caplog.text
    caplog.clear()
    # The whole list in other shares: nothing is left to do.
    for number in range(2):
        runner(scans, tmp_path / "shares", f"{number}/2").run()
    assert caplog.text.count("skipped, its results are in") == len(NAMES)


def test_scans_that_another_process_read_give_the_same(tmp_path: Path, scans: Path) -> None:
    """Their arrays come through shared memory, where nothing may be written."""
    with pytest.raises(SystemExit, match=r"1 of 6 scans failed:"):
        runner(scans, tmp_path / "whole").main()
    handed = runner(scans, tmp_path / "handed")
    handed.start()
    for source in handed.scans():
        if source.path.name != "cut.nii":
            with source.open() as scan:
                copy = pickle.loads(pickle.dumps(scan, protocol=5))
            for array in (copy.hu, copy.affine, copy.stored_from_canonical):
                array.flags.writeable = False
            before = zlib.crc32(copy.hu.tobytes())
            assert handed.one(source, copy) == ScanOutcome(skipped=False, lesions=1)
            assert zlib.crc32(copy.hu.tobytes()) == before
            assert handed.one(source, copy) == ScanOutcome(skipped=True, lesions=1)
    assert results_of(tmp_path / "handed") == results_of(tmp_path / "whole")


def test_a_share_of_nothing_is_still_nothing(tmp_path: Path) -> None:
    empty = runner(tmp_path / "absent.nii", tmp_path / "out", "0/2")
    empty.dataset = []
    with pytest.raises(SystemExit, match="Expected a scan, got none"):
        empty.main()


def test_a_share_that_is_none_ends_in_a_line(tmp_path: Path, scans: Path) -> None:
    with pytest.raises(SystemExit, match=r"share i/n with i from 0 to n - 1, such as 0/4, got '2/2'"):
        runner(scans, tmp_path / "out", "2/2").main()
    assert not (tmp_path / "out").exists()
