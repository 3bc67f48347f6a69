"""Two results of scans whose slices lean: the page has their boxes where they are, not what encloses them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from scripts.data.scans.scan import Scan
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.tools.comparing.compare_results import compare
from support.fake_bodies import phantom
from support.fake_results import parts, results_of

SPACING = np.array([3.5, 3.5, 4.0])
AFFINE = np.array([[3.5, 0, 0, -100], [0, 3.5, 0, -85], [0, 0, 4, -90], [0, 0, 0, 1]])
# Half of the box of the lesion in voxels.
HALF = np.array([3.0, 4.0, 5.0])


def test_boxes_on_the_page_are_those_of_turned_scans(tmp_path: Path) -> None:
    boxes = {}
    for when, degrees in enumerate((20.0, -10.0)):
        # Slices that lean back or forward, and a lesion at one place of the patient.
        turned = np.eye(4)
        turned[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
        affine = turned @ AFFINE
        hu, folder = phantom(affine, np.eye(4)).round().astype(np.int16), tmp_path / str(when)
        folder.mkdir()
        (folder / "scan.nii").write_bytes(bytes([when]))
        scan = Scan(hu, affine, np.eye(4), hu.shape[::-1], folder / "scan.nii", (folder / "scan.nii",))
        middle = np.linalg.inv(affine)[:3] @ [-30.0, -10.0, 20.0, 1.0] + 0.5
        boxes[when] = np.concatenate([middle - HALF, middle + HALF])
        ResultWriter(folder, outputs=("json", "report"))(*parts(results_of(scan, [boxes[when]], (0.9,))))
    compare(str(tmp_path / "0"), str(tmp_path / "1"), str(tmp_path / "out"), aligned=True)
    page = (tmp_path / "out" / "changes.html").read_text()
    ((_, data),) = re.findall(r'<script([^>]*) id="data">(.*?)</script>', page)
    (change,) = json.loads(data)["changes"]
    np.testing.assert_allclose(change["before_box"], boxes[0], atol=0.01)
    # The other one leans by 30 degrees on these slices: what encloses it there.
    lean, half = np.radians(30.0), HALF * SPACING
    reach = half[0], half[1] * np.cos(lean) + half[2] * np.sin(lean), half[1] * np.sin(lean) + half[2] * np.cos(lean)
    sides = np.diff(np.array(change["after_box"]).reshape(2, 3), axis=0)[0] * SPACING
    np.testing.assert_allclose(sides, 2 * np.array(reach), atol=0.1)
    np.testing.assert_allclose(
        np.mean(np.array(change["after_box"]).reshape(2, 3), axis=0), np.mean(boxes[0].reshape(2, 3), axis=0), atol=0.01
    )
