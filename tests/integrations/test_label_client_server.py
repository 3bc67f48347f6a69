"""A real MONAI Label server and a clumsy client: damaged labels, odd parameters, and trainings that are stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_labels import write_ball, write_scan, write_weights
from support.label_server import Answer, Server

pytestmark = pytest.mark.skipif("MP3D_LABEL_SERVER" not in os.environ, reason="`make test-label` starts servers")

OURS = "mp3d_bundle"


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of scans, of the served copy and of temporary files."""
    top = tmp_path_factory.mktemp("top")
    for name in ("studies", "temporary", "served"):
        (top / name).mkdir()
    write_scan(top / "studies" / "ball.nii.gz")
    write_scan(top / "studies" / "l\u00e4sion 1.nii.gz")
    return top


@pytest.fixture(scope="module")
def server(top: Path) -> Iterator[Server]:
    """Our app with a narrow network."""
    models = top / "served" / "mp3d" / "model" / OURS / "models"
    # As a training that was killed leaves it.
    (models / ".label_training" / "data").mkdir(parents=True)
    weights = write_weights(top / "weights.pt")
    arguments = ("--studies", top / "studies", "--folder", top / "served", "--weights", weights)
    running = Server(top / "server.log", *arguments, TMPDIR=str(top / "temporary"), HOME=str(top))
    assert not (models / ".label_training").exists()
    yield running
    running.close()


def submit(server: Server, content: bytes, name: str = "x.json", **query: str) -> Answer:
    return server.ask(
        "PUT", "/datastore/label", {"label": (name, content)}, **{"image": "ball", "tag": "final", **query}
    )


def box(**changes: Any) -> bytes:
    return json.dumps({"markups": [{"type": "ROI", "center": [0, 0, 0], "size": [1, 1, 1], **changes}]}).encode()


@pytest.mark.parametrize("tag", ["final", "original", ""])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got something else in the label of ball"),
        (box()[:-5], "got something else in the label of ball"),
        (b"\xff", "got something else in the label of ball"),
        (b"[" * 100_000, "got something else in the label of ball"),
        (b'{"markups": 3}', "no list 'markups' in the label of ball"),
        (box(center=["a", 0, 0]), "Expected 3 numbers as center"),
        (box(center=[1e300, 0, 0]), "none beyond 100000"),
        (box().replace(b"[0, 0, 0]", b"[NaN, 0, 0]"), "the label of ball"),
        (box().replace(b"[0, 0, 0]", b"[" + b"9" * 5000 + b", 0, 0]"), "the label of ball"),
        (box(size=[1, 1, 0]), "Expected a size above zero"),
        (box(type="Fiducial"), "Expected a box ROI"),
    ],
)
def test_a_label_that_could_not_be_trained_with_is_not_stored(
    server: Server, top: Path, content: bytes, message: str, tag: str
) -> None:
    answer = submit(server, content, tag=tag)
    assert (answer.status, message in answer.json()["detail"]) == (422, True), answer.body
    assert not list((top / "studies" / "labels").rglob("*.json"))


def test_only_markups_are_trained_with(server: Server, top: Path) -> None:
    scan = (top / "studies" / "ball.nii.gz").read_bytes()
    answer = submit(server, scan, "x.nii.gz")
    assert (answer.status, "Slicer markups (.json), got a .nii.gz file" in answer.json()["detail"]) == (422, True)
    assert server.ask("GET", "/datastore/").json()["completed"] == 0


@pytest.mark.parametrize(
    "params", [{"latencies": 1}, {"pred": 1}, {"image_meta_dict": {}}, {"cache_transforms": True}, {"box": [[0] * 6]}]
)
def test_names_that_monai_label_uses_itself_change_nothing(server: Server, params: dict[str, Any]) -> None:
    given, plain = (server.infer(OURS, "ball", params={"score_threshold": 0.0, **more}) for more in (params, {}))
    assert (given.status, given.json()["lesions"]) == (200, plain.json()["lesions"])


@pytest.mark.parametrize("sync", ["true", "false"])
def test_wrong_parameters_are_rejected_before_the_work(server: Server, sync: str) -> None:
    for path, params, message in (
        (f"/batch/infer/{OURS}", {"score_threshold": 3}, "score_threshold from 0 to 1, got 3"),
        (f"/batch/infer/{OURS}", {"max_batch_size": "x"}, "max_batch_size to be a whole number from 0, got 'x'"),
        (f"/batch/infer/{OURS}", {"label_tag": "final"}, "got 'final'"),
        (f"/train/{OURS}", {"max_epochs": 0}, "max_epochs to be a whole number from 1, got 0"),
        ("/train/", {OURS: {"max_epochs": 0}}, "max_epochs to be a whole number from 1, got 0"),
        (f"/train/{OURS}", {"device": 3}, "Expected a device among"),
    ):
        answer = server.ask("POST", path, params, run_sync=sync)
        assert (answer.status, message in answer.json()["detail"]) == (400, True), (path, answer.body)
    assert server.ask("GET", "/train/").status == server.ask("GET", "/batch/infer").status == 404


