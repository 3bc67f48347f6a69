"""Records: slices head first, boxes where they were, and what is odd is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.data.importing.set_records import (
    LUNG_WINDOW,
    KeyRule,
    describe_scan,
    read_records,
    write_record,
    write_scan_slices,
)
from scripts.data.importing.true_lesions import ScanTruth, TrueLesion
from scripts.data.scans.scan import read_scan
from scripts.data.slabs.slab_reader import read_slice
from support.fake_scans import ball_scan, scan_of
from support.fake_truth import write_nifti_case

SCAN = scan_of(ball_scan(shape=(30, 40, 56)))


def lesion(slices: range, box: list[float]) -> TrueLesion:
    return TrueLesion("lesion", np.array(slices), np.array([box] * len(slices), dtype=float), "outline", "test")


def test_slices_are_written_head_first_and_at_once(tmp_path: Path) -> None:
    write_scan_slices(tmp_path, "000001_01_01", SCAN)
    folder = tmp_path / "Images_png" / "000001_01_01"
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:03d}.png" for n in range(1, 31)]
    np.testing.assert_array_equal(read_slice(folder / "001.png"), SCAN.hu[-1])
    np.testing.assert_array_equal(read_slice(folder / "030.png"), SCAN.hu[0])
    write_scan_slices(tmp_path, "000001_01_01", scan_of(SCAN.hu[:4]))
    assert len(list(folder.iterdir())) == 4
    assert [path.name for path in folder.parent.iterdir()] == ["000001_01_01"]


def test_keys_and_lesions_count_from_the_head() -> None:
    truth = ScanTruth((lesion(range(4, 9), [24, 10, 36, 22]), lesion(range(8, 10), [40, 20, 46, 26])))
    found = describe_scan(SCAN, truth, KeyRule())
    assert [key["slice"] for key in found["keys"]] == [21, 22, 23, 24, 25, 26]
    assert [len(key["boxes"]) for key in found["keys"]] == [1, 2, 1, 1, 1, 1]
    first = found["lesions"][0]
    assert (first["slices"], first["widest"], first["size_mm"]) == ([22, 26], 24, [12.0, 12.0, 12.5])
    assert found["orientation"] == "LPS"
    assert sum(found["hu"]) == SCAN.hu.size


def test_negatives_only_where_the_truth_allows_them() -> None:
    truth = ScanTruth((lesion(range(4, 9), [24, 10, 36, 22]),), empty=(20,))

    def clear(truth: ScanTruth, rule: KeyRule) -> list[int]:
        return [key["slice"] for key in describe_scan(SCAN, truth, rule)["keys"] if not key["boxes"]]

    assert clear(truth, KeyRule()) == [10]
    complete = clear(truth, KeyRule(complete=True, negatives=3))
    assert {10} < set(complete)
    # 10 mm are four slices from the lesion's, 22 to 26.
    assert all(abs(number - 22) > 4 for number in complete)
    assert len(clear(ScanTruth(), KeyRule(negatives=3))) == 3
    assert clear(ScanTruth(), KeyRule(negatives=0)) == []


def test_what_is_odd_is_said() -> None:
    truth = ScanTruth(
        (lesion(range(4, 5), [0, 0, 56, 40]), lesion(range(4, 5), [10, 0.5, 12, 2.5])), ("from the file",)
    )
    odd = " ".join(describe_scan(SCAN, truth, KeyRule())["odd"])
    for words in (
        "from the file",
        "as large as the body (slice 26)",
        "touches the edge",
        "of air",
        "less than 3 pixels",
    ):
        assert words in odd


def test_a_lesion_in_air_is_shown_in_the_window_of_lungs() -> None:
    hu = np.full((5, 40, 40), -800, dtype=np.int16)
    hu[:, 18:22, 18:22] = 30
    (key,) = describe_scan(scan_of(hu), ScanTruth((lesion(range(2, 3), [18, 18, 22, 22]),)), KeyRule())["keys"]
    assert tuple(key["window"]) == LUNG_WINDOW


def test_axes_of_the_file_are_named(tmp_path: Path) -> None:
    for turn, axes in (("plain", "LPS"), ("flipped", "RPI"), ("sagittal", "PSL")):
        scan = read_scan(write_nifti_case(tmp_path, turn, turn))
        assert describe_scan(scan, ScanTruth(), KeyRule())["orientation"] == axes


def test_a_record_without_its_slices_is_not_done(tmp_path: Path) -> None:
    content = describe_scan(SCAN, ScanTruth(), KeyRule())
    write_record(tmp_path, "000001_01_01", content)
    assert read_records(tmp_path) == {}
    write_scan_slices(tmp_path, "000001_01_01", SCAN)
    assert read_records(tmp_path)["000001_01_01"]["shape"] == [30, 40, 56]
    write_record(tmp_path, "000001_01_01", {**content, "version": 0})
    assert read_records(tmp_path) == {}
    (tmp_path / "scans" / "000001_01_01.json").write_text("[]")
    with pytest.raises(ValueError, match="the record of the scan 000001_01_01"):
        read_records(tmp_path)


@pytest.mark.parametrize("values", [{"which": "best"}, {"negatives": -1}, {"negatives": 1.5}])
def test_rules_that_cannot_be(values: dict) -> None:
    with pytest.raises(ValueError, match=r"^Expected"):
        KeyRule(**values)


def test_regions_are_on_the_slices_they_cut() -> None:
    truth = ScanTruth((lesion(range(4, 9), [24, 10, 36, 22]),), regions=(lesion(range(6, 8), [2, 3, 9, 9]),))
    found = describe_scan(SCAN, truth, KeyRule(which="all"))
    assert [len(key.get("ignored", ())) for key in found["keys"]] == [0, 1, 1, 0, 0]
    assert found["regions"][0]["slices"] == [23, 24]
    assert "regions" not in describe_scan(SCAN, ScanTruth(truth.lesions), KeyRule())
