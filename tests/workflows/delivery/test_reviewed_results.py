"""A review changes the results of exactly its scan: accepted lesions alone, in every file."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import highdicom as hd
import jsonschema
import nibabel
import numpy as np
import pydicom
import pytest
from monai.bundle import ConfigParser

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.outputs import lesions_document
from scripts.inference.outputs.lesions_document import result_sha256
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.workflows.delivery.reviewed_results import Reviews
from scripts.workflows.infer_scans import ScanRunner
from support.fake_dicom import write_ct
from support.fake_results import CLASSES, results_of
from support.fake_scans import BlobDetector, ball_scan, scan_of
from support.fake_weights import weights_of

CONFIG = Path(__file__).resolve().parents[3] / "mp3d_bundle" / "configs" / "inference.json"


def two_balls() -> np.ndarray:
    return np.maximum(ball_scan(), ball_scan(centre_mm=(12.0, 25.0, 12.5), radius_mm=4.0))


def three_balls() -> np.ndarray:
    return np.maximum(two_balls(), ball_scan(centre_mm=(47.0, 30.0, 12.5), radius_mm=3.5))


def runner(series: Path, output: Path, review: Reviews | None = None, **more: Any) -> ScanRunner:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    weights = weights_of(BlobDetector(), {"name": "blob"})
    outputs = ("json", "csv", "slicer", "labelmap", "dicom", "gsps")
    writer = ResultWriter(output, outputs=outputs)
    return ScanRunner(find_scans(series), detector, weights, writer, review=review, **more)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "lesions.json").read_text())


def reviewed(content: dict[str, Any], path: Path, *decisions: str) -> Path:
    """What the page saves."""
    lesions = [
        {**lesion, "review": {"decision": decision, "comment": ""}}
        for lesion, decision in zip(content["lesions"], decisions, strict=True)
    ]
    head = {name: value for name, value in content.items() if name != "timing_s"}
    path.write_text(json.dumps({**head, "result_sha256": result_sha256(content), "lesions": lesions}))
    return path


def tracked(folder: Path) -> dict[str, dict[str, str]]:
    """Of each DICOM file the tracking UID of each lesion by its name."""
    report: Any = hd.sr.srread(folder / "lesions_sr.dcm").content
    shown = pydicom.dcmread(folder / "lesions_pr.dcm").GraphicAnnotationSequence
    lines = [one for page in shown for one in page.get("GraphicObjectSequence", [])]
    segments = hd.seg.segread(folder / "lesions_seg.dcm").SegmentSequence
    return {
        "report": {
            str(one.tracking_identifier): str(one.tracking_uid)
            for group in (report.get_volumetric_roi_measurement_groups(), report.get_planar_roi_measurement_groups())
            for one in group
        },
        "segmentation": {str(one.TrackingID): str(one.TrackingUID) for one in segments},
        "lines": {str(one.TrackingID): str(one.TrackingUID) for one in lines},
    }


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ct(tmp_path_factory.mktemp("ct"), two_balls(), spacing=(1.0, 1.0, 2.5))


@pytest.fixture(scope="module")
def results(series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    assert runner(series, folder).run() == []
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A series with three lesions, and their results."""
    folder = tmp_path_factory.mktemp("three")
    series = write_ct(folder / "ct", three_balls(), spacing=(1.0, 1.0, 2.5))
    assert runner(series, folder / "out").run() == []
    return series, folder / "out"


def test_only_accepted_lesions_are_in_the_report_and_the_segmentation(
    series: Path, results: Path, tmp_path: Path
) -> None:
    content = read(results)
    assert len(content["lesions"]) == 2
    path = reviewed(content, tmp_path / "r.json", "rejected", "accepted")
    assert runner(series, tmp_path / "out", Reviews(path)).run() == []
    after = read(tmp_path / "out")
    assert [lesion["box_voxel"] for lesion in after["lesions"]] == [content["lesions"][1]["box_voxel"]]
    assert after["settings"]["review"].startswith("1 of 2 lesions accepted, review SHA-256 ")
    report = hd.sr.srread(tmp_path / "out" / "lesions_sr.dcm")
    content_of_report: Any = report.content
    groups = content_of_report.get_volumetric_roi_measurement_groups()
    assert len(groups) == 1
    assert "review=1 of 2 lesions accepted" in report.to_json()
    segmentation = hd.seg.segread(tmp_path / "out" / "lesions_seg.dcm")
    assert segmentation.number_of_segments == 1
    before = hd.seg.segread(results / "lesions_seg.dcm").get_volume(segment_numbers=[2], combine_segments=True)
    again = segmentation.get_volume(segment_numbers=[1], combine_segments=True)
    assert np.count_nonzero(before.array) == np.count_nonzero(again.array) > 0
    assert pydicom.dcmread(tmp_path / "out" / "lesions_sr.dcm").PatientID == "P-1"


