"""Entries of lesions: probabilities if the weights have a calibration, and only then."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.data.intensity import IntensityWindow
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import link_boxes
from scripts.inference.outputs.lesions_document import (
    calibration_of,
    cautions,
    describe_lesions,
    no_probability,
    result_sha256,
    strict_json,
)
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import PlaneScale, SlabCutter, VolumeDetector
from support.fake_results import results_of
from support.fake_scans import BlobDetector, ball_scan, scan_of

CALIBRATION = {"scores": [0.0, 1.0], "probabilities": [0.1, 0.5]}


def deviations(name: str, weights: Any, used: Any) -> dict[str, Any]:
    """Settings of a run that deviates from the weights' recipe in one value."""
    return {"deviations": {name: {"weights": weights, "used": used}}}


def test_probability_stands_beside_the_score_of_calibrated_weights(tmp_path: Path) -> None:
    scan = scan_of(ball_scan())
    found = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)(scan, BlobDetector())
    lesions = link_boxes(found)
    (plain,) = describe_lesions(scan, found, lesions)
    assert "probability" not in plain
    (entry,) = describe_lesions(scan, found, lesions, calibration=CALIBRATION)
    assert entry["probability"] == round(0.1 + 0.4 * lesions[0].score, 4)
    for model, columns in (({"calibration": CALIBRATION}, ["score", "probability"]), ({}, ["score", "i1"])):
        ResultWriter(tmp_path, model)(scan, found, lesions)
        with (tmp_path / "lesions.csv").open(newline="") as file:
            assert next(csv.reader(file))[1:3] == columns


@pytest.mark.parametrize(
    ("model", "settings", "reason"),
    [
        ({}, {}, "no calibration"),
        ({"calibration": CALIBRATION}, {"pixel_spacing_mm": None}, None),
        ({"calibration": CALIBRATION, "notice": ""}, {}, None),
        ({"calibration": CALIBRATION, "notice": "Finds no real lesions."}, {}, "notice of their own"),
        ({"calibration": CALIBRATION, "inference": {"pixel_spacing": 1.6}}, {"pixel_spacing_mm": 1.6}, None),
        (
            {"calibration": CALIBRATION, "inference": {"pixel_spacing": 1.6}},
            {"pixel_spacing_mm": 0.8},
            "this run used 0.8",
        ),
        ({"calibration": CALIBRATION}, {"pixel_spacing_mm": 0.8}, "this run used 0.8"),
        ({"calibration": CALIBRATION}, {"deviations": {}, "pixel_spacing_mm": 1.6}, None),
        ({"calibration": CALIBRATION}, deviations("z_mode", "released", "corrected"), "at z_mode released, this run"),
        ({"calibration": CALIBRATION}, deviations("window", [-1024, 1050], [-160, 240]), r"this run used [-160, 240]"),
        ({"calibration": CALIBRATION}, deviations("test_scale", 96, 512), "at test_scale 96, this run used 512"),
    ],
)
def test_probabilities_are_given_only_where_the_calibration_holds(
    model: dict[str, Any], settings: dict[str, Any], reason: str | None
) -> None:
    said = no_probability(model, settings)
    assert said is None if reason is None else reason in str(said)
    assert calibration_of(model, settings) == (CALIBRATION if reason is None else None)


@pytest.mark.parametrize(("spacing", "said"), [((0.7, 2.5), True), ((2.5, 0.7), True), ((0.9, 1.0), False)])
def test_pixels_that_are_not_square_are_told_unless_they_are_made_so(spacing: tuple[float, float], said: bool) -> None:
    scan = scan_of(ball_scan(), (*spacing, 2.5))
    for scale, wanted in ((PlaneScale(), said), (PlaneScale(pixel_spacing=0.8), False)):
        detector = VolumeDetector(SlabCutter(resample_z, scale=scale), IntensityWindow(), progress=False)
        notes = cautions(scan, detector(scan, BlobDetector()))
        assert any(f"{spacing[0]:.2f} x {spacing[1]:.2f} mm" in note for note in notes) == wanted


def test_a_result_is_known_by_its_content_but_for_the_time() -> None:
    document = results_of(scan_of(ball_scan()), [(24, 10, 4, 37, 23, 9)], (0.9,)).document
    digest = result_sha256(document)
    assert result_sha256({**json.loads(strict_json(document)), "timing_s": {"read": 9.0}}) == digest
    assert result_sha256({**document, "lesions": []}) != digest
