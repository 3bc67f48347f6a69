"""Lesions and tubes: the same in the key slice, different along z."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.synthetic import resolve
from scripts.data.synthetic.foci import Focus, branch, draw_profile, draw_value, run_on
from scripts.data.synthetic.rendering import render
from scripts.data.synthetic.series import Series, draw_series
from scripts.data.synthetic.shapes import paint

SETTINGS = resolve("small", {"fork_fraction": 0.0, "edge_fraction": 0.0})


@pytest.fixture(scope="module")
def cases() -> list[tuple[Series, np.ndarray]]:
    """Series with their key slice's pixels."""
    rng = np.random.default_rng(11)
    drawn = [draw_series(rng, SETTINGS, keys=1, body_seed=body_seed) for body_seed in range(160)]
    return [
        (s, render(rng, SETTINGS, series=s, z=s.grid.heights(s.keys[0], s.keys[0]))[0].astype(float)) for s in drawn
    ]


def look(focus: Focus, plane: np.ndarray) -> list[float]:
    """What one slice shows of a focus."""
    shape = focus.shape
    rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]]
    distance = np.hypot(columns - shape.x, rows - shape.y)
    radius = np.sqrt(shape.axes[0] * shape.axes[1])
    inside = plane[distance < 0.7 * radius]
    around = plane[(distance > 1.5 * radius) & (distance < 2 * radius + 2)]
    aspect = shape.axes[1] / shape.axes[0]
    return [radius, aspect, shape.edge, inside.mean(), inside.std(), inside.mean() - around.mean(), around.mean()]


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(score, kind="stable")) + 1
    count = positive.sum()
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (~positive).sum()))


def test_no_single_look_at_the_key_slice_tells_a_lesion_from_a_tube(cases: list[tuple[Series, np.ndarray]]) -> None:
    pairs = [(look(focus, plane), focus.lesion) for series, plane in cases for focus in series.foci]
    values, lesion = np.array([v for v, _ in pairs]), np.array([flag for _, flag in pairs])
    assert lesion.sum() > 200
    for column in values.T:
        assert 0.43 < auc(column, lesion) < 0.57


def test_a_linear_rule_on_all_looks_does_not_tell_them_apart_either(cases: list[tuple[Series, np.ndarray]]) -> None:
    pairs = [(look(focus, plane), focus.lesion) for series, plane in cases for focus in series.foci]
    values, lesion = np.array([v for v, _ in pairs]), np.array([flag for _, flag in pairs])
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    design = np.column_stack([np.ones(len(values)), values, values**2])
    half = len(design) // 2
    weights = np.linalg.lstsq(design[:half], np.where(lesion[:half], 1.0, -1.0), rcond=None)[0]
    assert 0.4 < auc(design[half:] @ weights, lesion[half:]) < 0.6


def test_the_radius_five_and_ten_mm_away_tells_them_apart(cases: list[tuple[Series, np.ndarray]]) -> None:
    foci = [focus for series, _ in cases for focus in series.foci]
    lesion = np.array([focus.lesion for focus in foci])
    for reach, least in ((5.0, 0.95), (10.0, 0.999)):
        rest = [f.shape.scale_at(f.shape.z + np.array([-reach, reach])).sum() for f in foci]
        assert auc(-np.array(rest), lesion) > least


def test_lesions_close_within_their_half_height_and_tubes_run_on(cases: list[tuple[Series, np.ndarray]]) -> None:
    for series, _ in cases:
        for focus in series.foci:
            scale = focus.shape.scale_at(focus.shape.z + np.array([-13.6, 0, 13.6]))
            assert scale[1] == pytest.approx(1)
            assert (scale[[0, 2]] == 0).all() if focus.lesion else (scale > 0.4).all()


def test_foci_of_a_key_slice_do_not_overlap(cases: list[tuple[Series, np.ndarray]]) -> None:
    for series, _ in cases:
        places = np.array([(f.shape.x, f.shape.y) for f in series.foci])
        short = np.array([min(f.shape.axes) for f in series.foci])
        gaps = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
        assert (gaps + np.eye(len(gaps)) * 1e3 > short[:, None] + short[None]).all()


def test_the_value_is_solid_in_lung_and_keeps_the_contrast_elsewhere() -> None:
    rng = np.random.default_rng(0)
    assert all(-60 <= draw_value(rng, SETTINGS, -860.0) <= 70 for _ in range(50))
    in_fat = np.array([draw_value(rng, SETTINGS, -90.0) for _ in range(50)])
    assert ((in_fat > -60) & (in_fat < 70)).all()
    in_liver = np.array([draw_value(rng, SETTINGS, 105.0) for _ in range(400)]) - 105
    assert ((np.abs(in_liver) >= 50) & (np.abs(in_liver) <= 110)).all()
    assert 0.5 < (in_liver < 0).mean() < 0.7


def test_a_branch_starts_inside_its_tube_and_leaves_the_key_slice_alone() -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        tube = run_on(rng, draw_profile(rng, SETTINGS, height=50.0, spacing=1.6))
        twig = branch(rng, tube, 1.6)
        assert twig.scale_at(np.array([tube.z]))[0] == 0
        start = np.array([twig.z])
        assert [c[0] for c in twig.centre_at(start)] == pytest.approx([c[0] for c in tube.centre_at(start)])
        assert twig.axes[0] < tube.axes[0] * tube.scale_at(start)[0]


def test_tubes_stay_inside_the_body_however_far_they_run(cases: list[tuple[Series, np.ndarray]]) -> None:
    for series, _ in cases[:20]:
        z = series.foci[0].shape.z + np.array([-40.0, 40.0])
        bare = series.body.render(z)
        volume = bare.copy()
        for focus in series.foci:
            paint(volume, z, focus.shape)
        rows, columns = np.mgrid[:96, :96]
        body = series.body
        outside = ((columns - body.x) / body.half_width) ** 2 + ((rows - body.y) / body.half_depth) ** 2 > 1
        assert np.abs(volume - bare)[:, outside].max() < 1
