"""One small scan through everything with the demo's weights, against the files that were written before.

After a change that is meant to change them (new weights of the demo, say) write them anew, and look at what changed:
``GOLDEN=write .venv/bin/python -m pytest tests/inference/test_golden_scan.py``
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import link_boxes
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.outputs.slicer_nodes import slicer_markups
from scripts.inference.volume_detector import PlaneScale, SlabCutter, VolumeDetector
from scripts.workflows.infer_scans import ScanRunner
from scripts.workflows.trained_weights import Weights

GOLDEN = Path(__file__).with_name("golden")
WEIGHTS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "models" / "demo.pt"
FILES = ("lesions.json", "lesions.csv", "lesions.mrk.json")
SPACING = (1.5, 1.5, 3.0)
# x, y, z in voxels and radius in mm.
BALLS = ((40, 50, 5, 9), (88, 45, 8, 14), (60, 30, 10, 6))
# Other machines sum in another order: probabilities, mm and voxels may differ by this much.
TOLERANCE = 0.02


def write_scan(path: Path) -> Path:
    """A body of fat, soft tissue and a bone with three balls; grain by a formula, the same for ever."""
    z, y, x = np.meshgrid(*(np.arange(size) for size in (14, 112, 128)), indexing="ij")
    hu = np.where(((x - 63.5) / 58) ** 2 + ((y - 55.5) / 48) ** 2 < 1, -90, -1000)
    hu[((x - 63.5) / 52) ** 2 + ((y - 55.5) / 42) ** 2 < 1] = 40
    hu[((x - 63.5) / 7) ** 2 + ((y - 80) / 7) ** 2 < 1] = 300
    for column, row, plane, radius in BALLS:
        places = (np.stack([x, y, z], axis=-1) - [column, row, plane]) * SPACING
        hu[(places**2).sum(axis=-1) < radius**2] = 130
    hu += (x * x * 7 + y * y * 13 + x * y * 5 + z * 29) % 23 - 11
    # Stored as most NIfTI files are: towards the right and the front.
    matrix = np.diag([*SPACING, 1.0])
    matrix[:3, 3] = (-95.0, -80.0, 40.0)
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16).transpose(2, 1, 0)[::-1, ::-1], matrix), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the scan."""
    place = tmp_path_factory.mktemp("golden")
    weights = Weights(WEIGHTS)
    scale = PlaneScale(weights.setting("pixel_spacing", None))
    detector = VolumeDetector(
        SlabCutter(resample_z, scale=scale, from_last=True), IntensityWindow(), score_threshold=0.1, progress=False
    )
    runner = ScanRunner(
        find_scans(write_scan(place / "scan.nii")),
        detector,
        weights,
        ResultWriter(place / "out", weights.info, {"score_threshold": 0.4}, extra={"slicer": slicer_markups}),
        link=lambda found: link_boxes(found, score_threshold=0.4),
    )
    runner.main()
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        for name in FILES:
            (GOLDEN / name).write_bytes((place / "out" / name).read_bytes())
    return place / "out"


def plain(content: Any) -> Any:
    """JSON without what changes from run to run."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items() if key not in ("timing_s", "sha256")}
    return [plain(value) for value in content] if isinstance(content, list) else content


def check(found: Any, wanted: Any, place: str = "") -> None:
    """Numbers agree up to the tolerance, everything else exactly."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), place
        for key, value in wanted.items():
            check(found[key], value, f"{place}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), place
        for number, value in enumerate(wanted):
            check(found[number], value, f"{place}/{number}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=TOLERANCE), place
    elif isinstance(wanted, str) and wanted.startswith(("score ", "Lesion ")):
        assert found.split(",")[0].split()[0] == wanted.split(",")[0].split()[0], place
    else:
        assert found == wanted, place


@pytest.mark.parametrize("name", ["lesions.json", "lesions.mrk.json"])
def test_json_is_as_it_was(folder: Path, name: str) -> None:
    check(plain(json.loads((folder / name).read_text())), plain(json.loads((GOLDEN / name).read_text())))


def test_table_is_as_it_was(folder: Path) -> None:
    found, wanted = (list(csv.DictReader((place / "lesions.csv").open())) for place in (folder, GOLDEN))
    assert len(found) == len(wanted) > 0
    for row, golden in zip(found, wanted, strict=True):
        assert row.pop("notice") == golden.pop("notice")
        for name in ("axes_source", "volume_source"):
            assert row.pop(name) == golden.pop(name) == "box"
        for name in ("region", "region_source"):
            assert row.pop(name) == golden.pop(name)
        assert list(row) == list(golden)
        np.testing.assert_allclose(
            [float(value) for value in row.values()], [float(value) for value in golden.values()], atol=TOLERANCE
        )


def test_lesions_are_where_the_balls_are(folder: Path) -> None:
    """What is found is right, not only unchanged: the two larger balls, in mm that the file's own matrix gives."""
    document = json.loads((folder / "lesions.json").read_text())
    matrix = np.diag([-1.5, -1.5, 3.0, 1.0])
    matrix[:3, 3] = (95.0, 80.0, 40.0)
    np.testing.assert_allclose(document["input"]["index_to_lps_mm"], matrix)
    centres = np.array([entry["center_lps_mm"] for entry in document["lesions"]])
    found = 0
    for column, row, plane, radius in BALLS:
        place = matrix @ [127 - column, 111 - row, plane, 1]
        found += bool((np.linalg.norm(centres - place[:3], axis=1) < radius).any())
    assert found >= 2
