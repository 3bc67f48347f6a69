"""Finished scans are skipped, results of another scan or of other settings are never replaced silently."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.linking import link_boxes
from scripts.inference.outputs.finished_results import are_finished, describe_part, describe_source
from scripts.inference.outputs.result_storage import RECORD
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.slab_cutter import PlaneScale, SlabCutter
from scripts.inference.volume_detector import VolumeDetector
from scripts.workflows.infer_scans import ScanRunner, Weights
from support.fake_scans import BlobDetector, Seen, ball_scan, scan_of


def write_scan(path: Path, hu: np.ndarray | None = None) -> Path:
    hu = ball_scan() if hu is None else hu
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), path)
    return path


def runner(source: Path, output: Path, model: dict[str, Any] | None = None, **changes: Any) -> ScanRunner:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    weights = Weights("nowhere.pt")
    vars(weights)["_loaded"] = (BlobDetector(), {})
    return ScanRunner(find_scans(source), detector, weights, ResultWriter(output, model or {}), **changes)


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, Path]:
    """A scan and its results."""
    scan = write_scan(tmp_path / "scan.nii")
    runner(scan, tmp_path / "out").main()
    return scan, tmp_path / "out"


def state(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of every file."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_scan_is_skipped_with_a_line(done: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    scan, out = done
    before = state(out)
    again = runner(scan, out)
    # Neither pace nor words make other results.
    again.inferer = replace(again.inferer, batch_size=7, progress=True)
    with caplog.at_level(logging.INFO):
        again.main()
    assert f"{scan}: skipped, its results are in {out}." in caplog.text
    assert again.weights.load().seen == Seen()
    assert state(out) == before
    with caplog.at_level(logging.INFO):
        runner(scan, out, overwrite=True).main()
    assert caplog.text.count("skipped") == 1
    after = state(out)
    assert after.keys() == before.keys()
    assert all(after[path][1] != before[path][1] for path in before)


def test_a_file_that_was_removed_is_made_again(done: tuple[Path, Path]) -> None:
    scan, out = done
    before = (out / "lesions.csv").read_bytes()
    (out / "lesions.csv").unlink()
    runner(scan, out).main()
    assert (out / "lesions.csv").read_bytes() == before


def other_scan(run: ScanRunner) -> None:
    write_scan(Path(run.dataset[0].path), np.roll(ball_scan(), 3, axis=2))


def other_threshold(run: ScanRunner) -> None:
    run.inferer = replace(run.inferer, score_threshold=0.25)


def other_scale(run: ScanRunner) -> None:
    run.inferer = replace(run.inferer, cutter=replace(run.inferer.cutter, scale=PlaneScale(0.8)))


def other_window(run: ScanRunner) -> None:
    run.inferer = replace(run.inferer, intensity=IntensityWindow(high=900.0))


def other_link(run: ScanRunner) -> None:
    run.link = functools.partial(link_boxes, max_gap=1)


def other_outputs(run: ScanRunner) -> None:
    run.writer = replace(run.writer, outputs=("json",))


def other_weights(run: ScanRunner) -> None:
    run.writer = replace(run.writer, model={"sha256": "ab" * 32})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_scan, r"results of another scan \(\w{12} there, \w{12} here\)"),
        (other_threshold, r"with other settings \(score_threshold 0\.0 there, 0\.25 here\)"),
        (other_scale, r"with other settings \(pixel_spacing null there, 0\.8 here\)"),
        (other_window, r"with other settings \(high 1050\.0 there, 900\.0 here\)"),
        (other_link, r"with other settings \(linking"),
        (other_outputs, r"with other settings \(outputs"),
        (other_weights, r"of other weights"),
    ],
)
def test_other_results_are_refused_or_replaced_if_asked(
    done: tuple[Path, Path], change: Callable[[ScanRunner], None], said: str
) -> None:
    scan, out = done
    before = state(out)
    for overwrite in (False, True):
        run = runner(scan, out, overwrite=overwrite)
        change(run)
        if overwrite:
            run.main()
            assert json.loads((out / RECORD).read_text()) != json.loads(before[out / RECORD][0])
        else:
            with pytest.raises(SystemExit, match=rf"^(?s:.)*scan\.nii: Expected .*{said}.*--overwrite") as ended:
                run.main()
            assert "\n" not in str(ended.value.code)
            assert state(out) == before


def test_results_that_were_changed_or_have_no_record_are_refused(done: tuple[Path, Path]) -> None:
    scan, out = done
    csv = out / "lesions.csv"
    content = csv.read_bytes()
    csv.write_bytes(content + b"corrected by hand\n")
    with pytest.raises(SystemExit, match=r"lesions\.csv has been changed since"):
        runner(scan, out).main()
    csv.write_bytes(content)
    runner(scan, out).main()
    for damaged in (b"", None):
        (out / RECORD).write_bytes(damaged) if damaged is not None else (out / RECORD).unlink()
        with pytest.raises(SystemExit, match=r"without a readable finished\.json"):
            runner(scan, out).main()
    assert csv.read_bytes() == content


def test_what_is_read_otherwise_is_another_source(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "scan.nii")
    scan = scan_of(ball_scan(), path=path)
    first = describe_source(scan)
    assert describe_source(scan_of(ball_scan(), path=path)) == first
    for other in (scan_of(ball_scan() + np.int16(1), path=path), scan_of(ball_scan(), (1.0, 1.0, 2.0), path=path)):
        assert describe_source(other)["sha256"] == first["sha256"]
        assert describe_source(other) != first
    assert not are_finished(tmp_path / "nowhere", {"source": first})


def test_parts_are_described_by_what_results_depend_on() -> None:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), amp_dtype=torch.bfloat16)
    told = describe_part({"detector": detector, "link": functools.partial(link_boxes, min_iou=0.3), "device": object()})
    assert told["detector"]["amp_dtype"] == "torch.bfloat16"
    assert told["detector"]["cutter"]["resample"] == "resample_z"
    assert told["detector"]["intensity"] == {
        "kind": "IntensityWindow",
        **{"low": -1024.0, "high": 1050.0, "mean": 123.675, "std": 58.395},
    }
    assert not {"batch_size", "progress"} & set(told["detector"])
    assert told["link"] == {"kind": "link_boxes", "min_iou": 0.3}
    # No address, which no two processes share.
    assert told["device"] == {"kind": "object"}
    endless: list[Any] = []
    endless.append(endless)
    assert "list" in json.dumps(describe_part(endless))
