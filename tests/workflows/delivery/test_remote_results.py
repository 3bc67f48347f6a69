"""Results in object stores: those of a disk, finished ones skipped, other ones kept, all or nothing that counts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import nibabel
import numpy as np
import pytest

from scripts.storage.output_folder import FolderLock
from scripts.tools.batch.run_batch import make_runner
from scripts.workflows.delivery import remote_results
from scripts.workflows.delivery.remote_results import check_place, is_gone, table_folder
from scripts.workflows.infer_scans import ScanRunner
from support.fake_scans import ball_scan
from support.stores import KINDS, contents, open_bucket, upload

BUNDLE = Path(__file__).resolve().parents[3] / "mp3d_bundle"
OPTIONS = {"checkpoint": BUNDLE / "models" / "demo.pt", "device": "cpu", "engine": "torch"}


@pytest.fixture(params=KINDS)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from open_bucket(request.param, monkeypatch)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for number in (1, 2):
        path = tmp_path / "scans" / f"ct_{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        hu = ball_scan(shape=(6, 40, 56), centre_mm=(20.0 + number, 16, 10))
        nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), path)
    return tmp_path / "scans"


def runner(source: str | Path, output: str | Path, **changes: object) -> ScanRunner:
    options = {
        "outputs": "json,csv",
        **OPTIONS,
        "input": source,
        "output_dir": output,
        "progress": False,
        "logging_file": False,
        **changes,
    }
    return make_runner(
        [f"--config_file={BUNDLE / 'configs' / 'inference.json'}", *(f"--{k}={v}" for k, v in options.items())]
    )


def plain(files: dict[str, bytes]) -> dict[str, bytes]:
    """The results without the time that they took, and without the records, which hash it."""
    return {
        name: re.sub(rb'"timing_s": \{[^}]*\}', b"", content)
        for name, content in files.items()
        if not name.endswith("finished.json")
    }


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_in_a_store_are_those_of_a_disk_and_finished_ones_are_skipped(
    bucket: str, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upload(scans, f"{bucket}/scans")
    assert runner(f"{bucket}/scans", f"{bucket}/out").run() == []
    assert runner(scans, tmp_path / "out").run() == []
    first = contents(f"{bucket}/out")
    assert plain(first) == plain(files_below(tmp_path / "out"))
    assert {"ct_1/finished.json", "ct_2/lesions.csv"} <= set(first)
    caplog.set_level(logging.INFO)
    assert runner(f"{bucket}/scans", f"{bucket}/out").run() == []
    assert caplog.text.count("skipped, its results are in") == 2
    assert f"{bucket}/scans/ct_1.nii.gz: skipped, its results are in {bucket}/out/ct_1." in caplog.text
    assert contents(f"{bucket}/out") == first
    # A file that was removed is made again; results of other settings are kept.
    store, key = fsspec.core.url_to_fs(f"{bucket}/out/ct_1/lesions.csv")
    store.rm_file(key)
    assert runner(f"{bucket}/scans", f"{bucket}/out").run() == []
    assert plain(contents(f"{bucket}/out")) == plain(first)
    before = contents(f"{bucket}/out")
    failures = runner(f"{bucket}/scans", f"{bucket}/out", pixel_spacing=1.2).run()
    assert len(failures) == 2
    assert all("got results with other settings" in reason for _, reason in failures)
    assert contents(f"{bucket}/out") == before
    assert runner(f"{bucket}/scans", f"{bucket}/out", outputs="json", overwrite=True).run() == []
    assert "ct_1/lesions.csv" not in contents(f"{bucket}/out")


def test_an_upload_that_breaks_leaves_a_scan_that_does_not_look_finished(
    bucket: str, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = remote_results.send

    def broken(files: dict[str, Path | None], url: str) -> None:
        some = {name: path for name, path in files.items() if name != "lesions.json"}
        real({name: path for name, path in some.items() if name != "finished.json" or path is None}, url)
        if "lesions.json" in files:
            raise OSError(f"Could not use {url}: the line is cut.")

    monkeypatch.setattr(remote_results, "send", broken)
    (failure,) = runner(scans / "ct_1.nii.gz", f"{bucket}/out").run()
    assert "the line is cut" in failure[1]
    assert "lesions.csv" in contents(f"{bucket}/out")
    assert not {"finished.json", "lesions.json"} & set(contents(f"{bucket}/out"))
    monkeypatch.setattr(remote_results, "send", real)
    (failure,) = runner(scans / "ct_1.nii.gz", f"{bucket}/out").run()
    assert "without a readable finished.json" in failure[1]
    assert runner(scans / "ct_1.nii.gz", f"{bucket}/out", overwrite=True).run() == []
    assert {"finished.json", "lesions.json"} <= set(contents(f"{bucket}/out"))


def test_a_record_that_leads_out_of_its_folder_is_rejected(bucket: str, scans: Path) -> None:
    record = {"files": {"../../evil": "0"}, "made": {}}
    store, key = fsspec.core.url_to_fs(f"{bucket}/out/finished.json")
    store.pipe_file(key, json.dumps(record).encode())
    (failure,) = runner(scans / "ct_1.nii.gz", f"{bucket}/out").run()
    assert "Expected names of results in" in failure[1]


def test_tables_of_a_batch_are_sent_also_after_an_error(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    def batch() -> None:
        with table_folder(f"{bucket}/out", FolderLock(f"{bucket}/out", "a batch")) as folder:
            (folder / "batch.csv").write_text("path\n")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        batch()
    assert contents(f"{bucket}/out") == {"batch.csv": b"path\n"}
    assert f"{bucket}/out has no locks" in caplog.text


def test_folders_of_this_machine_are_used_as_they_are(tmp_path: Path) -> None:
    check_place(tmp_path)
    assert not is_gone(tmp_path)
    assert is_gone(tmp_path / "none")
    assert not is_gone("s3://bucket/none")
    with table_folder(tmp_path, FolderLock(tmp_path, "a batch")) as folder:
        assert folder == tmp_path
        assert (tmp_path / ".lock").exists()


class Refusing:
    """A server that takes nothing the first time."""

    def __init__(self) -> None:
        self.offered: list[list[str]] = []

    def __call__(self, folder: Path) -> int:
        self.offered.append(sorted(path.name for path in folder.iterdir()))
        if len(self.offered) == 1:
            raise OSError("the server takes nothing")
        return 2


@pytest.mark.parametrize("store", [False, True])
def test_results_that_a_server_did_not_take_are_kept_and_sent_again(
    scans: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: bool
) -> None:
    server: Any = Refusing()

    def failures() -> list[tuple[Path, str]]:
        inferring = runner(scans / "ct_1.nii.gz", f"{bucket}/out" if store else tmp_path / "out")
        inferring.send = server
        return inferring.run()

    assert ["the server takes nothing" in reason for _, reason in failures()] == [True]
    monkeypatch.setattr(ScanRunner, "_started", lambda self: pytest.fail("the scan is done anew"))
    assert failures() == []
    first, second = server.offered
    assert first == second
    assert "lesions.json" in first
