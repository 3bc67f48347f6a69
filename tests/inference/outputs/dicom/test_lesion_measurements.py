"""Numbers and tags in the structured report: codes, units, derivation, and the lines they were measured along."""

from __future__ import annotations

import io
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from highdicom.sr import CodedConcept
from pydicom import dcmread

from scripts.data.scans.scan import read_scan
from scripts.inference.outputs.dicom.structured_report import DicomWriter
from support.dicom_checks import validator_lines
from support.fake_dicom import write_ct
from support.fake_results import CLASSES, TAGGED, classed, elliptic, results_of

SHAPE = (9, 30, 34)
SITES = {
    "head and neck": ("774007", "SCT", "Head and Neck"),
    "chest": ("816094009", "SCT", "Chest"),
    "abdomen": ("818981001", "SCT", "Abdomen"),
    "pelvis": ("816092008", "SCT", "Pelvis"),
    "limbs": ("66019005", "SCT", "Extremity"),
    "unknown": None,
}
BOXES = [(6.0, 5.0, 2.0, 26.0, 21.0, 7.0)]


def test_report_holds_the_outline_the_axes_and_the_tags(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    scan = read_scan(write_ct(tmp_path, hu, spacing=(0.7, 0.9, 2.5)))
    results = results_of(scan, BOXES, (0.9,), model=TAGGED, fields=elliptic)
    files = DicomWriter(version="1")(results)
    content = hd.sr.srread(io.BytesIO(files["lesions_sr.dcm"])).content
    (group,), (drawn,) = content.get_volumetric_roi_measurement_groups(), content.get_image_measurement_groups()
    assert drawn.tracking_uid == group.tracking_uid
    entry = results.entries[0]
    by_code = {one.name.value: one for one in group.get_measurements()}
    for code, name in (("103339001", "long_axis"), ("103340004", "short_axis")):
        one = by_code[code]
        assert (one.value, one.unit.value) == (entry["axes"][f"{name}_mm"], "mm")
        assert one.derivation.meaning == "Measured"
        assert "source=mask" in str(one)
        (line,) = (other for other in drawn.get_measurements() if other.name.value == code)
        assert line.value == one.value
        (coordinates,) = line.referenced_coordinates
        np.testing.assert_allclose(coordinates.value, entry["axes"][f"{name}_lps_mm"], atol=1e-3)
    volume = by_code["118565006"]
    assert (volume.value, volume.unit.value) == (entry["volume"]["estimate_ml"], "cm3")
    assert volume.derivation.meaning == "Estimated"
    tags = [one.value.meaning for one in group.get_qualitative_evaluations()]
    assert tags == ["nodule", "cyst", "liver"]
    assert by_code["score2"].value == 0.9
    outlines = group.roi.graphic_data
    assert len(outlines) == 5
    wanted = np.array(entry["outline"]["lps_mm"])
    heights = {round(float(outline[0, 2]), 3) for outline in outlines}
    assert heights == {-95.0, -92.5, -90.0, -87.5, -85.0}
    for outline in outlines:
        np.testing.assert_allclose(outline[:-1, :2], wanted[:, :2], atol=1e-3)
        np.testing.assert_allclose(outline[0], outline[-1])
    assert dcmread(io.BytesIO(files["lesions_sr.dcm"])).SeriesDescription.startswith("Lesion outlines.")


def test_region_is_the_finding_site_and_an_unknown_one_is_left_out(tmp_path: Path) -> None:
    scan = read_scan(write_ct(tmp_path, np.full(SHAPE, 40, np.int16)))
    boxes = [(3.0 + 3 * at, 5.0, 2.0, 8.0 + 3 * at, 9.0, 4.0 - at % 2) for at in range(len(SITES))]
    results = results_of(scan, boxes, [0.9 - 0.1 * at for at in range(len(SITES))])
    for entry, name in zip(results.entries, SITES, strict=True):
        entry["region"] = {"name": name, "source": "scan", "basis": "told by a test"}
    content = hd.sr.srread(io.BytesIO(DicomWriter(version="1")(results)["lesions_sr.dcm"])).content
    groups = [*content.get_volumetric_roi_measurement_groups(), *content.get_planar_roi_measurement_groups()]
    found = {group.tracking_identifier: [site.value for site in group.finding_sites] for group in groups}
    for at, code in enumerate(SITES.values(), start=1):
        assert found[f"Lesion {at}"] == ([] if code is None else [CodedConcept(*code)])


def test_report_of_a_box_says_that_its_axes_are_estimates(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    scan = read_scan(write_ct(tmp_path, hu, spacing=(0.7, 0.9, 2.5)))
    files = DicomWriter(version="1")(results_of(scan, BOXES, (0.9,)))
    (group,) = hd.sr.srread(io.BytesIO(files["lesions_sr.dcm"])).content.get_volumetric_roi_measurement_groups()
    found = {one.name.value: one for one in group.get_measurements()}
    for code, wanted in (("103339001", 14.4), ("103340004", 14.0)):
        assert found[code].value == pytest.approx(wanted)
        assert found[code].derivation.meaning == "Estimated"
        assert "source=box" in str(found[code])
    assert not group.get_qualitative_evaluations()


def test_independent_validator_knows_all_but_the_scheme_of_the_tags(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    scan = read_scan(write_ct(tmp_path / "series", hu, spacing=(0.7, 0.9, 2.5)))
    for name, content in DicomWriter(version="1")(
        results_of(scan, BOXES, (0.9,), model=TAGGED, fields=elliptic)
    ).items():
        (tmp_path / name).write_bytes(content)
        said = validator_lines(tmp_path / name, "-new")
        assert said[0] in ("Comprehensive3DSR", "Segmentation")
        assert all(line.endswith("Unrecognized defined term = <99MP3D>") for line in said[1:]), said


def test_report_and_segmentation_name_the_class(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    scan = read_scan(write_ct(tmp_path, hu, spacing=(0.7, 0.9, 2.5)))
    boxes = [(21.0, 5.0, 2.0, 26.0, 21.0, 7.0), *BOXES]
    files = DicomWriter(version="1")(results_of(scan, boxes, (0.9, 0.8), model=CLASSES, fields=classed))
    groups = hd.sr.srread(io.BytesIO(files["lesions_sr.dcm"])).content.get_volumetric_roi_measurement_groups()
    said = [[(one.name.value, one.value.value, one.value.meaning) for one in group.get_qualitative_evaluations()]
            for group in groups]  # fmt: skip
    assert said == [[("class", "class1", "tumour")], [("class", "class2", "lymph node")]]
    segments = hd.seg.segread(io.BytesIO(files["lesions_seg.dcm"]))
    labels = [segments.get_segment_description(number).segment_label for number in (1, 2)]
    assert labels == ["Lesion 1, tumour (0.90)", "Lesion 2, lymph node (0.80)"]
