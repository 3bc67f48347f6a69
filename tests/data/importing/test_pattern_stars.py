"""What a star stands for, in files and in folders with scans, as the search for files takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.importing.pattern_stars import StarPattern, files_like

PATHS = ("v-1.nii", "sub/v-2.nii", "a/b/v-3.nii", "a/b.nii/w(1).nii", "v-1.nii.gz", "case_4/CT/1.dcm")


@pytest.mark.parametrize(
    ("pattern", "path", "stars"),
    [
        ("v-*.nii", "v-1.nii", ("1",)),
        ("v-*.nii", "sub/v-2.nii", ("2",)),
        ("v-*.nii", "v-1.nii.gz", None),
        ("*/v-*.nii", "sub/v-2.nii", ("sub", "2")),
        ("*/v-*.nii", "a/b/v-3.nii", None),
        ("**/v-*.nii", "a/b/v-3.nii", ("3",)),
        ("**/v-*.nii", "v-1.nii", ("1",)),
        ("./v-?.*", "v-1.nii", ("nii",)),
        ("a/*/w([!2]).nii", "a/b.nii/w(1).nii", ("b.nii",)),
        ("a/*/w([2-9]).nii", "a/b.nii/w(1).nii", None),
        ("case_*", "case_4/CT/1.dcm", ("4",)),
        ("case_*/CT", "case_4/CT", ("4",)),
    ],
)
def test_what_the_stars_stand_for(pattern: str, path: str, stars: tuple[str, ...] | None) -> None:
    assert StarPattern(Path("root"), pattern).stands_for(Path("root") / path) == stars


@pytest.mark.parametrize("pattern", ["v-*.nii*", "*/*.nii", "**/*.nii", "**/v-[13].*", "*/?/*", "case_*/*"])
def test_every_file_that_the_search_takes_is_like_the_pattern(tmp_path: Path, pattern: str) -> None:
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = files_like(tmp_path, pattern)
    assert found
    assert all(StarPattern(tmp_path, pattern).stands_for(path) is not None for path in found)


def test_patterns_come_in_pairs() -> None:
    assert StarPattern.pair(Path("a"), "*", Path("b"), None) is None
    assert StarPattern(Path("a"), "**/*/x_*_?").stars == 2


@pytest.mark.parametrize("pattern", ["*.nii", "**/*.nii", "*/*.nii"])
def test_links_to_folders_are_followed(tmp_path: Path, pattern: str) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "v-1.nii").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "case").symlink_to(place, target_is_directory=True)
    # Two links that lead back must not end in an endless search.
    (place / "back").symlink_to(root, target_is_directory=True)
    (place / "again").symlink_to(root, target_is_directory=True)
    assert files_like(root, pattern) == [root / "case" / "v-1.nii"]
