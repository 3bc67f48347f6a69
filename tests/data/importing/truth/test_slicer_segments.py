"""Segmentations of 3D Slicer: segments have their names, in one layer or several."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from scripts.data.importing.truth.mask_files import read_mask
from scripts.data.importing.truth.slicer_segments import segment_names
from scripts.data.scans.scan import read_scan
from support.fake_truth import BALL, Ball, stored_grid, write_nifti_case

OTHER = Ball((-4.0, 42.0, -120.0), 6.0)
"""Within the first one."""


def write_segmentation(path: Path, layers: list[np.ndarray], names: dict[str, str]) -> Path:
    """Write layers ``(I, J, K)`` as Slicer does; names are lines of the header."""
    affine, shape = stored_grid("plain")
    several = len(layers) > 1
    sizes = [*([len(layers)] if several else []), *shape]
    vectors = " ".join(f"({','.join(map(str, affine[:3, axis]))})" for axis in range(3))
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' if several else ''}{vectors}",
        f"kinds: {'list ' if several else ''}domain domain domain",
        "encoding: gzip",
        f"space origin: ({','.join(map(str, affine[:3, 3]))})",
        *(f"{key}:={value}" for key, value in names.items()),
    ]
    values = np.stack(layers) if several else layers[0]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + gzip.compress(values.tobytes(order="F")))
    return path


def segment(number: int, name: str, **more: object) -> dict[str, str]:
    found = {"ID": f"Segment_{number + 1}", "Name": name, **more}
    return {f"Segment{number}_{key}": str(value) for key, value in found.items()}


@pytest.mark.parametrize("apart", [True, False])
def test_segments_in_layers_overlap_and_keep_their_names(tmp_path: Path, apart: bool) -> None:
    scan = read_scan(write_nifti_case(tmp_path))
    one, two = (ball.inside(*stored_grid("plain")).astype(np.uint8) for ball in (BALL, OTHER))
    # Older versions of Slicer give neither layer nor value.
    more: tuple[dict[str, int], ...] = (
        ({"Layer": 0, "LabelValue": 3}, {"Layer": 1, "LabelValue": 3}) if apart else ({}, {})
    )
    names = {**segment(0, "tumour", **more[0]), **segment(1, "core: 1", **more[1])}
    layers = [layer * (3 if apart else 1) for layer in (one, two)]
    path = write_segmentation(tmp_path / "a.seg.nrrd", layers, names)
    first, second = read_mask(path, scan, each_value=False, frame="mm").lesions
    assert (first.name, second.name) == ("tumour", "core: 1")
    for lesion, ball in ((first, BALL), (second, OTHER)):
        box = lesion.box_on(lesion.widest)
        assert box is not None
        assert np.abs(box - ball.box(scan, lesion.widest)).max() <= 0.5 + 1e-6
    # The layers of another program may be colours.
    with pytest.raises(ValueError, match="one number per voxel, got 2"):
        read_mask(write_segmentation(tmp_path / "b.nrrd", layers, {}), scan, each_value=False, frame="mm")


def test_segments_in_one_layer_are_told_by_their_values(tmp_path: Path) -> None:
    scan = read_scan(write_nifti_case(tmp_path))
    affine, shape = stored_grid("plain")
    values = BALL.inside(affine, shape).astype(np.uint8)
    values[40:44, 10:14, 2:4] = 2
    values[40:44, 30:34, 2:4] = 9
    names = {**segment(0, "tumour", LabelValue=1, Layer=0), **segment(1, "node", LabelValue=2, Layer=0)}
    path = write_segmentation(tmp_path / "a.seg.nrrd", [values], names)
    lesions = read_mask(path, scan, each_value=True, frame="mm").lesions
    assert [lesion.name for lesion in lesions] == ["tumour", "node", "9"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {**segment(0, "a", Layer=0), **segment(1, "b", Layer=0)},
            "one segment for a value, got two for 1 of layer 0 in",
        ),
        (segment(0, "a", LabelValue="-1"), "a whole number, got '-1' as Segment0_LabelValue of a.seg.nrrd"),
    ],
)
def test_headers_that_cannot_be(header: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment_names(header, Path("a.seg.nrrd"))
