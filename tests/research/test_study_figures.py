"""Figures of a study: curves of real evaluation files, a panel each group."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from research.study_figures import Curve, froc_panels, share_figure
from support.fake_evaluations import evaluation_in


def test_panels_show_what_they_are_given(tmp_path: Path) -> None:
    folders = [evaluation_in(tmp_path / str(seed), images=10, seed=seed) for seed in range(2)]
    froc_panels({"": {"row": Curve(folders)}}, tmp_path / "one.png", title="One", notice="Made up.")
    froc_panels(
        {"a": {"row": Curve(folders)}, "b": {"row": Curve(folders[:1])}}, tmp_path / "two.png", title="Two", notice=None
    )
    one, two = (cv2.imread(str(tmp_path / name)) for name in ("one.png", "two.png"))
    assert one is not None
    assert two is not None
    assert two.shape[1] > one.shape[1]


def test_the_papers_points_are_drawn_where_given(tmp_path: Path) -> None:
    folders = [evaluation_in(tmp_path / "0", images=10)]
    for name, paper in (("with", (79.6, 85.29, None, 92.45)), ("without", None)):
        froc_panels({"": {"row": Curve(folders, paper)}}, tmp_path / f"{name}.png", title="One", notice=None)
    drawn, plain = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("with", "without"))
    assert drawn is not None
    assert plain is not None
    assert (drawn != plain).any()


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        froc_panels({"a": {}}, tmp_path / "none.png", title="None", notice=None)
    with pytest.raises(FileNotFoundError):
        froc_panels({"a": {"row": Curve([tmp_path])}}, tmp_path / "none.png", title="None", notice=None)
    assert not (tmp_path / "none.png").exists()


def test_shares_are_drawn_with_single_seeds(tmp_path: Path) -> None:
    share_figure({"m": {20: [10, 20], 100: [50]}}, tmp_path / "a.png", title="Shares", notice=None)
    share_figure({"m": {20: [10, 80], 100: [50]}}, tmp_path / "b.png", title="Shares", notice=None)
    a, b = (cv2.imread(str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert a is not None
    assert b is not None
    assert (a != b).any()
