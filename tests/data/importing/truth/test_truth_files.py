"""The same ball in every kind of truth gives the same box; kinds are known by their content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scripts.data.importing.true_lesions import ScanTruth, TrueLesion
from scripts.data.importing.truth.slice_places import SlicePlaces, SliceRule, slice_ranks
from scripts.data.importing.truth.truth_files import TruthRules, find_truth
from scripts.data.scans.scan import Scan, read_scan
from scripts.storage.result_files import file_names
from support.fake_truth import (
    BALL,
    SHAPE,
    ball_bounds,
    save_nifti,
    slice_headers,
    stored_grid,
    write_coco,
    write_lidc,
    write_nifti_case,
    write_rtstruct,
    write_seg,
    write_voc,
    write_yolo,
)

# A mask's edges are those of pixels, half a pixel off the ball's at most.
HALF = 0.5 + 1e-6


def read_all(root: Path, scan: Scan, rules: TruthRules, name: Callable[[str], str] = lambda image: image) -> ScanTruth:
    """Everything in a folder as the truth of one scan, slices named by ``name`` of their image."""
    truths, others = find_truth(root, rules)
    assert not others
    places = SlicePlaces.of(scan)
    return ScanTruth.joined([truth.read(places, name(truth.image)) for truth in truths], slice_ranks(scan))


def only(truth: ScanTruth) -> TrueLesion:
    (lesion,) = truth.lesions
    return lesion


def check(lesion: TrueLesion, scan: Scan, *, every_slice: bool = True, every: int = 1, off: float = HALF) -> None:
    """The lesion is the ball: on its widest slice, or on all others, or each of so many, where it was outlined."""
    z = round(float((np.array(BALL.centre) - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3])[2]))
    drawn = [number for number in lesion.slices.tolist() if number % every == 0]
    for number in drawn if every_slice else [z]:
        box = lesion.box_on(number)
        assert box is not None
        assert np.abs(box - BALL.box(scan, number)).max() <= off, number
    there = [number for number in range(len(scan.hu)) if BALL.circle(scan, number)]
    assert abs(lesion.slices[0] - there[0]) <= 1
    assert abs(lesion.slices[-1] - there[-1]) <= 1
    assert lesion.widest in (z - 1, z, z + 1)


@pytest.mark.parametrize("turn", ["plain", "flipped", "sagittal", "tilted"])
def test_a_mask_of_a_turned_or_tilted_file(tmp_path: Path, turn: str) -> None:
    scan = read_scan(write_nifti_case(tmp_path, turn=turn))
    truth = read_all(tmp_path / "masks", scan, TruthRules())
    assert not truth.notes
    check(only(truth), scan)
    # Its voxels taken for those of the scan say the same.
    check(only(read_all(tmp_path / "masks", scan, TruthRules(mask_frame="voxel"))), scan)


@pytest.mark.parametrize("turn", ["flipped", "tilted"])
def test_a_mask_on_another_grid(tmp_path: Path, turn: str) -> None:
    scan = read_scan(write_nifti_case(tmp_path, turn=turn))
    affine, shape = stored_grid("sagittal")
    affine[:3, :3] *= 0.5
    fine = tuple(2 * size for size in shape)
    save_nifti(tmp_path / "fine" / "case.nii.gz", BALL.inside(affine, fine).astype(np.float32), affine)
    truth = read_all(tmp_path / "fine", scan, TruthRules())
    assert "another grid than the scan (0.625 x 1.25 x 0.5 mm and 1 x 1.25 x 2." in truth.notes[0]
    # Half a pixel for the voxels of the mask, and half for those of the scan.
    check(only(truth), scan, off=1.0)


def test_a_dicom_segmentation(tmp_path: Path, series: Path, scan: Scan) -> None:
    write_seg(tmp_path / "seg" / "seg.dcm", series)
    lesion = only(read_all(tmp_path / "seg", scan, TruthRules()))
    check(lesion, scan)
    assert lesion.name == "Lesion 1"
    (truth,), _ = find_truth(tmp_path / "seg", TruthRules())
    assert (truth.kind, truth.series) == ("seg", "1.2.3.4")


@pytest.mark.parametrize("every", [1, 2])
def test_a_structure_set(tmp_path: Path, series: Path, scan: Scan, every: int) -> None:
    write_rtstruct(tmp_path / "rt" / "rt.dcm", series, every=every)
    truth = read_all(tmp_path / "rt", scan, TruthRules())
    # Between two drawn slices the nearest outline counts, which is smaller or larger there.
    check(only(truth), scan, every=every)
    assert bool(truth.notes) == (every == 2)
    (found,), _ = find_truth(tmp_path / "rt", TruthRules())
    assert (found.kind, found.series, only(truth).name) == ("rtstruct", "1.2.3.4", "GTV 1")


def boxes_json(folder: Path, boxes: list[float], image: str = "CT") -> Path:
    folder.mkdir(parents=True)
    (folder / "boxes.json").write_text(json.dumps([{"image": image, "box": [boxes], "label": ["a"]}]))
    return folder


@pytest.mark.parametrize("frame", ["lps", "ras", "voxel", "voxel_inclusive"])
def test_boxes_in_every_frame(tmp_path: Path, scan: Scan, frame: str) -> None:
    bounds = np.array(ball_bounds())
    if frame == "ras":
        bounds = np.array([-bounds[3], -bounds[4], bounds[2], -bounds[0], -bounds[1], bounds[5]])
    elif frame.startswith("voxel"):
        ends = (bounds.reshape(2, 3) - scan.affine[:3, 3]) / scan.spacing + 0.5
        bounds = ends.ravel() - (np.array([0, 0, 0, 1, 1, 1]) if frame == "voxel_inclusive" else 0)
    folder = boxes_json(tmp_path / "boxes", bounds.tolist())
    check(only(read_all(folder, scan, TruthRules(box_frame=frame))), scan, every_slice=False)


@pytest.mark.parametrize("layout", ["centre_size", "corner_size", "xyxyzz"])
def test_boxes_in_every_layout(tmp_path: Path, scan: Scan, layout: str) -> None:
    low, high = np.array(ball_bounds()).reshape(2, 3)
    rows = {
        "centre_size": [*(low + high) / 2, *(high - low)],
        "corner_size": [*low, *(high - low)],
        "xyxyzz": [*low[:2], *high[:2], low[2], high[2]],
    }
    folder = boxes_json(tmp_path / "boxes", list(map(float, rows[layout])))
    rules = TruthRules(box_frame="lps", box_layout=layout)
    check(only(read_all(folder, scan, rules)), scan, every_slice=False)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image,x1,y1,z1,x2,y2,z2", ball_bounds()),
        ("image,x,y,z,w,h,d", [*BALL.centre, 18.0, 18.0, 18.0]),
        ("seriesuid,coordX,coordY,coordZ,diameter_mm", [*BALL.centre, 18.0]),
    ],
)
def test_boxes_of_a_table(tmp_path: Path, scan: Scan, header: str, row: list[float]) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\nCT,{','.join(map(str, row))}\n")
    check(only(read_all(tmp_path, scan, TruthRules(box_frame="lps"))), scan, every_slice=False)


def test_markups_and_our_own_results(tmp_path: Path, scan: Scan) -> None:
    markup = {
        "type": "ROI",
        "center": list(BALL.centre),
        "size": [18.0] * 3,
        "coordinateSystem": "LPS",
        "name": "node_2",
    }
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "CT.mrk.json").write_text(json.dumps({"markups": [markup]}))
    check(only(read_all(tmp_path / "m", scan, TruthRules())), scan, every_slice=False)
    assert only(read_all(tmp_path / "m", scan, TruthRules())).name == "node"
    ends = ((np.array(ball_bounds()).reshape(2, 3) - scan.affine[:3, 3]) / scan.spacing + 0.5).ravel().tolist()
    own = {"schema_version": "1.1", "input": {"name": "1.2.3.4"}, "lesions": [{"lesion": 1, "box_voxel": ends}]}
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "lesions.json").write_text(json.dumps(own))
    check(only(read_all(tmp_path / "o", scan, TruthRules())), scan, every_slice=False)


def test_of_a_folder_of_results_the_lesions_count(tmp_path: Path) -> None:
    own = json.dumps({"schema_version": "1.3", "input": {"name": "ct"}, "lesions": []})
    for name in ("finished.json", "overlays/lesion_001.png", "markups/lesion_001_1.mrk.json", *file_names()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(own)

    def found(pattern: str | None = None) -> list[str]:
        truths, others = find_truth(tmp_path, TruthRules(), pattern=pattern)
        assert not others
        return [truth.path.name for truth in truths]

    assert found() == ["lesions.json"]
    # What a person made of them comes first, and what the user names in any case.
    (tmp_path / "lesions_reviewed (1).json").write_text(own)
    assert found() == ["lesions_reviewed (1).json"]
    assert found("lesions.json") == ["lesions.json"]


def test_labels_of_slices(tmp_path: Path, series: Path, scan: Scan) -> None:
    check(only(read_all(write_voc(tmp_path / "voc", series), scan, TruthRules())), scan)
    (tmp_path / "coco").mkdir()
    write_coco(tmp_path / "coco" / "coco.json", series)
    lesion = only(read_all(tmp_path / "coco", scan, TruthRules(), lambda image: image.rpartition("/")[2]))
    check(lesion, scan)
    assert (lesion.name, lesion.form) == ("tumour", "outline")
    rules = TruthRules(slices=SliceRule("from_head", 1))
    check(only(read_all(write_yolo(tmp_path / "yolo"), scan, rules, lambda image: image.rpartition("_")[2])), scan)


def test_a_reading_of_lidc(tmp_path: Path, series: Path, scan: Scan) -> None:
    write_lidc(tmp_path / "reading.xml", series)
    check(only(read_all(tmp_path, scan, TruthRules())), scan)
    write_lidc(tmp_path / "reading.xml", series, readers=2)
    truth = read_all(tmp_path, scan, TruthRules())
    assert not truth.lesions
    assert "1 nodule(s) that fewer than 3 readers outlined" in truth.notes[0]
    assert len(truth.unsure) > 3
    assert len(read_all(tmp_path, scan, TruthRules(readers=2)).lesions) == 1


def test_ends_of_diameters(tmp_path: Path, series: Path, scan: Scan) -> None:
    z = 7
    x1, y1, x2, y2 = BALL.box(scan, z)
    ends = [x1, (y1 + y2) / 2, x2, (y1 + y2) / 2, (x1 + x2) / 2, y1, (x1 + x2) / 2, y2]
    uid = slice_headers(series)[z].SOPInstanceUID
    columns = "image,slice,x1,y1,x2,y2,x3,y3,x4,y4"
    (tmp_path / "r.csv").write_text(f"{columns}\nCT,{uid},{','.join(map(str, ends))}\nCT2,,,,,,,,,\n")
    truths, _ = find_truth(tmp_path, TruthRules())
    assert [(truth.kind, truth.image) for truth in truths] == [("recist", "CT"), ("recist", "CT2")]
    lesion = only(truths[0].read(SlicePlaces.of(scan), ""))
    np.testing.assert_allclose(lesion.boxes[0], BALL.box(scan, z) + np.array([-5, -5, 5, 5]), atol=1e-6)
    assert (lesion.form, lesion.slices.tolist()) == ("slices", [z])
    assert not truths[1].read(SlicePlaces.of(scan), "").lesions


def test_what_is_no_truth_is_named(tmp_path: Path, series: Path) -> None:
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    (tmp_path / "README.txt").write_text("These masks were drawn by hand.")
    (tmp_path / ".hidden.csv").write_text("x")
    (tmp_path / "a.nii.gz").write_bytes(b"")
    truths, others = find_truth(tmp_path, TruthRules())
    assert ([truth.kind for truth in truths], others) == (["mask"], [tmp_path / "README.txt", tmp_path / "notes.pdf"])
    with pytest.raises(FileNotFoundError, match="got none among 1 files like"):
        find_truth(tmp_path, TruthRules(), pattern="*.pdf")
    with pytest.raises(FileNotFoundError, match=r"in .*notes\.pdf, got none among 1 files\."):
        find_truth(tmp_path / "notes.pdf", TruthRules())
    # Slices of the scan itself are neither truth nor strange.
    with pytest.raises(FileNotFoundError, match=f"got none among {SHAPE[0]} files"):
        find_truth(series, TruthRules())
    with pytest.raises(FileNotFoundError, match="there is nothing"):
        find_truth(tmp_path / "nowhere", TruthRules())


MSD = {"name": "x", "labels": {"1": "tumour"}, "training": [{"image": "a.nii.gz", "label": "b.nii.gz"}], "test": ["c"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("case.json", json.dumps({"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY"], "SliceThickness": 2.5})),
        ("dataset.json", json.dumps(MSD)),
        ("datastore_v2.json", json.dumps({"name": "x", "objects": {"case": {"labels": {"final": {}}}}})),
        ("metadata.csv", "Series UID,Collection\n1.2,x\n"),
    ],
)
def test_what_programs_store_next_to_masks_is_named_and_ends_nothing(tmp_path: Path, name: str, content: str) -> None:
    write_nifti_case(tmp_path)
    path = tmp_path / "masks" / name
    path.write_text(content)
    truths, others = find_truth(tmp_path / "masks", TruthRules())
    assert ([truth.kind for truth in truths], others) == (["mask"], [path])
    # Where it is all there is, or was meant, the line says what is missing in it.
    with pytest.raises(ValueError, match=r"^Expected (entries with|'box' in every|the columns)"):
        find_truth(path, TruthRules())
    with pytest.raises(ValueError, match=r"^Expected (entries with|'box' in every|the columns)"):
        find_truth(tmp_path / "masks", TruthRules(), pattern=name, kind="boxes")


@pytest.mark.parametrize(
    "rules",
    [
        {"lesions": "each"},
        {"mask_frame": "ras"},
        {"box_frame": "mm"},
        {"box_layout": "xywh"},
        {"readers": 5},
        {"slices": SliceRule("axial")},
        {"slices": SliceRule(first=2)},
        {"slices": SliceRule(pixels_from=3)},
    ],
)
def test_words_that_are_not_known(rules: dict) -> None:
    with pytest.raises(ValueError, match=r"^Expected .* as \w+, got "):
        TruthRules(**rules)


def test_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as kind, got 'masks'"):
        find_truth(tmp_path, TruthRules(), kind="masks")


@pytest.mark.parametrize("kind", [None, "yolo"])
def test_names_of_yolo_lie_next_to_the_labels(tmp_path: Path, kind: str | None) -> None:
    for place, name in (("p1", "cyst"), ("p2/labels", "node")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "classes.txt").write_text(name)
        (tmp_path / place / "a_1.txt").write_text("0 0.5 0.5 0.1 0.1")
    found, left = find_truth(tmp_path, TruthRules(), kind=kind)
    assert left == []
    assert [(truth.image, truth.companions) for truth in found] == [
        ("p1/a_1", (tmp_path / "p1/classes.txt",)),
        ("p2/labels/a_1", (tmp_path / "p2/labels/classes.txt",)),
    ]
