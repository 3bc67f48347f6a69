"""The odd cases of DeepLesion that a reader must handle, each as one patient of a synthetic data set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..synthetic_presets import Settings
from .anatomy import FIRST_HEIGHT
from .annotations import Identity
from .series import Grid, Series, draw_interval, draw_spacing, fill_series
from .shapes import Shape


@dataclass(frozen=True)
class Piece:
    """A series to render and write.

    Attributes:
        identity: Identity of the series.
        series: The series.
        edits: Cells of its ``DL_info.csv`` rows to replace.
    """

    identity: Identity
    series: Series
    edits: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Draw:
    """Inputs of every case."""

    rng: np.random.Generator
    settings: Settings
    identity: Identity
    body_seed: int

    def series(
        self, keys: tuple[int, ...] | None = None, blocks: tuple[tuple[int, int], ...] | None = None, **changes: float
    ) -> Series:
        """A series with given key slices and sub-volumes; ``changes`` go to its lattice."""
        settings = self.settings
        grid = Grid(draw_interval(self.rng, settings), draw_spacing(self.rng, settings), 60.0, settings.image_size)
        grid = dataclasses.replace(grid, **changes)
        reach = self.reach(grid.interval)
        keys = keys or (reach + 12,)
        blocks = blocks or tuple((max(key - reach, 1), key + reach) for key in keys)
        return fill_series(self.rng, settings, grid=grid, keys=list(keys), blocks=blocks, body_seed=self.body_seed)

    def reach(self, interval: float) -> int:
        """Slices of the margin."""
        return math.ceil(self.settings.margin_mm / interval - 1e-6)


def _larger(draw: _Draw, factor: float) -> list[Piece]:
    size = round(draw.settings.image_size * factor)
    settings = dataclasses.replace(draw.settings, image_size=size)
    spacing = draw_spacing(draw.rng, settings) / factor
    return [Piece(draw.identity, dataclasses.replace(draw, settings=settings).series(size=size, spacing=spacing))]


def _beyond_border(draw: _Draw) -> list[Piece]:
    """A lesion so close to the right border that the padded box leaves the image."""
    settings = dataclasses.replace(draw.settings, lesions_per_slice=(1.0,), unlabelled_per_lesion=0.0)
    drafts = [dataclasses.replace(draw, settings=settings).series() for _ in range(5)]
    series = max(drafts, key=lambda draft: _labelled(draft).x)
    shape = _labelled(series)
    # The outline ends a fraction of the padding before the border; the whole torso is shifted with it.
    right = float(shape.contour()[:, 0].max())
    shift = series.grid.size - 0.5 - 0.3 * settings.padding - right - shape.x
    foci = [dataclasses.replace(f, shape=f.shape.moved(shift)) for f in series.foci]
    return [Piece(draw.identity, dataclasses.replace(series, body=series.body.moved(shift), foci=tuple(foci)))]


def _labelled(series: Series) -> Shape:
    return next(focus.shape for focus in series.foci if focus.labelled)


def _first_slice(draw: _Draw) -> list[Piece]:
    reach = draw.reach(5.0)
    return [Piece(draw.identity, draw.series((1,), ((1, 1 + reach),), interval=5.0))]


def _last_slice(draw: _Draw) -> list[Piece]:
    key = draw.reach(5.0) + 4
    return [Piece(draw.identity, draw.series((key,), ((4, key),), interval=5.0))]


def _hole(draw: _Draw) -> list[Piece]:
    reach = draw.reach(5.0)
    keys = (reach + 3, 3 * reach + 12)
    return [Piece(draw.identity, draw.series(keys, interval=5.0, first_height=FIRST_HEIGHT + 60))]


def _interval_change(draw: _Draw) -> list[Piece]:
    """One folder, thin slices first and thick ones after a hole."""
    near, far = draw.reach(1.0), draw.reach(5.0)
    thin = draw.series((near + 10,), interval=1.0, first_height=0.0)
    key = 2 * near + 30 + far
    thick = draw.series((key,), interval=5.0, first_height=120.0 - key * 5.0)
    return [Piece(draw.identity, thin), Piece(draw.identity, thick)]


def _noisy(draw: _Draw) -> list[Piece]:
    return [Piece(draw.identity, draw.series(), {"Possibly_noisy": "1"})]


def _many_rows(draw: _Draw) -> list[Piece]:
    """Three lesions on one slice; the draft with space for most of them."""
    settings = dataclasses.replace(draw.settings, lesions_per_slice=(0.0, 0.0, 1.0), tubes=(0, 1))
    drafts = [dataclasses.replace(draw, settings=settings).series() for _ in range(8)]
    series = max(drafts, key=lambda draft: sum(focus.labelled for focus in draft.foci))
    return [Piece(draw.identity, series)]


def _round_field(draw: _Draw) -> list[Piece]:
    return [Piece(draw.identity, dataclasses.replace(draw.series(), round_field=True))]


def _blank_age(draw: _Draw) -> list[Piece]:
    return [Piece(draw.identity, draw.series(), {"Patient_age": ""})]


def _rounded_interval(draw: _Draw) -> list[Piece]:
    series = draw.series(interval=0.6)
    text = f"{series.grid.spacing:.6g}"
    return [Piece(draw.identity, series, {"Spacing_mm_px_": f"{text}, {text}, 0.59998"})]


def _elongated(draw: _Draw) -> list[Piece]:
    """A lesion eight times as long as wide."""
    settings = dataclasses.replace(draw.settings, axis_ratio=(0.12, 0.13), lesions_per_slice=(1.0,))
    return [Piece(draw.identity, dataclasses.replace(draw, settings=settings).series())]


_CASES: dict[str, Callable[[_Draw], list[Piece]]] = {
    "image of 1.5 times the size": lambda draw: _larger(draw, 1.5),
    "image of twice the size": lambda draw: _larger(draw, 2.0),
    "box beyond the border": _beyond_border,
    "key on the first slice": _first_slice,
    "key on the last slice": _last_slice,
    "hole in a folder": _hole,
    "two intervals in a folder": _interval_change,
    "noisy row": _noisy,
    "three rows of one slice": _many_rows,
    "padding below -1024 HU": _round_field,
    "no age": _blank_age,
    "interval with float noise": _rounded_interval,
    "elongated lesion": _elongated,
}
CASES = tuple(_CASES)


def irregular_pieces(
    case: str, rng: np.random.Generator, *, settings: Settings, identity: Identity, body_seed: int
) -> list[Piece]:
    """Series of one odd case.

    Args:
        case: One of ``CASES``.
        rng: Random generator.
        settings: The laws.
        identity: Identity of the series.
        body_seed: Seed of the torso.
    """
    return _CASES[case](_Draw(rng, settings, identity, body_seed))
