"""The page: the paper next to ours, missing rows named, synthetic said in every title."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from research.study_commands import Planner
from research.study_page import Findings, write_page
from support.fake_runs import NOTICE, finish, planner_in


def finished(planner: Planner, table: str, name: str, values: list[float]) -> None:
    setting = planner.study.resolve(table, name, planner.profile)
    for seed, value in enumerate(values):
        finish(planner, planner.run(setting, seed), ap50=value, curve=True)


def page(planner: Planner, tables: str, failures: dict[str, str] | None = None) -> str:
    write_page(planner, tables, Findings(planner, (0, 1, 2)), failures or {})
    return (planner.places.output / "study.md").read_text()


def rows(text: str, label: str) -> list[list[str]]:
    """Cells of the three lines that begin with ``label``."""
    lines = text.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith(f"| {label} | "))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first : first + 3]]


def test_paper_and_ours_stand_side_by_side(tmp_path: Path) -> None:
    planner = planner_in(tmp_path)
    finished(planner, "1", "mp3d_9", [0.60, 0.62, 0.67])
    finished(planner, "1", "mp3d_1", [0.30])
    text = page(planner, "1")
    paper, ours, interval = rows(text, "MP3D FPN, 9 slices")
    assert paper[2:7] == ["79.60", "85.29", "89.61", "92.45", "76.87"]
    assert ours[6:] == ["**63.0 ± 3.6**", "3"]
    assert interval[6] == "54.0 to 72.0"
    assert rows(text, "MP3D FPN, 1 slice (control, not in the paper)")[2][6] == "27.0 to 33.0†"
    assert rows(text, "MR3D FPN, 9 slices")[1][1] == "not run"
    assert rows(text, "3DCE, 27 slices [1], as printed")[1][1] == "another method's figures"
    assert rows(text, "3DCE, 27 slices [1]")[0][1] == "its authors' log"
    assert "3.0" in text
    assert "nine slices beat one | 1 | +30.0 (-) | **undecided**" in text
    assert "MP3D equals MR3D, at 60 % of its operations | 0 | - | **not run**" in text
    assert 'python -m monai.bundle run training --config_file "[' in text


def test_intervals_stay_within_per_cent(tmp_path: Path) -> None:
    planner = planner_in(tmp_path)
    finished(planner, "1", "mp3d_9", [0.15, 0.30])
    assert rows(page(planner, "1"), "MP3D FPN, 9 slices")[2][6] == "0.0 to 100.0"


def test_every_title_and_caption_says_synthetic(tmp_path: Path) -> None:
    planner = planner_in(tmp_path)
    finished(planner, "2", "mp3d_9", [0.6, 0.7])
    text = page(planner, "12345")
    titles = re.findall(r"^#+ .*", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    assert titles
    assert all("Synthetic data" in title for title in titles)
    # The head of the page, and the section of every table.
    head, *sections = text.split("\n## ")
    assert len(sections) >= 5
    for part in (head, *(section for section in sections if "Table" in section.splitlines()[0])):
        assert f"**{NOTICE}**" in part, part.splitlines()[0]
    assert "Synthetic data: FROC" in text


def test_the_studys_own_pre_training_is_named_where_it_is_used(tmp_path: Path) -> None:
    sections = page(planner_in(tmp_path), "14").split("\n## ")
    for section, expected in ((sections[1], False), (sections[2], True)):
        assert ("a stand-in of natural images: no photographs" in section) == expected
        assert ("research.natural_images" in section) == expected
    full = tmp_path / "full"
    full.mkdir()
    assert "research.natural_images" not in page(planner_in(full, profile="full", synthetic=False), "4")


def test_a_real_data_set_is_not_called_synthetic(tmp_path: Path) -> None:
    planner = planner_in(tmp_path, profile="full", synthetic=False)
    text = page(planner, "1")
    assert "ynthetic" not in text
    assert "not run" in text


def test_pictures_exist_for_what_was_run(tmp_path: Path) -> None:
    planner = planner_in(tmp_path)
    finished(planner, "5", "scratch_2x@20", [0.2, 0.3])
    finished(planner, "5", "scratch_2x", [0.6])
    text = page(planner, "35")
    named = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert named == ["figures/table_3_froc.png", "figures/table_5_froc.png", "figures/table_5_shares.png"]
    assert all((planner.places.output / name).stat().st_size > 5000 for name in named)
    line = next(line for line in text.splitlines() if "25.0 ± 7.1" in line)
    assert "not run" in line
    assert "**60.0** (57.0 to 63.0†)" in line


def test_failures_are_on_the_page(tmp_path: Path) -> None:
    text = page(planner_in(tmp_path), "3", {"ctm_9, seed 0": "it broke"})
    assert "## Failed" in text
    assert "- ctm_9, seed 0: it broke" in text


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    planner = planner_in(tmp_path)
    planner.places.output.write_text("a file")
    with pytest.raises(OSError, match=r"Cannot write .*study\.md"):
        page(planner, "3")