def test_remarks_of_the_reader_are_in_every_file(series: Path, results: Path, tmp_path: Path) -> None:
    path = reviewed(read(results), tmp_path / "r.json", "rejected", "accepted")
    content = json.loads(path.read_text())
    content["lesions"][1]["review"]["comment"] = "cyst, old"
    ruler = {"tool": "ruler", "plane": "axial", "points_lps_mm": [[0, 0, 5], [3, 4, 5]], "length_mm": 5.0}
    content["measurements"] = [{**ruler, "lesion": 2}, {**ruler, "lesion": 1}, {**ruler, "lesion": None}]
    path.write_text(json.dumps(content))
    assert runner(series, tmp_path / "out", Reviews(path)).run() == []
    document = read(tmp_path / "out")
    schema = json.loads((Path(lesions_document.__file__).parent / "schema" / "lesions.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    (lesion,) = document["lesions"]
    assert lesion["lesion"] == 2
    assert lesion["review"] == {"decision": "accepted", "comment": "cyst, old", "measurements": [ruler]}
    (row,) = csv.DictReader((tmp_path / "out" / "lesions.csv").open())
    assert (row["comment"], row["measured"]) == ("cyst, old", "ruler 5.0 mm")
    report: Any = hd.sr.srread(tmp_path / "out" / "lesions_sr.dcm").content
    (group,) = report.get_image_measurement_groups()
    assert [one.value for one in group.get_measurements()] == [5.0]
    content["measurements"][0]["length_mm"] = 50.0
    path.write_text(json.dumps(content))
    ((_, reason),) = runner(series, tmp_path / "other", Reviews(path)).run()
    assert "Expected length_mm 5.00 as its points give, got 50.0 in measurement 1 of" in reason


@pytest.mark.parametrize("accepted", [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)])
def test_accepted_lesions_keep_their_numbers_and_tracking_uids(
    accepted: tuple[int, ...], three: tuple[Path, Path], tmp_path: Path
) -> None:
    series, results = three
    content = read(results)
    decisions = ["accepted" if number in accepted else "rejected" for number in (1, 2, 3)]
    path = reviewed(content, tmp_path / "r.json", *decisions)
    assert runner(series, tmp_path / "out", Reviews(path)).run() == []
    after, before = tracked(tmp_path / "out"), tracked(results)
    names = [f"Lesion {number}" for number in accepted]
    assert len(set(before["report"].values())) == 3
    for kind, uids in after.items():
        assert uids == {name: before["report"][name] for name in names} == {name: before[kind][name] for name in names}
    document = read(tmp_path / "out")
    assert [(one["lesion"], one["box_voxel"]) for one in document["lesions"]] == [
        (one["lesion"], one["box_voxel"]) for one in content["lesions"] if one["lesion"] in accepted
    ]
    boxes = json.loads((tmp_path / "out" / "detections.json").read_text())["detections"]
    assert {one["lesion"] for one in boxes} - {None} == set(accepted)
    markups = json.loads((tmp_path / "out" / "lesions.mrk.json").read_text())["markups"]
    assert [one["name"].split(" (")[0] for one in markups] == names
    image: Any = nibabel.load(tmp_path / "out" / "lesion_boxes.nii.gz")
    labels = np.asarray(image.dataobj)
    assert set(np.unique(labels)) - {0} == set(accepted)
    # A review of the reviewed result keeps them once more.
    again = reviewed(document, tmp_path / "again.json", *["rejected"] * (len(accepted) - 1), "accepted")
    assert runner(series, tmp_path / "again", Reviews(again)).run() == []
    assert tracked(tmp_path / "again")["report"] == {names[-1]: before["report"][names[-1]]}


def test_reviews_of_another_result_in_the_folder_are_told(
    series: Path, results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = reviewed(read(results), tmp_path / "r.json", "rejected", "accepted")
    shutil.copytree(results, tmp_path / "out")
    for _ in range(2):  # over the result that was reviewed, then over that of the review
        assert runner(series, tmp_path / "out", Reviews(path), overwrite=True).run() == []
    assert "another result" not in caplog.text
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "result_sha256": "0" * 64}))
    assert runner(series, tmp_path / "out", Reviews(path), overwrite=True).run() == []
    assert f"{path} is the review of another result than the one in {tmp_path / 'out'}: SHA-256 000000000000, not" in (
        caplog.text
    )
    path.write_text(json.dumps({**content, "result_sha256": "0"}))
    with pytest.raises(ValueError, match=r"Expected a SHA-256 of 64 .*, got '0' as result_sha256 of"):
        Reviews(path)


