"""Names that files give of other files lead to regular files of their own folder, and nowhere else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from scripts.storage.contained_paths import contained, plain_name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for path in (folder / "a.png", folder / "below" / "b.png", tmp_path / "secret.png"):
        path.write_bytes(b"1")
    return folder


def test_names_next_to_it_and_below_are_paths(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to("below/b.png")
    (tmp_path / "images_elsewhere").symlink_to(folder)
    for name in ("a.png", "below/b.png", "./a.png", "link.png", "absent.png", "..a..png", "å ß.png", "a:b"[1:] + "x"):
        for start in (folder, tmp_path / "images_elsewhere", str(folder)):
            assert contained(start, name, "labels.json") == Path(start) / name


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.png", "below/../../secret.png", "/etc/passwd", "..", "below/..", "\\\\host\\share\\x", "/"),
        *("..\\secret.png", "below\\..\\..\\secret.png", "C:\\x.png", "C:x.png", "c:/x", "//host/x", "\\x"),
        *(
            "",
            "a\0.png",
            "a\nb.png",
            "\x1b[2J.png",
            "a\udcff.png"[:2] + "\x7f",
            "x" * 5000,
            None,
            3,
            ["a.png"],
            b"a.png",
        ),
    ],
)
def test_names_that_lead_elsewhere_are_rejected_with_one_line(folder: Path, name: object) -> None:
    for check in (lambda: contained(folder, name, "labels.json"), lambda: plain_name(name, "labels.json")):
        with pytest.raises(ValueError, match="Expected the name of a file next to it or below") as error:
            check()
        message = str(error.value)
        assert "labels.json" in message
        assert message.isprintable()
        assert len(message) < 400


def test_only_regular_files_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    monkeypatch.chdir(folder)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("plug")
        kinds = {
            "pipe": "a pipe",
            "zero": "a device",
            "plug": "a socket",
            "below": "a folder",
            "out.png": "a link out of it",
            "up/secret.png": "a link out of it",
            "loop": "",
            "a.png/x": "",
            "x" * 300: "",
        }
        for name, kind in kinds.items():
            with pytest.raises(ValueError, match=f"Expected a (regular )?file.*{kind}.*labels.json") as error:
                contained(folder, name, "labels.json")
            assert str(error.value).isprintable()


def test_a_broken_symbolic_link_is_a_file_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    (folder / "dangling").symlink_to(tmp_path / "absent")
    assert contained(folder, "dangling", "labels.json") == folder / "dangling"
