"""The paper's tables as data: figures as printed, and every row resolves to a setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from research.study_plan import COLUMNS, Study, load_study


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study()


def test_the_papers_figures_stand_as_printed(study: Study) -> None:
    by_id = {(name, row.id): row.paper for name, table in study.tables.items() for row in table.rows}
    assert by_id["1", "mp3d_9"] == (79.60, 85.29, 89.61, 92.45, 76.87)
    assert by_id["1", "fpn_3dce_9"] == (74.06, 82.00, 87.58, 91.56, 70.28)
    assert by_id["2", "mp3d_11"] == (80.05, 85.77, 89.55, 92.45, 77.64)
    assert by_id["3", "isotropic_9"] == (78.24, 84.41, 88.82, 91.98, 75.06)
    assert by_id["4", "pretrained_2x"][0] == 79.58
    assert by_id["5", "scratch_2x@20"] == (None, None, None, None, 50.67)


def test_the_figures_are_those_of_the_paper_at_hand(study: Study, shared: Path) -> None:
    text = (shared / "reference" / "paper.txt").read_text()
    lines = [re.findall(r"\b\d\d\.\d\d\b", line) for line in text.splitlines()]
    for table in study.tables.values():
        if table.shares:
            for first in range(0, len(table.rows), len(table.shares)):
                assert [f"{row.paper[-1]:.2f}" for row in table.rows[first : first + 5]] in lines
            continue
        for row in (each for each in table.rows if each.source == "paper"):
            printed = [f"{value:.2f}" for value in row.paper if value is not None]
            assert not printed or any(found[: len(printed)] == printed for found in lines), row.label


def test_3dce_has_its_authors_figures_next_to_the_printed_ones(study: Study, shared: Path) -> None:
    printed, own = (row for row in study.tables["1"].rows if row.label.startswith("3DCE, 27 slices [1]"))
    assert (printed.paper[:4], printed.setting) == ((52.86, 64.80, 74.84, 84.38), None)
    assert (own.paper[:4], own.source) == ((62.48, 73.37, 80.70, 85.65), "its authors' log")
    logged = (shared / "reference" / "baselines.md").read_text()
    assert " | ".join(f"**{value:.2f}**" for value in own.paper[:4]) in logged


def test_later_systems_have_only_figures_that_can_be_cited(study: Study) -> None:
    rows = {row.label: row for row in study.tables["later"].rows}
    assert rows["MP3D FPN, 9 slices"].paper == (79.60, 85.29, 89.61, 92.45, 76.87)
    assert all(set(row.paper) == {None} for label, row in rows.items() if not label.startswith("MP3D"))
    assert "88.46" in rows["LN-DETR"].why
    assert "87.16" in rows["DKMA-ULD"].why


def test_every_row_resolves_in_every_profile(study: Study) -> None:
    for profile in study.profiles.values():
        for name, table in study.tables.items():
            for row in table.rows:
                assert len(row.paper) == len(COLUMNS)
                assert bool(row.setting) != bool(row.why)
                if row.setting:
                    setting = study.resolve(name, row.id, profile)
                    assert setting.share == row.share
                    if profile.name == "reduced" and name in ("1", "later", "2", "3"):
                        assert setting.start == "scratch"


def test_the_same_training_has_the_same_folder(study: Study) -> None:
    full, reduced = study.profiles["full"], study.profiles["reduced"]
    assert study.resolve("1", "mp3d_9", full).key == study.resolve("4", "pretrained_2x", full).key
    assert study.resolve("1", "mp3d_9", full).key != study.resolve("4", "scratch_2x", full).key
    assert study.resolve("1", "mp3d_9", reduced).key == study.resolve("4", "scratch_2x", reduced).key
    keys = {}
    for name, table in study.tables.items():
        for row in table.rows:
            if row.setting:
                one = study.resolve(name, row.id, full)
                same = (one.overlays, one.start, one.schedule, one.share)
                assert keys.setdefault(one.key, same) == same


def test_selecting_names_what_is_unknown(study: Study) -> None:
    assert [row.id for _, row in study.select(["2"], ["mp3d_5", "mp3d_11"])] == ["mp3d_5", "mp3d_11"]
    assert all(row.setting for _, row in study.select(study.tables))
    with pytest.raises(ValueError, match=r"tables out of 1, later, 2, 3, 4, 5, got '6'"):
        study.select(["6"])
    with pytest.raises(ValueError, match="got 'mp3d_13'"):
        study.select(["2"], ["mp3d_13"])
    with pytest.raises(ValueError, match="'nothing'"):
        study.resolve("1", "nothing", study.profiles["full"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schedule: 1x, start: scratch", "schedule: 9x, start: scratch", "known start and schedule"),
        ("setting: retinanet_3", "setting: retina", "setting out of"),
        ("paper: [72.15, 80.07, 86.40, 90.77, null]", "paper: [72.15]", "5 figures"),
        ("satr_7: [narrow_satr]", "satr: [narrow_satr]", "known settings, got .'satr'"),
    ],
)
def test_a_wrong_table_file_is_rejected(tmp_path: Path, old: str, new: str, message: str) -> None:
    source = Path(load_study.__code__.co_filename).with_name("tables.yaml").read_text()
    assert old in source
    (tmp_path / "tables.yaml").write_text(source.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        load_study(tmp_path / "tables.yaml")
