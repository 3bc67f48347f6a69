"""``changes.html``: two scans of a patient next to each other, scrolled together, with a table of changes."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from ...inference.outputs.html.report_page import BLEND, COARSE, FINE, encode_slices, fill_page, window_buttons
from ...inference.outputs.html.report_reading import ReportVolume

_SCRIPTS = ("pictures.js", "compare.js")
# Slices are shown at this distance or more.
_STEP_MM = 2.0
_MAX_BYTES = 15e6
_AIR = -1000


def moved_onto(before: ReportVolume, after: ReportVolume, matrix: np.ndarray) -> np.ndarray:
    """The scan after on the voxels of the scan before, air where it does not reach.

    Args:
        before: The scan before.
        after: The scan after.
        matrix: ``(4, 4)`` LPS mm before to LPS mm after.

    Returns:
        ``(Z, H, W)`` int16 like ``before.hu``.
    """
    index = np.linalg.inv(after.affine) @ matrix @ before.affine
    shift: Any = index[:3, 3][::-1]
    return ndimage.affine_transform(
        after.hu, index[:3, :3][::-1, ::-1], shift, before.hu.shape, order=1, cval=_AIR, mode="constant"
    )


def change_page(
    before: ReportVolume,
    after: ReportVolume,
    matrix: np.ndarray,
    changes: Sequence[Mapping[str, Any]],
    texts: Mapping[str, Any],
) -> bytes:
    """Make the page.

    Args:
        before: The scan before.
        after: The scan after.
        matrix: ``(4, 4)`` LPS mm before to LPS mm after.
        changes: Entries of `list_changes` with ``before_box`` and ``after_box``: edges ``x1, y1, z1, x2, y2, z2`` in
            voxels of the scan before, or None.
        texts: ``title``, ``notices``, ``summary`` and ``about``, a list of name and text.
    """
    step = max(1, round(_STEP_MM / float(np.linalg.norm(before.affine[:3, 2]))))
    shown = moved_onto(before, after, matrix)[::step]
    pictures = [encode_slices(np.ascontiguousarray(hu), max_bytes=_MAX_BYTES) for hu in (before.hu[::step], shown)]
    depth, height, width = shown.shape
    # Of the middles of the slices, which may be tilted.
    middle = (width - 1) / 2, (height - 1) / 2
    heights = (before.affine @ np.array([[*middle, z * step, 1] for z in range(depth)], dtype=np.float64).T)[2]
    data = {
        "shape": [depth, height, width],
        "spacing": np.linalg.norm(before.affine[:3, :2], axis=0).round(4).tolist(),
        "picture": [*pictures[0].size, pictures[0].offset],
        "fine": FINE,
        "coarse": COARSE,
        "blend": BLEND,
        "heights": heights.round(2).tolist(),
        "changes": [
            {**one, **{name: _scaled(one[name], step) for name in ("before_box", "after_box")}} for one in changes
        ],
    }
    parts = {
        "TITLE": html.escape(texts["title"]),
        "NOTICES": "".join(f"<p>{html.escape(notice)}</p>" for notice in texts["notices"]),
        "SUMMARY": "".join(f"<p>{html.escape(line)}</p>" for line in texts["summary"]),
        "ABOUT": "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in texts["about"]),
        "PRESETS": window_buttons(3),
    }
    return fill_page("compare.html", parts, data, _SCRIPTS, {"s": pictures[0].content, "t": pictures[1].content})


def _scaled(box: Sequence[float] | None, step: int) -> list[float] | None:
    return None if box is None else [round(edge / (step if axis % 3 == 2 else 1), 2) for axis, edge in enumerate(box)]
