"""A full disk costs neither the label that a scan had nor MONAI Label's list, and leaves no part of a file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.label_server import PYTHON
from support.module_files import load_module
from support.small_disks import Disk, assert_on_a_small_disk

APP = Path(__file__).resolve().parents[2] / "integrations" / "monai_label" / "app"
NEEDS_MONAI_LABEL = pytest.mark.skipif(
    "MP3D_LABEL_SERVER" not in os.environ, reason="`make test-label` installs MONAI Label"
)
files = load_module(APP / "mp3d_label_files.py")


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    large.write_bytes(b"x" * 200_000)
    content = {"objects": "y" * 200_000}

    def work(disk: Disk) -> None:
        target = disk.folder / "ball.json"
        store = SimpleNamespace(
            _lock_file=str(tmp_path / ".lock"),
            _datastore_config_path=str(target),
            _datastore=SimpleNamespace(model_dump=lambda exclude: content),
        )
        target.write_text("before")
        with pytest.raises(OSError, match="No space left"):
            files.copy_whole(str(large), str(target))
        with pytest.raises(OSError, match="No space left"):
            files.write_list(store)
        assert target.read_text() == "before"
        assert os.listdir(disk.folder) == ["ball.json"]
        disk.resize(1024)
        files.copy_whole(str(large), str(target))
        assert target.read_bytes() == large.read_bytes()
        assert target.stat().st_mode == large.stat().st_mode
        files.write_list(store)
        assert target.stat().st_size > 200_000
        assert store._config_ts == target.stat().st_mtime
        assert os.listdir(disk.folder) == ["ball.json"]

    folder = tmp_path / "disk"
    folder.mkdir()
    assert_on_a_small_disk(folder, work)


STORE = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import main
from monailabel.datastore.local import LocalDatastore
folder, label = map(Path, sys.argv[2:])
(folder / "ball.nii.gz").write_bytes(b"scan")
store = LocalDatastore(str(folder), auto_reload=False)
label.write_bytes(b"before")
store.save_label("ball", str(label), "final", {})
listed = (folder / "datastore_v2.json").read_bytes()
for content, info in ((b"x" * 200_000, {}), (b"before", {"text": "y" * 200_000})):
    label.write_bytes(content)
    try:
        store.save_label("ball", str(label), "final", info)
    except OSError as error:
        assert "No space left" in str(error), error
    else:
        raise AssertionError("it has room")
    assert (folder / "labels" / "final" / "ball.json").read_bytes() == b"before"
    assert (folder / "datastore_v2.json").read_bytes() == listed
assert not list(folder.rglob("*.part"))
assert LocalDatastore(str(folder), auto_reload=False).get_label_uri("ball", "final").endswith("ball.json")
"""


def run_with_monai_label(script: str, studies: Path, label: Path) -> None:
    subprocess.run([str(PYTHON), "-c", script, str(APP), str(studies), str(label)], check=True)


@NEEDS_MONAI_LABEL
def test_monai_labels_own_datastore_writes_whole_files(tmp_path: Path) -> None:
    def work(disk: Disk) -> None:
        run_with_monai_label(STORE, disk.folder, tmp_path / "label.json")

    folder = tmp_path / "disk"
    folder.mkdir()
    assert_on_a_small_disk(folder, work)


TWO = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import main
from monailabel.datastore.local import LocalDatastore
folder, label = map(Path, sys.argv[2:])
(folder / "ball.nii.gz").write_bytes(b"scan")
label.write_bytes(b"boxes")
server, batch = LocalDatastore(str(folder), auto_reload=True), LocalDatastore(str(folder), auto_reload=False)
batch.save_label("ball", str(label), "original", {})
end = time.monotonic() + 20
while not server.get_label_uri("ball", "original"):
    assert time.monotonic() < end, "not seen"
    time.sleep(0.05)
server.save_label("ball", str(label), "final", {})
assert set(LocalDatastore(str(folder), auto_reload=False).get_labels_by_image_id("ball")) == {"final", "original"}
"""


@NEEDS_MONAI_LABEL
def test_a_server_sees_the_list_that_a_batch_writes(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    run_with_monai_label(TWO, folder, tmp_path / "label.json")
