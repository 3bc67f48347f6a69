"""A truth finds its scan by a rule, or is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.data.importing.pattern_stars import StarPattern
from scripts.data.importing.true_lesions import ScanTruth
from scripts.data.importing.truth.truth_files import Truth
from scripts.data.importing.truth_matching import ImportScan, listed, match_truth
from scripts.data.scans.find_scans import ScanSource

ROOT = Path("images")


def scan(path: str, series: str | None = None, name: str = "") -> ImportScan:
    return ImportScan.of(ScanSource(ROOT / path, name, series), ROOT)


def truth(path: str, kind: str = "mask", image: str | None = None, series: str = "") -> Truth:
    file = Path("truth") / path
    place = file.parent.relative_to("truth").as_posix()
    stem = file.name.split(".nii")[0].split(".txt")[0]
    return Truth(
        file, kind, "" if place == "." else place, stem if image is None else image, series, lambda *_: ScanTruth()
    )


def found(scans: list[ImportScan], truths: list[Truth], rule: str | None = None, ending: str = "") -> list[list[str]]:
    matched = match_truth(scans, truths, rule, ending)
    return [[one.path.as_posix() for one, _ in own] for own in matched.of_scan] + [[t.path.name for t in matched.lost]]


def test_by_stem() -> None:
    scans = [scan("a.nii.gz"), scan("sub/b.nrrd")]
    assert found(scans, [truth("b.nii.gz"), truth("a.nii.gz"), truth("c.nii.gz")]) == [
        ["truth/a.nii.gz"],
        ["truth/b.nii.gz"],
        ["c.nii.gz"],
    ]
    assert found(scans, [truth("a_seg.nii.gz"), truth("b.nii.gz")], ending="_seg") == [
        ["truth/a_seg.nii.gz"],
        [],
        ["b.nii.gz"],
    ]
    assert ImportScan.of(ScanSource(ROOT / "c_0000.nii.gz"), ROOT, "_0000").stem == "c"


def test_by_stem_two_truths_or_two_scans_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"one truth for the scan a, got truth/a.nii.gz and truth/x/a.nii.gz"):
        found([scan("a.nii.gz")], [truth("a.nii.gz"), truth("x/a.nii.gz")])
    with pytest.raises(ValueError, match=r"one scan for the truth truth/a.nii.gz, got 2: p/a, q/a"):
        found([scan("p/a.nii.gz"), scan("q/a.nii.gz")], [truth("a.nii.gz")])


@pytest.mark.parametrize(
    ("kind", "name"), [("mask", "ct.nii.gz"), ("yolo", "ct_7.txt"), ("lesions", "ct/lesions.json")]
)
def test_a_truth_in_a_folder_is_not_that_of_a_scan_outside_of_it(kind: str, name: str) -> None:
    def at(folder: str) -> Truth:
        image = {"mask": None, "yolo": f"{folder}ct_7", "lesions": "ct"}[kind]
        return truth(f"{folder}{name}", kind, image=image)

    scans = [scan("ct.nii.gz"), scan("P1/ct.nii.gz")]
    assert found(scans, [at("P1/")]) == [[], [f"truth/P1/{name}"], []]
    assert found(scans, [at(""), at("P1/")]) == [[f"truth/{name}"], [f"truth/P1/{name}"], []]
    # No scan has this path, and two have the name.
    with pytest.raises(ValueError, match="got 2: ct, P1/ct"):
        found(scans, [at("P2/")])
    assert found(scans[1:], [at("P2/")]) == [[f"truth/P2/{name}"], []]


def test_endings_are_no_part_of_a_path() -> None:
    scans = [ImportScan.of(ScanSource(ROOT / path), ROOT, "_0000") for path in ("a/c_0000.nii.gz", "b/c_0000.nii.gz")]
    assert found(scans, [truth("b/c_seg.nii.gz")], ending="_seg") == [[], ["truth/b/c_seg.nii.gz"], []]


def test_by_place() -> None:
    scans = [scan("P1/ct.nii.gz"), scan("P2/CT/x.nii.gz"), scan("P3/a.nii.gz"), scan("P3/b.nii.gz")]
    truths = [truth("P1/one.nii.gz"), truth("P1/two.nii.gz"), truth("P2/seg.nii.gz"), truth("P4/seg.nii.gz")]
    assert found(scans, truths, "place") == [
        ["truth/P1/one.nii.gz", "truth/P1/two.nii.gz"],
        ["truth/P2/seg.nii.gz"],
        [],
        [],
        ["seg.nii.gz"],
    ]
    with pytest.raises(ValueError, match="got 2: P3/a, P3/b"):
        found(scans, [truth("P3/seg.nii.gz")], "place")


def test_by_place_in_folders_below_that_of_the_scan() -> None:
    scans = [scan("s1/ct.nii.gz"), scan("s2/ct.nii.gz")]
    truths = [truth("s1/segmentations/tumour.nii.gz"), truth("s2/a/b/c.nii.gz"), truth("s3/a/c.nii.gz")]
    assert found(scans, truths, "place") == [
        ["truth/s1/segmentations/tumour.nii.gz"],
        ["truth/s2/a/b/c.nii.gz"],
        ["c.nii.gz"],
    ]


def test_masks_of_one_scan_are_called_by_their_files() -> None:
    scans = [scan("s1/ct.nii.gz"), scan("s2/ct.nii.gz")]
    one, two, boxes = truth("s1/liver.nii.gz"), truth("s2/liver_lesions.nii.gz"), truth("s1/x.json", "markups")
    for truths, names in (([one, two, boxes], []), ([one, truth("s1/b/cyst.nii.gz"), two, boxes], ["liver", "cyst"])):
        matched = match_truth(scans, truths, "place")
        assert [each.named for own in matched.of_scan for each, _ in own if each.named] == [
            *names,
            *(["liver_lesions"] if names else []),
        ]


def test_truth_that_names_no_series_is_found_by_its_name() -> None:
    for kind in ("seg", "rtstruct", "lidc"):
        assert found([scan("x", "1.2.3.4.5")], [truth("x", kind)]) == [["truth/x"], []]


def test_by_uid() -> None:
    scans = [scan("x", "1.2.3.4.5"), scan("y", "1.2.3.4.6")]
    assert [one.name for one in scans] == ["1.2.3.4.5", "1.2.3.4.6"]
    truths = [truth("s.dcm", "seg", series="1.2.3.4.6"), truth("t.xml", "lidc", series="1.2.3.9.9")]
    assert found(scans, truths) == [[], ["truth/s.dcm"], ["t.xml"]]
    listed_boxes = truth("b.csv", "boxes", image="1.2.3.4.5", series="1.2.3.4.5")
    assert found(scans, [listed_boxes]) == [["truth/b.csv"], [], []]


def by_pattern(images: str, labels: str, scans: list[ImportScan], truths: list[Truth]) -> list[list[str]]:
    patterns = StarPattern.pair(ROOT, images, Path("truth"), labels)
    matched = match_truth(scans, truths, "pattern", patterns=patterns)
    return [[one.path.name for one, _ in own] for own in matched.of_scan] + [[t.path.name for t in matched.lost]]


def test_by_pattern() -> None:
    scans = [scan("one/volume-1.nii"), scan("volume-11.nii")]
    truths = [truth("segmentation-11.nii"), truth("two/segmentation-1.nii"), truth("segmentation-2.nii")]
    for images, labels in (
        ("volume-*.nii", "segmentation-*.nii"),
        ("**/volume-*.nii", "**/segmentation-*.nii"),
    ):
        assert by_pattern(images, labels, scans, truths) == [
            ["segmentation-1.nii"],
            ["segmentation-11.nii"],
            ["segmentation-2.nii"],
        ]


def test_by_pattern_what_cannot_be() -> None:
    scans = [scan("a/v-1.nii"), scan("b/v-1.nii")]
    with pytest.raises(ValueError, match="got 2: a/v-1, b/v-1"):
        by_pattern("**/v-*.nii", "s-*.nii", scans, [truth("s-1.nii")])
    with pytest.raises(ValueError, match=r"one truth for the scan a/v-1, got truth/x/s-1.nii and truth/y/s-1.nii"):
        by_pattern("**/v-*.nii", "**/s-*.nii", scans[:1], [truth("x/s-1.nii"), truth("y/s-1.nii")])
    with pytest.raises(ValueError, match=r"as many \* .* got '\*/v-\*.nii' and 's-\*.nii'"):
        by_pattern("*/v-*.nii", "s-*.nii", scans, [truth("s-1.nii")])
    with pytest.raises(ValueError, match="--image_pattern and a --truth_pattern"):
        match_truth(scans, [truth("s-1.nii")], "pattern")
    with pytest.raises(ValueError, match=r"a file for each scan .* got truth/s-1.txt \(yolo\)"):
        by_pattern("**/v-*.nii", "s-*.txt", scans, [truth("s-1.txt", "yolo")])


def test_labels_of_slices() -> None:
    scans = [scan("case.nii.gz"), scan("folder/slices", name="folder/slices")]
    truths = [
        truth("case_012.txt", "yolo"),
        truth("case_013.txt", "yolo"),
        truth("x.txt", "yolo", image="folder/slices/007"),
        truth("none_1.txt", "yolo"),
    ]
    matched = match_truth(scans, truths, None)
    assert [[name for _, name in own] for own in matched.of_scan] == [["012", "013"], ["007"]]
    assert [one.image for one in matched.lost] == ["none_1"]
    uid = truth("u.xml", "voc", image="d/1.2.840.99.1.7")
    assert match_truth(scans, [uid], None).by_slice == [uid]


def test_a_structure_set_may_name_its_slices_alone() -> None:
    named = replace(truth("s.dcm", "rtstruct", image="case"), slices=frozenset({"1.7", "1.8"}))
    dicom, nifti = scan("p1", series="1.2.840.9"), scan("case.nii.gz")
    for scans, rule in (([dicom, nifti], None), ([nifti], "uid")):
        assert match_truth(scans, [named], rule).by_slice == [named]
    # Slices of NIfTI files have no UIDs.
    assert [own for own, _ in match_truth([nifti], [named], None).of_scan[0]] == [named]
    matched = match_truth([dicom], [named], None)
    assert matched.on_slices({"1.8", "1.9"}, []) == [(0, named)]
    assert matched.on_slices({"1.9"}, [truth("a.nii.gz")]) == []
    with pytest.raises(ValueError, match=r"one truth for a scan, got truth/s\.dcm and truth/a\.nii\.gz"):
        matched.on_slices({"1.8"}, [truth("a.nii.gz")])


def test_results_lie_in_a_folder_of_the_name_of_their_scan() -> None:
    scans = [scan("P1/ct.nii.gz", name="P1/ct"), scan("P2/ct.nii.gz", name="P2/ct")]
    assert found(scans, [truth("P2/ct/lesions.json", "lesions", image="none")]) == [
        [],
        ["truth/P2/ct/lesions.json"],
        [],
    ]


def test_an_unknown_rule_and_long_lists() -> None:
    with pytest.raises(ValueError, match="stem, place, uid, pattern as match, got 'name'"):
        match_truth([], [], "name")
    assert listed([str(n) for n in range(13)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"


def test_results_of_files_with_one_name_are_told_apart_by_their_folders() -> None:
    scans, results = [scan("P1/ct.nii.gz"), scan("P2/ct.nii.gz")], ["P2/ct/lesions.json", "P1/ct/lesions.json"]
    truths = [truth(path, "lesions", image="ct") for path in results]
    assert found(scans, truths) == [["truth/P1/ct/lesions.json"], ["truth/P2/ct/lesions.json"], []]
    with pytest.raises(ValueError, match="got 2: P1/ct, P2/ct"):
        found(scans, [truth("reviewed/lesions.json", "lesions", image="ct")])
