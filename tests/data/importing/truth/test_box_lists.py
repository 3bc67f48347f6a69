"""Lists of boxes: the frame has to be named, and rows that cannot be are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.importing.true_lesions import ScanTruth
from scripts.data.importing.truth.box_lists import (
    ListedBoxes,
    ListedDiameters,
    read_box_csv,
    read_box_json,
    read_markup_lesions,
    read_own_json,
)
from scripts.data.importing.truth.slice_places import SlicePlaces, SliceRule
from scripts.data.scans.scan import read_scan
from scripts.storage.atomic_files import hash_files
from support.fake_results import results_of
from support.fake_scans import ball_scan, scan_of
from support.fake_truth import write_nifti_case

BOX = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    "content",
    [
        [{"image": "a.nii.gz", "box": [BOX], "label": [0]}],
        {"image": "a.nii.gz", "boxes": BOX, "label": 0},
        {"training": [{"image": "a.nii.gz", "box": [BOX], "label": ["0"]}], "validation": []},
    ],
)
def test_entries_of_json(content: Any) -> None:
    (found,) = read_box_json(content, Path("b.json"), frame="voxel")
    assert (found.image, found.boxes.tolist(), found.names) == ("a.nii.gz", [BOX], ("0",))


def test_a_data_list_may_say_more_than_its_entries() -> None:
    content = {"name": "set", "numTest": 1, "training": [{"image": "a.nii.gz", "box": [BOX]}], "test": ["b.nii.gz"]}
    (found,) = read_box_json(content, Path("b.json"), frame="voxel")
    assert (found.image, found.boxes.tolist()) == ("a.nii.gz", [BOX])


def test_boxes_by_the_name_of_a_scan() -> None:
    first, second = read_box_json({"a": [BOX, BOX], "b": []}, Path("b.json"), frame="lps")
    assert (first.names, len(second.boxes)) == (("lesion", "lesion"), 0)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([{"image": "a", "box": [[1, 2, 3, 4]]}], "boxes of six finite numbers"),
        ([{"image": "a", "box": [[1, 2, 3, 4, 5, "x"]]}], "boxes of six finite numbers"),
        ([{"image": "a", "box": [[1, 2, 3, 4, 5, float("inf")]]}], "boxes of six finite numbers"),
        ([{"image": "a", "box": [[0, 0, 0, 1, 1, 1e300]]}], "none beyond 100000"),
        ([{"image": "a", "box": [[4, 2, 3, 1, 5, 6]]}], "end after they begin, laid out as corners"),
        ([{"image": "a", "box": [BOX], "label": [1, 2]}], "a label for each of 1 boxes, got 2"),
        ([{"image": "a"}], "'box' in every entry"),
        ([{"box": [BOX]}], "entries with 'image' and 'box'"),
        (3, "entries with 'image' and 'box'"),
    ],
)
def test_json_that_cannot_be(content: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read_box_json(content, Path("b.json"), frame="voxel")


@pytest.mark.parametrize("frame", ["voxel", "voxel_inclusive", "lps", "ras", "markups"])
def test_boxes_that_reach_beyond_the_scan_are_cut_with_a_note(tmp_path: Path, frame: str) -> None:
    scan = scan_of(ball_scan())  # 56 x 40 x 12 voxels of 1 x 1 x 2.5 mm, the middle of the first at 0, 0, 0

    def cut(x2: float, z1: float) -> ScanTruth:
        low, high = np.array([20.0, 10.0, z1]), np.array([x2, 15.0, 8.0])
        if frame.startswith("voxel"):
            box = np.array([*low, *(high - (frame == "voxel_inclusive"))])
        else:
            low, high = ((edge - 0.5) * scan.spacing for edge in (low, high))
            box = np.array([-high[0], -high[1], low[2], -low[0], -low[1], high[2]] if frame == "ras" else [*low, *high])
        if frame != "markups":
            return ListedBoxes("a", box[None], ("a",), "b.json", frame).lesions_in(scan)
        roi = {"type": "ROI", "center": ((low + high) / 2).tolist(), "size": (high - low).tolist()}
        (tmp_path / "b.json").write_text(json.dumps({"markups": [roi]}))
        return read_markup_lesions(tmp_path / "b.json", scan)

    assert cut(56.9, 4.0).notes == ()
    truth = cut(60.0, -7.0)
    assert truth.notes == ("1 box(es) reach up to 7.0 voxels beyond the scan: cut at its edge (b.json).",)
    np.testing.assert_allclose(truth.lesions[0].bounds, [20, 10, 56, 15], atol=1e-9)
    assert truth.lesions[0].slices.tolist() == list(range(8))


def test_the_frame_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--box_frame, as numbers do not give their frame: one of voxel"):
        read_box_json([{"image": "a", "box": [BOX]}], Path("b.json"), frame=None)
    (tmp_path / "a.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,3,4\n")
    with pytest.raises(ValueError, match="--box_frame lps"):
        read_box_csv(tmp_path / "a.csv", frame="voxel")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("image,x1,y1\na,1,2\n", "the columns image and"),
        ("x1,y1,z1,x2,y2,z2\n1,2,3,4,5,6\n", "the columns image and"),
        ("image,x1,y1,z1,x2,y2,z2\na,1,2,3,1_0,5,6\n", "6 numbers, got .* in line 2 of"),
        ("image,x1,y1,z1,x2,y2,z2\na,1,2,3,4,5,\n", "6 numbers, got .* in line 2 of"),
        ("image,x1,y1,z1,x2,y2,z2\n,1,2,3,4,5,6\n", "the name of a scan in every row, got none in line 2"),
        (
            "image,x1,y1,z1,x2,y2,z2,x,y,z,w,h,d\na,1,2,3,4,5,6,1,2,3,4,5,6\n",
            r"boxes given in one way, got them as x1 y1 z1 x2 y2 z2 and as x y z w h d in .*a\.csv",
        ),
    ],
)
def test_tables_that_cannot_be(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=what):
        read_box_csv(tmp_path / "a.csv", frame="voxel")


def test_a_row_without_numbers_is_a_scan_without_a_lesion(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Image,X1,Y1,Z1,X2,Y2,Z2,Label\na,1,2,3,4,5,6,node\nb,,,,,,,\n")
    first, second = read_box_csv(tmp_path / "a.csv", frame="voxel")
    assert (first.names, second.image, second.names) == (("node",), "b", ())


def test_our_own_results() -> None:
    content = {"input": {"name": "ct.nii.gz"}, "lesions": [{"box_voxel": BOX}, {"box_voxel": BOX, "class": "node"}]}
    found = read_own_json(content, Path("lesions.json"))
    assert (found.image, found.frame, found.names) == ("ct.nii.gz", "voxel", ("lesion", "node"))
    for broken in ({"lesions": []}, {"input": {}, "lesions": [{}]}):
        with pytest.raises(ValueError, match=r"lesions\.json"):
            read_own_json(broken, Path("lesions.json"))


def test_our_own_results_of_a_tilted_scan_come_back_as_they_were(tmp_path: Path) -> None:
    scan = read_scan(write_nifti_case(tmp_path, turn="tilted"))
    boxes = [[12.5, 20.0, 3.0, 21.0, 31.25, 9.0], [30.0, 25.0, 5.0, 36.0, 33.0, 7.0]]
    content = results_of(scan, boxes, (0.9, 0.4)).document
    # Nothing but a decision makes a lesion a region to ignore.
    content["lesions"][1]["review"] = {"decision": "uncertain", "comment": ""}
    truth = read_own_json(json.loads(json.dumps(content)), tmp_path / "lesions.json").lesions_in(scan)
    for (one,), box in zip((truth.lesions, truth.regions), np.array(boxes), strict=True):
        assert one.slices.tolist() == list(range(int(box[2]), int(box[5])))
        np.testing.assert_allclose(one.boxes, np.repeat(box[None, [0, 1, 3, 4]], len(one.slices), axis=0), atol=1e-3)
    # A person moved it by a voxel: its size still holds. Without a size it is on every slice what it says.
    entry = content["lesions"][0]
    entry["box_voxel"] = np.add(entry["box_voxel"], [1, 0, 0, 1, 0, 0]).tolist()
    (moved,) = read_own_json(content, tmp_path / "lesions.json").lesions_in(scan).lesions
    np.testing.assert_allclose(moved.boxes[0], [13.5, 20.0, 22.0, 31.25], atol=1e-3)
    del entry["size_mm"]
    (added,) = read_own_json(content, tmp_path / "lesions.json").lesions_in(scan).lesions
    for number, found in zip(added.slices, added.boxes, strict=True):
        # That box on every stored slice.
        low, high = scan.boxes_to_stored(np.array([[*found[:2], number + 0.5, *found[2:], number + 0.5]])).reshape(2, 3)
        np.testing.assert_allclose([*low[:2], *high[:2]], np.array(entry["box_voxel"])[[0, 1, 3, 4]], atol=1e-9)


@pytest.mark.parametrize("turn", ["plain", "flipped", "sagittal", "tilted"])
def test_a_box_that_was_moved_in_millimetres_alone_is_not_lost(tmp_path: Path, turn: str) -> None:
    scan = read_scan(write_nifti_case(tmp_path, turn=turn))
    content = json.loads(json.dumps(results_of(scan, [[12.5, 20.0, 3.0, 21.0, 31.25, 9.0]], (0.9,)).document))
    (entry,) = content["lesions"]
    path = tmp_path / "lesions.json"
    before = entry["box_lps_mm"]
    entry["box_lps_mm"] = [before[0] + 5, *before[1:]]
    with pytest.raises(ValueError, match=r"the change of a box in box_voxel.* in lesion 1 of .*lesions\.json"):
        read_own_json(content, path)
    # Who moves the voxels may leave the millimetres or move them too; what is not of our results has no middle.
    entry["box_voxel"][0] += 5
    read_own_json(content, path)
    entry["box_lps_mm"] = before
    read_own_json(content, path)
    entry["box_voxel"][0] -= 5
    entry["box_lps_mm"] = [0.0] * 6
    for broken in ("center_lps_mm", "box_lps_mm"):
        read_own_json({**content, "lesions": [{**entry, broken: "?"}]}, path)


def test_a_box_in_voxels_of_a_tilted_scan_ends_at_the_edges_of_its_slices(tmp_path: Path) -> None:
    scan = read_scan(write_nifti_case(tmp_path, turn="tilted"))
    rows = scan.stored_shape[1]

    def found(low: int, high: int) -> ScanTruth:
        return ListedBoxes("a", np.array([[10.0, low, 2, 20, high, 9]]), ("x",), "s", "voxel").lesions_in(scan)

    for low, high in ((rows - 5, rows + 3), (-8, 5)):
        truth = found(low, high)
        (lesion,) = truth.lesions
        assert lesion.slices.tolist() == list(range(2, 9))
        for number, box in zip(lesion.slices, lesion.boxes, strict=True):
            (stored,) = scan.boxes_to_stored(np.array([[*box[:2], number + 0.5, *box[2:], number + 0.5]]))
            np.testing.assert_allclose(stored[[1, 4]], [max(0, low), min(rows, high)], atol=1e-9)
        assert truth.notes == (
            f"1 box(es) reach up to {max(-low, high - rows)}.0 voxels beyond the scan: cut at its edge (s).",
        )
    for low, high in ((rows, rows + 3), (-12, -1)):
        with pytest.raises(ValueError, match="Expected boxes inside of a scan"):
            found(low, high)


def test_a_review_makes_truth_of_accepted_lesions_alone() -> None:
    boxes = [[10, 10, z, 20, 20, z + 2] for z in (0, 3, 6, 9)]
    decisions = ("accepted", "rejected", "uncertain", "undecided")
    lesions = [
        {"box_voxel": box, "review": {"decision": said, "comment": ""}}
        for box, said in zip(boxes, decisions, strict=True)
    ]
    found = read_own_json({"input": {"name": "ct"}, "lesions": lesions}, Path("lesions_reviewed.json"))
    truth = found.lesions_in(scan_of(ball_scan()))
    (lesion,) = truth.lesions
    assert lesion.slices.tolist() == [0, 1]
    # What is unsure is neither a lesion nor background; what was rejected is background.
    assert [region.slices.tolist() for region in truth.regions] == [[6, 7], [9, 10]]
    assert truth.unsure == ()
    assert truth.notes == ("lesions_reviewed.json: 2 lesion(s) undecided or uncertain: regions to ignore.",)
    lesions[1]["review"] = {"decision": "Accepted"}
    with pytest.raises(ValueError, match=r"lesion 2 of lesions_reviewed\.json"):
        read_own_json({"input": {"name": "ct"}, "lesions": lesions}, Path("lesions_reviewed.json"))


def test_lesions_are_those_of_the_very_files_that_they_name(tmp_path: Path) -> None:
    lesions = [{"box_voxel": [10, 10, 0, 20, 20, 2]}]
    (tmp_path / "ct.nii").write_bytes(b"this scan")
    scan = scan_of(ball_scan(), path=tmp_path / "ct.nii")
    for digest, right in ((hash_files(scan.files), True), ("0" * 64, False), ("", False)):
        found = read_own_json({"input": {"name": "ct.nii", "sha256": digest}, "lesions": lesions}, tmp_path / "a.json")
        if right:
            assert len(found.lesions_in(scan).lesions) == 1
        else:
            with pytest.raises(ValueError, match=r"Expected lesions of .*ct\.nii \(SHA-256 .*got those of other files"):
                found.lesions_in(scan)
    with pytest.raises(ValueError, match="Expected the SHA-256 of the scan as text, got 5"):
        read_own_json({"input": {"name": "ct.nii", "sha256": 5}, "lesions": lesions}, tmp_path / "a.json")


def test_an_error_names_the_whole_path_and_the_set_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "patient" / "lesions_reviewed.json"
    with pytest.raises(ValueError, match=r"patient.lesions_reviewed\.json"):
        read_own_json({"input": {"name": "ct"}, "lesions": [{"box_voxel": [1, 2, 3]}]}, path)
    assert read_own_json({"input": {"name": "ct"}, "lesions": []}, path).source == "lesions_reviewed.json"


def test_diameters_without_a_length_are_rejected() -> None:
    places = SlicePlaces(scan_of(ball_scan()), {}, {})
    for ends, good in (([10, 10] * 4, False), ([10, 10, 10, 14, 10, 12, 10, 12], True)):
        found = ListedDiameters("ct", np.array([ends], float), ("1",), ("a",), "list.csv, ct")
        if good:
            assert len(found.lesions_in(places, SliceRule("from_feet", 0)).lesions) == 1
        else:
            with pytest.raises(ValueError, match=r"with a length, got four ends in one place, .* in list\.csv, ct"):
                found.lesions_in(places, SliceRule("from_feet", 0))
