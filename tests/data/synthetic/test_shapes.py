"""The soft-edged bodies that everything is made of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scripts.data.synthetic import anatomy
from scripts.data.synthetic.anatomy import draw_body
from scripts.data.synthetic.shapes import Shape, Wave, paint

BALL = Shape(20.0, 14.0, 5.0, (6.0, 6.0), 100.0, half_height=8.0)
WINDING = dataclasses.replace(
    BALL,
    axes=(7.0, 4.0),
    angle=0.6,
    outline=(0.05 + 0.02j, -0.03j),
    slope=(0.3, -0.2),
    wander=(Wave(2.0, 30.0, 1.0), Wave(1.0, 40.0, 2.0)),
    swell=Wave(0.2, 25.0, 0.7),
    z_shift=2.0,
)


def area_of(shape: Shape, z: float) -> float:
    volume = np.zeros((1, 30, 40), np.float32)
    paint(volume, np.array([z]), shape)
    return float(volume.sum() / shape.value)


def test_size_and_place_are_as_given_at_the_reference_height() -> None:
    z = np.array([WINDING.z])
    assert WINDING.scale_at(z)[0] == pytest.approx(1)
    assert [place[0] for place in WINDING.centre_at(z)] == pytest.approx([WINDING.x, WINDING.y])


def test_an_ellipsoid_closes_at_its_half_height_and_nowhere_before() -> None:
    low, high = BALL.z_range
    assert (BALL.scale_at(np.array([low, high, low - 3, high + 3])) == 0).all()
    z = np.linspace(low, high, 9)
    np.testing.assert_allclose(BALL.scale_at(z), np.sqrt(1 - ((z - BALL.z) / 8) ** 2))


def test_the_painted_area_is_that_of_the_outline() -> None:
    for shape in (BALL, WINDING):
        contour = shape.contour(720)
        x, y = contour.T
        polygon = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        assert area_of(shape, shape.z) == pytest.approx(polygon, rel=0.03)


def test_the_painted_centre_is_where_the_path_says_on_a_non_square_image() -> None:
    z = np.arange(0.0, 12.0, 1.0)
    volume = np.zeros((len(z), 30, 50), np.float32)
    paint(volume, z, dataclasses.replace(WINDING, outline=()))
    columns, rows = WINDING.centre_at(z)
    for plane, column, row in zip(volume, columns, rows, strict=True):
        assert (plane.sum(axis=0) @ np.arange(50)) / plane.sum() == pytest.approx(column, abs=0.05)
        assert (plane.sum(axis=1) @ np.arange(30)) / plane.sum() == pytest.approx(row, abs=0.05)


def test_many_slices_at_once_equal_one_by_one() -> None:
    z = np.arange(-8.0, 18.0, 0.7)
    together = np.full((len(z), 30, 40), -50, np.float32)
    paint(together, z, WINDING)
    for plane, height in zip(together, z, strict=True):
        alone = np.full((1, 30, 40), -50, np.float32)
        paint(alone, np.array([height]), WINDING)
        np.testing.assert_allclose(plane, alone[0], atol=1e-3)


def test_a_shape_outside_the_image_or_the_slices_changes_nothing() -> None:
    volume = np.zeros((3, 30, 40), np.float32)
    paint(volume, np.array([0.0, 5.0, 10.0]), dataclasses.replace(BALL, x=-40.0))
    paint(volume, np.array([100.0, 105.0, 110.0]), BALL)
    assert not volume.any()


def test_a_shape_is_cut_off_where_its_bound_ends() -> None:
    bound = Shape(10.0, 14.0, 0.0, (10.0, 10.0), 0.0)
    volume = np.zeros((1, 30, 40), np.float32)
    paint(volume, np.array([5.0]), dataclasses.replace(BALL, within=bound))
    assert not volume[:, :, 22:].any()
    assert volume[0, 14, 18] == pytest.approx(100)


def test_the_slices_that_a_torso_keeps_are_those_it_renders() -> None:
    z, other = np.arange(0.0, 16.0, 1.0), np.arange(30.0, 45.0, 5.0)
    body = draw_body(np.random.default_rng(1), 64, fraction=(0.8, 0.9), heights=(0.0, 45.0))
    kept = body.keeping(z, other)
    assert np.array_equal(kept.render(z[3:9]), body.render(z)[3:9])
    for height in (0.0, 7.0, 15.0, 30.0, 40.0):
        assert np.array_equal(kept.render(np.array([height])), body.render(np.array([height]))), height
    between = np.array([14.0, 15.0, 16.0])
    assert np.array_equal(kept.render(between), body.render(between))
    # What is painted into a copy does not come back.
    kept.render(z)[:] = 0
    assert np.array_equal(kept.render(z), body.render(z))
    assert not np.array_equal(kept.moved(3.0).render(z), kept.render(z))


def test_numbers_are_those_of_numpys_own_laws() -> None:
    ours, numpys = np.random.default_rng(2), np.random.default_rng(2)
    assert [anatomy._uniform(ours, -0.3, 1.7) for _ in range(50)] == [numpys.uniform(-0.3, 1.7) for _ in range(50)]
    orders = np.arange(2, 5)
    wanted = np.clip(numpys.normal(0, 0.2, (2, 3)) / (orders / 2), -0.4, 0.4)
    assert anatomy.draw_outline(ours, 0.2) == tuple(complex(re, im) for re, im in wanted.T)


def test_a_shape_that_does_not_move_is_painted_like_one_that_hardly_does() -> None:
    z = np.arange(-2.0, 14.0, 1.0)
    for still in (BALL, dataclasses.replace(BALL, outline=(0.1 + 0.05j, 0.02j), within=WINDING)):
        moving = dataclasses.replace(still, slope=(1e-12, 0.0))
        volumes = [np.full((len(z), 30, 40), -50, np.float32) for _ in range(2)]
        for volume, shape in zip(volumes, (still, moving), strict=True):
            paint(volume, z, shape)
        np.testing.assert_allclose(volumes[0], volumes[1], atol=1e-3)