def test_a_batch_uses_all_scans_but_those_that_it_names(server: Server, top: Path) -> None:
    """Damaged ones come first, in between and last."""
    broken = [top / "studies" / f"{name}.nii.gz" for name in ("aa", "cc", "zz")]
    for path in broken:
        path.write_bytes(b"0" * 100)
    params = {"max_workers": 2, "label_tag": "some", "score_threshold": 0.0}
    try:
        until(lambda: server.ask("GET", "/datastore/").json()["total"] == 5)
        answer = server.ask("POST", f"/batch/infer/{OURS}", params, run_sync="true")
        detail = answer.json()["detail"]
        assert (answer.status, "3 of 5 scans could not be used" in detail) == (422, True), answer.body
        assert all(f"{path.name[:2]}: " in detail and path.name in detail for path in broken), detail
        assert str(top) not in detail
        for image in ("ball", "l\u00e4sion 1"):
            stored = server.ask("GET", "/datastore/label", label=image, tag="some")
            assert (stored.status, len(stored.json()["markups"]) > 0) == (200, True)
        assert server.ask("POST", f"/batch/infer/{OURS}", params).status == 200
        until(lambda: server.ask("GET", "/batch/infer").json()["status"] == "ERROR")
        assert any("3 of 5 scans" in line for line in server.ask("GET", "/batch/infer").json()["details"])
    finally:
        for path in broken:
            path.unlink()
    until(lambda: server.ask("GET", "/datastore/").json()["total"] == 2)


def test_a_scan_that_cannot_be_used_is_not_added(server: Server, top: Path) -> None:
    scan = (top / "studies" / "ball.nii.gz").read_bytes()
    files, temporary = {*(top / "studies").rglob("*")}, {*(top / "temporary").rglob("*")}
    for content in (b"", b"0" * 100, scan[:-100], scan[:200]):
        answer = server.ask("PUT", "/datastore/", {"file": ("sent.nii.gz", content)}, image="new")
        assert (answer.status, "new.nii.gz" in answer.json()["detail"]) == (422, True), answer.body
    # The folder of files that are being written may have been that of the test before.
    assert not {*(top / "studies").rglob("*")} - files
    assert server.ask("GET", "/datastore/").json()["total"] == 2
    answer = server.ask("PUT", "/datastore/", {"file": ("sent.nii.gz", scan)}, image="new")
    assert (answer.status, answer.json()) == (200, {"image": "new"})
    assert server.infer(OURS, "new").status == 200
    assert (top / "studies" / "new.nii.gz").read_bytes() == scan
    # What an inference answers with is removed after its answer, that of the test before too.
    until(lambda: not {*(top / "temporary").rglob("*")} - temporary)
    (top / "studies" / "new.nii.gz").unlink()
    until(lambda: server.ask("GET", "/datastore/").json()["total"] == 2)


def test_an_answer_does_not_tell_where_a_link_leads(server: Server, top: Path) -> None:
    (top / "private").mkdir()
    (top / "private" / "notes.txt").touch()
    link = top / "studies" / "link.nii.gz"
    link.symlink_to(top / "private" / "notes.txt")
    try:
        until(lambda: server.ask("GET", "/datastore/").json()["total"] == 3)
        answer = server.infer(OURS, "link")
        assert (answer.status, "got notes.txt" in answer.json()["detail"]) == (422, True), answer.body
    finally:
        link.unlink()
    until(lambda: server.ask("GET", "/datastore/").json()["total"] == 2)


def test_a_training_that_is_stopped_leaves_nothing(server: Server, top: Path, tmp_path: Path) -> None:
    models = top / "served" / "mp3d" / "model" / OURS / "models"
    kept, temporary = {*models.iterdir()}, {*(top / "temporary").rglob("*")}
    nothing = server.ask("POST", f"/train/{OURS}", {})
    assert nothing.status == 200, nothing.body
    until(lambda: server.ask("GET", "/train/").json()["status"] == "ERROR")
    lines = server.ask("GET", "/train/").json()["details"]
    assert any("Expected scans with submitted labels" in line for line in lines)
    assert not any("Traceback" in line or line.startswith(" ") for line in lines)
    assert submit(server, write_ball(tmp_path / "ball.json").read_bytes()).status == 200
    assert server.ask("POST", f"/train/{OURS}", {"max_epochs": 1000, "device": "cpu"}).status == 200
    until(lambda: (models / ".label_training" / "data").exists())
    # Inferences are answered meanwhile.
    assert server.infer(OURS, "l\u00e4sion 1").status == 200
    until(lambda: any("model.pt" in line for line in server.ask("GET", "/train/").json()["details"]))
    assert str(top) not in server.ask("GET", "/train/", all="true").body.decode()
    stopped = server.ask("DELETE", "/train/")
    assert (stopped.status, stopped.json()["status"]) == (200, "STOPPED")
    assert str(top) not in stopped.body.decode()
    assert server.ask("DELETE", "/train/").status == 200
    assert {*models.iterdir()} - kept <= {models / "previous.pt"}
    assert {*(top / "temporary").rglob("*")} == temporary


def until(done: Any, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.5)