def test_a_review_that_accepts_nothing_reports_no_lesion(series: Path, results: Path, tmp_path: Path) -> None:
    path = reviewed(read(results), tmp_path / "r.json", "uncertain", "undecided")
    assert runner(series, tmp_path / "out", Reviews(path)).run() == []
    assert read(tmp_path / "out")["lesions"] == []
    assert not (tmp_path / "out" / "lesions_seg.dcm").exists()


def test_a_review_is_applied_to_no_other_scan(series: Path, results: Path, tmp_path: Path) -> None:
    path = reviewed(read(results), tmp_path / "r.json", "accepted", "accepted")
    # The same UIDs, other voxels.
    other = write_ct(tmp_path / "other", two_balls() + 1, spacing=(1.0, 1.0, 2.5))
    ((_, reason),) = runner(other, tmp_path / "out", Reviews(path)).run()
    assert "Expected the review of this scan (SHA-256 " in reason
    assert not (tmp_path / "out" / "lesions.json").exists()
    both = tmp_path / "both"
    both.mkdir()
    for name in ("a", "b"):
        (both / f"{name}.json").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"one review of each scan, got two of one: .*a\.json and .*b\.json"):
        Reviews(both)


def test_accepted_lesions_that_other_settings_do_not_find_are_named(
    series: Path, results: Path, tmp_path: Path
) -> None:
    content = read(results)
    content["lesions"][0]["box_voxel"][2] += 2
    path = reviewed(content, tmp_path / "r.json", "accepted", "rejected")
    ((_, reason),) = runner(series, tmp_path / "out", Reviews(path)).run()
    assert "Expected lesion 1 of" in reason
    assert "weights and settings of the result that was reviewed" in reason


def test_results_of_another_review_are_not_taken_for_finished(series: Path, results: Path, tmp_path: Path) -> None:
    one = reviewed(read(results), tmp_path / "one.json", "accepted", "rejected")
    two = reviewed(read(results), tmp_path / "two.json", "accepted", "accepted")
    assert runner(series, tmp_path / "out", Reviews(one)).run() == []
    ((_, reason),) = runner(series, tmp_path / "out", Reviews(two)).run()
    assert "with other settings (review" in reason
    assert runner(series, tmp_path / "out", Reviews(two), overwrite=True).run() == []
    assert len(read(tmp_path / "out")["lesions"]) == 2


def test_config_reads_reviews_where_they_are_named(results: Path, tmp_path: Path) -> None:
    path = reviewed(read(results), tmp_path / "r.json", "accepted", "rejected")
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIG)]))
    assert parser.get_parsed_content("reviews") is None
    parser["review"] = str(path)
    parser.parse(reset=True)
    (known,) = parser.get_parsed_content("reviews").of_scan.values()
    assert known.decisions == ("accepted", "rejected")


def test_reviews_are_found_where_results_are(tmp_path: Path) -> None:
    def write(place: str, digest: str) -> None:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        content = {"input": {"sha256": digest}, "result_sha256": "c" * 64, "lesions": []}
        (tmp_path / place).write_text(json.dumps(content))

    for number in range(7):
        write(f"case {number}/lesions_reviewed.json", f"{number}" * 64)
        write(f"case {number}/lesions.json", "results")
    write("another.json", "a" * 64)
    for name in ("lesions.json", "finished.json", "batch.json"):
        write(name, "results")
    reviews = Reviews(tmp_path)
    assert sorted(reviews.of_scan) == sorted([*(f"{number}" * 64 for number in range(7)), "a" * 64])
    with pytest.raises(ValueError, match=r"got another\.json of aaaaaaaaaaaa, .* of 333333333333 and 3 more\.$"):
        reviews.of("b" * 64)


def test_lesions_in_one_place_are_told_apart_by_their_class(tmp_path: Path) -> None:
    box = (24.0, 10.0, 4.0, 37.0, 23.0, 9.0)

    def labels(boxes: np.ndarray) -> dict[str, np.ndarray]:
        return {"labels": np.arange(len(boxes)) % 2 + 1}

    result = results_of(scan_of(ball_scan()), [box, box], (0.9, 0.8), model=CLASSES, fields=labels)
    assert [lesion.label for lesion in result.lesions] == [1, 2]
    path = reviewed({**result.document}, tmp_path / "r.json", "rejected", "accepted")
    digest = result.document["input"]["sha256"]
    (kept,) = Reviews(path).accepted(result.scan, digest, result.lesions)
    assert (kept.label, kept.score) == (2, 0.8)
