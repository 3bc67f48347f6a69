"""``DL_info.csv``: accepted and rejected rows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scripts.data.deeplesion import dl_info
from scripts.data.deeplesion.dl_info import COLUMNS, read_csv

WriteCsv = Callable[..., Path]


def lines(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    """The log lines that mention ``what``."""
    return [message for message in caplog.messages if what in message]


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


class TestRecord:
    def test_all_fields(self, write_csv: WriteCsv, tmp_path: Path) -> None:
        (record,) = read_csv(write_csv({}), tmp_path / "Images_png")
        assert record["image"] == str(tmp_path / "Images_png" / "000001_01_01" / "109.png")
        assert record["file_name"] == "000001_01_01_109.png"
        assert (record["series"], record["patient"], record["key_slice"]) == ("000001_01_01", "000001", 109)
        assert (record["slice_range"], record["slice_interval"]) == ((103, 115), 5.0)
        assert record["spacing"] == (0.488281, 0.488281)
        assert (record["image_size"], record["window"]) == ((512, 512), (-175.0, 275.0))
        assert record["source"].endswith("DL_info.csv row 2 (000001_01_01_109.png)")
        found = record["instances"]
        np.testing.assert_array_equal(found["boxes"], np.float32([[225.169, 89.0204, 240.252, 110.977]]))
        assert found["boxes"].dtype == np.float32
        assert (found["labels"].dtype, found["labels"].tolist()) == (np.int64, [1])
        assert (found["noisy"].dtype, found["noisy"].tolist()) == (np.bool_, [False])
        assert (found["lesion_type"].dtype, found["lesion_type"].tolist()) == (
            np.int64,
            [3],
        )

    def test_boxes_become_zero_based(self, write_csv: WriteCsv) -> None:
        (record,) = read_csv(write_csv({"Bounding_boxes": "1, 1, 11, 21"}), "")
        np.testing.assert_array_equal(record["instances"]["boxes"], [[0, 0, 10, 20]])

    def test_splits(self, write_csv: WriteCsv) -> None:
        path = write_csv(
            {"File_name": "000001_01_01_009.png", "Train_Val_Test": "1"},
            {"File_name": "000002_01_01_009.png", "Train_Val_Test": "2"},
            {"File_name": "000003_01_01_009.png", "Train_Val_Test": "3"},
        )
        by_split = {split: read_csv(path, "", split=split) for split in ("train", "validation", "test")}
        assert [[r["patient"] for r in rows] for rows in by_split.values()] == [["000001"], ["000002"], ["000003"]]
        assert len(read_csv(path, "")) == 3


NO_LESION = {"Bounding_boxes": "", "Measurement_coordinates": "", "Lesion_diameters_Pixel_": ""}


class TestSetsOfOnesOwn:
    def test_a_row_without_a_box_is_a_key_slice_without_a_lesion(
        self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write_csv({}, {"File_name": "000001_01_01_112.png", "Key_slice_index": "112", **NO_LESION})
        first, second = read_csv(path, "", keep_noisy=False)
        assert (len(first["instances"]["boxes"]), second["key_slice"]) == (1, 112)
        assert {name: values.shape for name, values in second["instances"].items()} == {
            "boxes": (0, 4),
            "labels": (0,),
            "noisy": (0,),
            "lesion_type": (0,),
        }
        assert lines(caplog, "without a lesion (rows without a box): 1")

    def test_a_row_that_lost_its_box_is_none(self, write_csv: WriteCsv) -> None:
        with pytest.raises(ValueError, match=r"4 numbers as Bounding_boxes, got '' in .* row 2"):
            read_csv(write_csv({"Bounding_boxes": ""}), "")

    def test_a_key_slice_has_lesions_or_none(self, write_csv: WriteCsv) -> None:
        with pytest.raises(ValueError, match=r"row without a box, got both: .*000001_01_01_109.png"):
            read_csv(write_csv({}, NO_LESION), "")

    def test_classes_are_labels_where_they_are_asked_for(self, write_csv: WriteCsv) -> None:
        path = write_csv(
            {"Lesion_class": "2"},
            {"Lesion_class": "1", "Bounding_boxes": "1, 1, 20, 20"},
            columns=(*COLUMNS, "Lesion_class"),
        )
        assert read_csv(path, "")[0]["instances"]["labels"].tolist() == [1, 1]
        assert read_csv(path, "", by_class=True)[0]["instances"]["labels"].tolist() == [2, 1]
        for text in ("0", "", "1.5", "x"):
            path = write_csv({"Lesion_class": text}, columns=(*COLUMNS, "Lesion_class"))
            with pytest.raises(ValueError, match=r"Lesion_class.* row 2"):
                read_csv(path, "", by_class=True)


class TestIrregularities:
    def test_rows_of_a_key_slice_are_grouped_in_order(self, write_csv: WriteCsv) -> None:
        first, second = "000009_01_01_020.png", "000002_01_01_004.png"
        path = write_csv(
            {"File_name": first, "Bounding_boxes": "1, 1, 20, 20", "Coarse_lesion_type": "-1"},
            {"File_name": second},
            {"File_name": first, "Bounding_boxes": "31, 31, 50, 50", "Coarse_lesion_type": "8"},
            {"File_name": first, "Bounding_boxes": "61, 61, 90, 90", "Possibly_noisy": "1"},
        )
        records = read_csv(path, "")
        assert [record["file_name"] for record in records] == [first, second]
        np.testing.assert_array_equal(records[0]["instances"]["boxes"][:, 0], [0, 30, 60])
        assert records[0]["instances"]["lesion_type"].tolist() == [-1, 8, 3]
        assert records[0]["instances"]["noisy"].tolist() == [False, False, True]
        assert records[0]["instances"]["labels"].tolist() == [1, 1, 1]

    def test_box_out_of_the_image_stays_and_is_told(
        self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write_csv({"Bounding_boxes": "490, 100, 513.681, 120"}, {"File_name": "000001_01_01_110.png"})
        record = read_csv(path, "")[0]
        assert record["instances"]["boxes"][0, 2] == np.float32(512.681)
        (line,) = lines(caplog, "reach out of their image")
        assert line.endswith(": 1.")

    def test_noisy_rows_are_kept_or_dropped_with_emptied_images(
        self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write_csv(
            {"Possibly_noisy": "1"},
            {"File_name": "000002_01_01_020.png", "Possibly_noisy": "1"},
            {"File_name": "000002_01_01_020.png", "Bounding_boxes": "1, 1, 20, 20"},
        )
        assert [len(record["instances"]["boxes"]) for record in read_csv(path, "")] == [1, 2]
        assert lines(caplog, "noisy, kept")[0].endswith(": 2.")
        (left,) = read_csv(path, "", keep_noisy=False)
        assert left["file_name"] == "000002_01_01_020.png"
        np.testing.assert_array_equal(left["instances"]["boxes"], [[0, 0, 19, 19]])
        assert "together with 1 key slices" in lines(caplog, "noisy, dropped")[0]

    @pytest.mark.parametrize("cell", ["0.5, 0.5", "0.5, 0.5, ", "0.5, 0.5, NaN"])
    def test_missing_interval_is_one_millimetre(
        self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture, cell: str
    ) -> None:
        (record,) = read_csv(write_csv({"Spacing_mm_px_": cell}), "")
        assert (record["spacing"], record["slice_interval"]) == ((0.5, 0.5), 1.0)
        (line,) = lines(caplog, "without a slice interval")
        assert line.endswith(": 1.")

    def test_interval_is_the_rows_own(self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture) -> None:
        path = write_csv(
            {"File_name": "003247_02_01_060.png", "Spacing_mm_px_": "0.7, 0.7, 1", "Slice_range": "44, 111"},
            {"File_name": "003247_02_01_125.png", "Spacing_mm_px_": "0.7, 0.7, 5", "Slice_range": "120, 132"},
            {"File_name": "000009_01_01_060.png", "Spacing_mm_px_": "0.7, 0.7, 0.6"},
            {"File_name": "000009_01_01_062.png", "Spacing_mm_px_": "0.7, 0.7, 0.59998"},
        )
        assert [record["slice_interval"] for record in read_csv(path, "")] == [1.0, 5.0, 0.6, 0.59998]
        assert lines(caplog, "interval changes")[0].endswith(": 1.")
        assert lines(caplog, "several sub-volumes")[0].endswith(": 2.")

    def test_large_images_are_told_by_size(self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture) -> None:
        path = write_csv(
            {"Image_size": "1024, 1024", "Bounding_boxes": "900, 900, 950, 950"},
            {"File_name": "000002_01_01_020.png", "Image_size": "768, 768"},
            {"File_name": "000003_01_01_020.png", "Image_size": "768, 768"},
        )
        assert [record["image_size"][0] for record in read_csv(path, "")] == [1024, 768, 768]
        (line,) = lines(caplog, "1024 x 1024")
        assert line.endswith(" than 512 x 512, 768 x 768 (2), 1024 x 1024 (1): 3.")

    def test_padding_is_told(self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture) -> None:
        # Two slices of 5 mm are just enough on either side.
        read_csv(write_csv({"Slice_range": "107, 111"}), "")
        assert not lines(caplog, "less than 10 mm")
        for slice_range in ("109, 120", "100, 109", "108, 120"):
            caplog.clear()
            read_csv(write_csv({"Slice_range": slice_range}), "")
            assert lines(caplog, "less than 10 mm")[0].endswith(": 1.")

    def test_text_variants(self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture) -> None:
        path = write_csv(
            {
                "Possibly_noisy": "1.0",
                "Coarse_lesion_type": "NaN",
                "Patient_age": "",
                "DICOM_windows": "-182.5,322.5",
                "Train_Val_Test": " 3 ",
                "Slice_range": "",
            },
            {"File_name": "000001_01_01/120.png", "Patient_age": "nan", "DICOM_windows": "", "Train_Val_Test": "3"},
            {"File_name": "000002_01_01_009.png", "Train_Val_Test": "1"},
        )
        noisy, other = read_csv(path, "", split="test")
        assert noisy["instances"]["noisy"].tolist() == [True]
        assert noisy["instances"]["lesion_type"].tolist() == [-1]
        assert (noisy["window"], noisy["slice_range"]) == ((-182.5, 322.5), None)
        assert other["file_name"] == "000001_01_01_120.png"
        assert other["window"] == (-175.0, 275.0)
        assert lines(caplog, "Patient_age")[0].endswith(": 2.")
        assert lines(caplog, "DICOM_windows")[0].endswith(": 1.")

    def test_a_file_without_any_age_says_nothing_of_it(
        self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture
    ) -> None:
        read_csv(write_csv({"Patient_age": ""}, {"File_name": "000001_01_01_120.png", "Patient_age": ""}), "")
        assert not lines(caplog, "Patient_age")

    def test_further_columns_byte_order_mark_and_blank_lines(self, write_csv: WriteCsv) -> None:
        path = write_csv({"Radius": "11.97", "bbox": "[[226.1   90.0]]"}, columns=[*COLUMNS, "Radius", "bbox"])
        text = path.read_text().replace("\n", "\r\n") + "\r\n,,,\r\n"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert len(read_csv(path, "")) == 1

    def test_disagreements_and_repetitions_are_told(
        self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write_csv(
            {},
            {},
            {"Bounding_boxes": "1, 1, 20, 20", "Spacing_mm_px_": "0.5, 0.5, 1"},
            {"File_name": "000001_01_01_120.png", "Key_slice_index": "7"},
            {"File_name": "000001_01_01_130.png", "Slice_range": "7, 9", "Train_Val_Test": "2"},
        )
        records = read_csv(path, "")
        assert len(records[0]["instances"]["boxes"]) == 3
        assert records[0]["slice_interval"] == 5.0
        assert records[1]["key_slice"] == 120
        assert records[2]["slice_range"] is None
        for what in ("repeat the box", "contradict the first row", "Key_slice_index"):
            assert lines(caplog, what)[0].endswith(": 1.")
        assert lines(caplog, "more than one split")

    def test_counts_of_the_complete_file(
        self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_csv({}, {"File_name": "000002_01_01_020.png", "Train_Val_Test": "2"})
        monkeypatch.setattr(dl_info, "COMPLETE_ROWS", 2)
        monkeypatch.setattr(dl_info, "COMPLETE", {"train": (1, 1), "validation": (1, 1), "test": (0, 0)})
        read_csv(path, "")
        assert not lines(caplog, "complete file")
        monkeypatch.setattr(dl_info, "COMPLETE", {"train": (1, 1), "validation": (0, 0), "test": (1, 1)})
        read_csv(path, "")
        assert [record.levelname for record in caplog.records if "complete file" in record.message] == ["WARNING"] * 2


class TestRefused:
    @pytest.mark.parametrize("column", COLUMNS)
    def test_missing_column(self, write_csv: WriteCsv, column: str) -> None:
        with pytest.raises(ValueError, match=column):
            read_csv(write_csv({}, columns=[name for name in COLUMNS if name != column]), "")

    @pytest.mark.parametrize(
        ("column", "written"),
        [("Bounding_boxes", "Bounding_box"), ("Spacing_mm_px_", "SPACING_MM_PX"), ("Train_Val_Test", "Train_Test_Val")],
    )
    def test_misspelt_column_is_suggested(self, write_csv: WriteCsv, column: str, written: str) -> None:
        path = write_csv({}, columns=[written if name == column else name for name in COLUMNS])
        with pytest.raises(ValueError, match=rf"'{column}'.*The nearest is '{written}'"):
            read_csv(path, "")

    @pytest.mark.parametrize(
        ("column", "cell"),
        [
            ("Train_Val_Test", "4"),
            ("Train_Val_Test", "0"),
            ("Train_Val_Test", "train"),
            ("Train_Val_Test", ""),
            ("Bounding_boxes", "241, 90, 226, 111"),
            ("Bounding_boxes", "226, 111, 241, 90"),
            ("Bounding_boxes", "226, 90, 226, 111"),
            ("Bounding_boxes", "226, NaN, 241, 111"),
            ("Bounding_boxes", "226, 90, inf, 111"),
            ("Bounding_boxes", "600, 90, 641, 111"),
            ("Bounding_boxes", "-50, 90, -20, 111"),
            ("Bounding_boxes", "226, 90, 241"),
            ("Bounding_boxes", "226, 90, 241, x"),
            ("Bounding_boxes", ""),
            ("Spacing_mm_px_", "0, 0.488281, 5"),
            ("Spacing_mm_px_", "0.488281, -0.488281, 5"),
            ("Spacing_mm_px_", "0.488281, 0.488281, 0"),
            ("Spacing_mm_px_", "0.488281, 0.488281, -5"),
            ("Spacing_mm_px_", "0.488281, 0.488281, inf"),
            ("Spacing_mm_px_", "nan, 0.488281, 5"),
            ("Spacing_mm_px_", ""),
            ("Image_size", "512"),
            ("Image_size", "0, 512"),
            ("Image_size", "512.5, 512"),
            ("Slice_range", "103"),
            ("Coarse_lesion_type", "9"),
            ("Coarse_lesion_type", "lung"),
            ("Possibly_noisy", "2"),
            ("Key_slice_index", "abc"),
            ("DICOM_windows", "-175"),
        ],
    )
    def test_invalid_cell_names_row_and_file(self, write_csv: WriteCsv, column: str, cell: str) -> None:
        path = write_csv({}, {"File_name": "000007_01_01_120.png", column: cell})
        with pytest.raises(ValueError, match=r"Expected .* got .*DL_info\.csv row 3 \(000007_01_01_120\.png\)"):
            read_csv(path, "")

    def test_rows_of_other_splits_are_checked_too(self, write_csv: WriteCsv) -> None:
        path = write_csv({}, {"Train_Val_Test": "3", "Bounding_boxes": "241, 90, 226, 111"})
        with pytest.raises(ValueError, match="row 3"):
            read_csv(path, "", split="train")

    @pytest.mark.parametrize("name", ["", "slice.png", "000001_01_01_109.jpg", "000001_01_01_abc.png"])
    def test_invalid_file_name(self, write_csv: WriteCsv, name: str) -> None:
        with pytest.raises(ValueError, match="row 2"):
            read_csv(write_csv({"File_name": name, "Key_slice_index": "1"}), "")

    def test_row_with_another_number_of_cells(self, write_csv: WriteCsv) -> None:
        path = write_csv({})
        path.write_text(path.read_text() + "000001_01_01_110.png,1,1\n")
        with pytest.raises(ValueError, match=r"Expected 18 cells, got 3 in .* row 3"):
            read_csv(path, "")

    def test_no_rows(self, write_csv: WriteCsv) -> None:
        with pytest.raises(ValueError, match="at least one row"):
            read_csv(write_csv(), "")

    @pytest.mark.parametrize(
        "content", [b"", b"\xff\xfe\x00binary", b"\x1f\x8b\x08\x00\x00gzip", b"\x89PNG\r\n\x1a\n", b"a,b\n\x00,1\n"]
    )
    def test_not_such_a_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "DL_info.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"Expected .*DL_info\.csv"):
            read_csv(tmp_path / "DL_info.csv", "")

    def test_absent_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
            read_csv(tmp_path / "nothing.csv", "")

    def test_unknown_and_empty_split(self, write_csv: WriteCsv) -> None:
        with pytest.raises(ValueError, match="train, validation, test, got 'val'"):
            read_csv(write_csv({}), "", split="val")
        with pytest.raises(ValueError, match="split test, got only train"):
            read_csv(write_csv({}), "", split="test")


class TestRealFiles:
    def test_subset(self, shared: Path) -> None:
        path = shared / "data/deeplesion/DL_info_subset_1349.csv"
        counts = {}
        for split in ("train", "validation", "test"):
            records = read_csv(path, "", split=split)
            counts[split] = sum(len(record["instances"]["boxes"]) for record in records)
        assert counts == {"train": 936, "validation": 187, "test": 226}
        records = read_csv(path, "")
        assert sum(record["instances"]["noisy"].sum() for record in records) == 1
        assert sum(len(r["instances"]["boxes"]) for r in read_csv(path, "", keep_noisy=False)) == 1348

    def test_boxes_are_the_measured_end_points_padded_by_five_pixels(self, shared: Path) -> None:
        records = read_csv(shared / "data/deeplesion/DL_info_patient1.csv", "")
        ends = np.array([[233.537, 95.0204], [234.057, 106.977], [231.169, 101.605], [236.252, 101.143]]) - 1
        np.testing.assert_allclose(
            records[0]["instances"]["boxes"][0], [*(ends.min(0) - 5), *(ends.max(0) + 5)], atol=1e-3
        )
        assert [record["slice_range"] for record in records] == [(103, 115), (8, 23), (8, 23)]


class TestRegions:
    def rows(self, path: Path) -> Path:
        """The same file with a column ``Ignored``, whose second row is a region."""
        header, first, second = path.read_text().splitlines()
        path.write_text(f"{header},Ignored\n{first},\n{second},1\n")
        return path

    def test_a_region_is_a_row_of_its_own(self, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture) -> None:
        other = {"Bounding_boxes": "1, 1, 11, 21", "Measurement_coordinates": "", "Lesion_diameters_Pixel_": ""}
        (record,) = read_csv(self.rows(write_csv({}, other)), "")
        assert record["instances"]["ignored"].tolist() == [False, True]
        assert len(lines(caplog, "regions to ignore")) == 1
        assert lines(caplog, "1 box on 1 key slice of 1 patient.")

    def test_without_a_box_it_is_an_error(self, write_csv: WriteCsv) -> None:
        none = dict.fromkeys(("Bounding_boxes", "Measurement_coordinates", "Lesion_diameters_Pixel_"), "")
        with pytest.raises(ValueError, match="4 numbers as Bounding_boxes"):
            read_csv(self.rows(write_csv({}, none)), "")
        with pytest.raises(ValueError, match="4 numbers as Bounding_boxes, got '1_0, 10, 30, 30'"):
            read_csv(self.rows(write_csv({}, {**none, "Bounding_boxes": "1_0, 10, 30, 30"})), "")

    def test_noisy_lesions_that_go_take_their_slice_with_them(self, write_csv: WriteCsv) -> None:
        path = self.rows(write_csv({"Possibly_noisy": "1"}, {}))
        assert read_csv(path, "", keep_noisy=False) == []
