"""Lists of paths in a text file: as ``find`` and editors of both worlds write them."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan_lists import is_list, once, read_list, walk
from support.fake_scans import ball_scan


def write_scan(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(ball_scan().transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), path)
    return path


@pytest.mark.parametrize(
    "content",
    [b"a.nii\nb c.nii\n", b"a.nii\r\nb c.nii\r\n", b"\n\na.nii\n   \nb c.nii", b"\xef\xbb\xbfa.nii\nb c.nii\n"],
)
def test_line_ends_and_empty_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    assert read_list(tmp_path / "list.txt") == [Path("a.nii"), Path("b c.nii")]


def test_names_that_are_not_utf8_and_spaces_at_the_end_are_kept(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"scan\xff.nii\n a \nsub/#1.nii\n")
    assert read_list(tmp_path / "list.txt") == [Path(os.fsdecode(b"scan\xff.nii")), Path(" a "), Path("sub/#1.nii")]


def test_comments_are_left_out_and_a_name_that_begins_like_one_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# May\r\na.nii\n#b.nii\n./#1.nii\nc.nii # kept\n")
    assert read_list(tmp_path / "list.txt") == [Path("a.nii"), Path("#1.nii"), Path("c.nii # kept")]


def test_a_list_that_is_empty_or_binary_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b" \n\r\n")
    with pytest.raises(ValueError, match=r"a path in each line, got an empty file .*list\.txt"):
        read_list(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"# nothing yet\n")
    with pytest.raises(ValueError, match=r"a path in each line, got only comments in .*list\.txt"):
        read_list(tmp_path / "list.txt")
    # As Windows writes "Unicode".
    (tmp_path / "list.txt").write_bytes("a.nii\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"a path in each line, got a binary file .*list\.txt"):
        find_scans(tmp_path / "list.txt")


@pytest.mark.parametrize("line", ["a read-me, " * 40, "folder/" * 2000])
def test_a_text_of_another_kind_is_rejected(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"a.nii\n{line}\n")
    with pytest.raises(ValueError, match=rf"a path in each line, got '{line[:20]}.*list\.txt"):
        find_scans(tmp_path / "list.txt")


def test_only_files_are_lists(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    assert not is_list(tmp_path / "folder.txt")
    assert not is_list(tmp_path / "absent.txt")
    (tmp_path / "LIST.TXT").write_text("x")
    assert is_list(tmp_path / "LIST.TXT")


def test_a_list_in_a_file_gives_what_the_list_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_scan(tmp_path / "p1" / "ct.nii"), write_scan(tmp_path / "p2" / "ct.nii"), tmp_path / "absent.nii"]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    wanted = find_scans(paths)
    found = find_scans(tmp_path / "list.txt")
    assert [(scan.name, scan.path) for scan in found] == [(scan.name, scan.path) for scan in wanted]
    assert [scan.name for scan in found] == ["p1/ct", "p2/ct", "absent"]
    # Relative paths start in the working folder, wherever the list is.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p1" / "list.txt").write_text("p2/ct.nii")
    (scan,) = find_scans("p1/list.txt")
    assert scan.name == "ct"
    with scan.open() as read:
        assert read.hu.shape == ball_scan().shape


def test_each_folder_comes_once_without_hidden_files_and_results(tmp_path: Path) -> None:
    for name in ("b/2.nii", "b/1.nii", "a/.hidden", "a/lesions.json", "a/own.json", ".git/x", "c/d/3.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path / "b")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    found = [(place.relative_to(tmp_path).as_posix(), files) for place, files in walk(tmp_path)]
    assert found == [(".", []), ("a", ["own.json"]), ("b", ["1.nii", "2.nii"]), ("c", []), ("c/d", ["3.nii"])]


def test_volumes_in_formats_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["ct.hdr", "mr.img", "b.nii.gz", "notes.txt", *(f"{number:02d}.MGZ" for number in range(10))]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert [source.name for source in find_scans(tmp_path)] == ["b"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "left out 12 file(s) in formats that are not read" in line
    assert "00.MGZ, 01.MGZ" in line
    assert line.endswith("09.MGZ and 2 more.")
    caplog.clear()
    find_scans(tmp_path / "b.nii.gz")
    assert not caplog.records


def test_a_path_that_is_listed_twice_comes_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "list.txt").write_text("a.nii\nb.nii\nsub/../b.nii\nb.nii\n./a.nii\n")
    paths = [*read_list(tmp_path / "list.txt"), Path.cwd() / "b.nii"]
    # ``sub`` may be a link: that path may be another file.
    assert once(paths) == [Path("a.nii"), Path("b.nii"), Path("sub/../b.nii")]
    assert "more than once (3 too many, b.nii the first)" in caplog.text
