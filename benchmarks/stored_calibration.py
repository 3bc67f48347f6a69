"""Whether the calibration in a weights file holds for an evaluation that it was not fitted on.

``CHECKPOINT`` names the file, ``EVALUATION`` the folder of an evaluation of it.
"""

from __future__ import annotations

import os

import numpy as np

from scripts.metrics.calibration import reliability
from scripts.tools.set_operating_points import read_boxes
from scripts.weights import read_weights, tensors_sha256


def main() -> None:
    """Print the errors of the scores and of the stored probabilities."""
    weights, folder = os.environ.get("CHECKPOINT"), os.environ.get("EVALUATION")
    if weights is None or folder is None:
        print("Set CHECKPOINT to a weights file and EVALUATION to the folder of an evaluation of it.")
        return
    content, boxes = read_weights(weights), read_boxes(folder)
    if (boxes.metrics.get("weights") or {}).get("tensors_sha256") != tensors_sha256(content["model"]):
        print(f"{folder} is an evaluation of other weights than {weights}.")
        return
    knots = content["info"].get("calibration")
    if not knots:
        print(f"{weights} has no calibration.")
        return
    known = np.interp(boxes.scores, knots["scores"], knots["probabilities"])
    print(f"{len(boxes.scores)} boxes on {boxes.metrics.get('dataset')}, {int(boxes.hits.sum())} of them hits")
    for name, values in (("scores", boxes.scores), ("probabilities", known)):
        found = reliability(values, boxes.hits)
        print(f"{name}: expected calibration error {found['ece']:.4f}, Brier score {found['brier']:.4f}")
