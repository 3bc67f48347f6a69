"""Folders of PNG slices: the numbers make the runs, DeepLesion's labels or the user the spacing."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.png_folders import find_runs, read_run

HEADER = (
    "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
    "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,"
    "Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test\n"
)
SERIES = "000001_02_03"


def write_slices(folder: Path, numbers: range | list[int], size: tuple[int, int] = (8, 10)) -> np.ndarray:
    """PNGs with these numbers; returns their HU."""
    folder.mkdir(parents=True, exist_ok=True)
    hu = np.random.default_rng(0).integers(-1000, 1000, (len(numbers), *size))
    for number, plane in zip(numbers, hu, strict=True):
        cv2.imwrite(str(folder / f"{number:03d}.png"), (plane + 32768).astype(np.uint16))
    return hu.astype(np.int16)


def write_labels(path: Path, *rows: tuple[int, str, str]) -> Path:
    """``DL_info.csv`` with a lesion for each key slice, slice range and spacing."""
    lines = [
        f'{SERIES}_{key:03d}.png,1,2,3,{key},"3, 3, 5, 5, 3, 5, 5, 3","2, 2, 6, 6","3, 3","0.5, 0.5, 0.5",3,0,'
        f'"{interval}","{spacing}","512, 512","-175, 275",F,62,3\n'
        for key, interval, spacing in rows
    ]
    path.write_text(HEADER + "".join(lines))
    return path


def test_runs_are_consecutive_numbers(tmp_path: Path) -> None:
    write_slices(tmp_path, [8, 9, 10, 99, 100, 1000])
    (tmp_path / "5.png").write_bytes(b"x")
    (tmp_path / "mask_011.png").write_bytes(b"x")
    assert find_runs(tmp_path) == [(8, 10), (99, 100), (1000, 1000)]


def test_labels_beside_the_images_tell_the_spacing(tmp_path: Path) -> None:
    folder = tmp_path / "Images_png" / SERIES
    hu = write_slices(folder, range(8, 12))
    write_labels(tmp_path / "DL_info.csv", (9, "8, 11", "0.5, 0.5, 5"))
    (source,) = find_scans(folder)
    assert source.name == ""
    with source.open() as scan:
        np.testing.assert_array_equal(scan.hu, hu[::-1])
        # The PNG with the highest number is the lowest slice, where the millimetres start.
        box = np.array([[0, 0, 0, 1, 1, 1]])
        np.testing.assert_allclose(scan.boxes_to_stored(box), [[0, 0, 3, 1, 1, 4]])
        np.testing.assert_allclose(scan.boxes_to_lps(box), [[-0.25, -0.25, -2.5, 0.25, 0.25, 2.5]])
        assert scan.spacing == (0.5, 0.5, 5.0)
        assert [path.name for path in scan.files] == ["008.png", "009.png", "010.png", "011.png"]
        assert any("number 8 + k" in note for note in scan.notes)
        assert any("0.5 x 0.5 x 5 mm from DeepLesion labels" in note for note in scan.notes)


def test_sub_volumes_of_a_series_are_scans_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / SERIES
    write_slices(folder, [*range(8, 12), *range(20, 25)])
    labels = write_labels(tmp_path / "names.csv", (9, "8, 11", "0.5, 0.5, 5"), (22, "20, 24", "0.5, 0.5, 1"))
    sources = find_scans(tmp_path, annotations=labels)
    assert [source.name for source in sources] == [f"{SERIES}_008-011", f"{SERIES}_020-024"]
    spacings = []
    for source in sources:
        with source.open() as scan:
            spacings.append(scan.spacing)
    assert spacings == [(0.5, 0.5, 5.0), (0.5, 0.5, 1.0)]


def test_given_spacing_stands_in_for_labels(tmp_path: Path) -> None:
    write_slices(tmp_path / SERIES, range(3, 5))
    write_labels(tmp_path / "DL_info.csv", (9, "8, 11", "0.5, 0.5, 5"))
    scan = read_run(tmp_path / SERIES, (3, 4), spacing=[0.7, 0.8, 2])
    assert scan.spacing == (0.7, 0.8, 2.0)
    assert any("as given" in note for note in scan.notes)


def test_unknown_spacing_is_rejected_with_the_way_out(tmp_path: Path) -> None:
    write_slices(tmp_path / SERIES, range(3, 5))
    with pytest.raises(ValueError, match=r"spacing of slices 3 to 4 of .*none was found.*--annotations.*--spacing"):
        read_run(tmp_path / SERIES, (3, 4))
    with pytest.raises(FileNotFoundError, match=r"labels at .*absent\.csv"):
        read_run(tmp_path / SERIES, (3, 4), annotations=tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="three lengths in mm above zero"):
        read_run(tmp_path / SERIES, (3, 4), spacing=[1, 1, 0])


def test_two_spacings_in_one_run_are_rejected(tmp_path: Path) -> None:
    write_slices(tmp_path / SERIES, range(8, 16))
    write_labels(tmp_path / "DL_info.csv", (9, "8, 11", "0.5, 0.5, 5"), (13, "12, 15", "0.5, 0.5, 1"))
    with pytest.raises(ValueError, match=r"one spacing of slices 8 to 15"):
        read_run(tmp_path / SERIES, (8, 15))


def test_missing_slices_of_a_sub_volume_are_named(tmp_path: Path) -> None:
    write_slices(tmp_path / SERIES, [8, 9, 12, 13])
    write_labels(tmp_path / "DL_info.csv", (9, "8, 14", "0.5, 0.5, 5"))
    for source in find_scans(tmp_path / SERIES):
        with pytest.raises(FileNotFoundError, match=r"slices 8 to 14 of .*010\.png, 011\.png missing"):
            source.open()


def test_eight_bits_and_other_sizes_are_rejected(tmp_path: Path) -> None:
    folder = tmp_path / SERIES
    write_slices(folder, range(3, 5))
    cv2.imwrite(str(folder / "004.png"), np.zeros((8, 10), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"16-bit grey PNG .*8 bits.*004\.png"):
        read_run(folder, (3, 4), spacing=(1, 1, 1))
    write_slices(folder, [4], size=(9, 10))
    with pytest.raises(ValueError, match=r"slices of \(8, 10\) pixels .*004\.png"):
        read_run(folder, (3, 4), spacing=(1, 1, 1))


def test_labels_are_read_anew_when_they_change(tmp_path: Path) -> None:
    write_slices(tmp_path / SERIES, range(8, 10))
    labels = write_labels(tmp_path / "DL_info.csv", (9, "8, 9", "0.5, 0.5, 5"))
    assert read_run(tmp_path / SERIES, (8, 9)).spacing[2] == 5.0
    write_labels(labels, (9, "8, 9", "0.5, 0.5, 1"))
    os.utime(labels, ns=(1, 1))
    assert read_run(tmp_path / SERIES, (8, 9)).spacing[2] == 1.0


def test_real_sub_volumes(shared: Path) -> None:
    folder = shared / "data" / "deeplesion" / "Images_png"
    sources = find_scans(folder)
    assert [source.name for source in sources] == ["000001_01_01", "000001_02_01"]
    spacings, shapes = [], []
    for source in sources:
        with source.open() as scan:
            spacings.append(scan.spacing)
            shapes.append(scan.hu.shape)
    np.testing.assert_allclose(spacings, [(0.488281, 0.488281, 5), (0.314453, 0.314453, 5)])
    assert shapes == [(13, 512, 512), (16, 512, 512)]


def test_names_filled_up_to_four_digits_are_no_slices(tmp_path: Path) -> None:
    for name in ("0001.png", "0002.png", "1001.png"):
        (tmp_path / name).write_bytes(b"x")
    assert find_runs(tmp_path) == [(1001, 1001)]


@pytest.mark.parametrize("several", [False, True])
def test_missing_labels_end_any_search(tmp_path: Path, several: bool) -> None:
    (tmp_path / "ct.nii").touch()
    with pytest.raises(FileNotFoundError, match=r"labels at .*absent\.csv, but the file does not exist"):
        find_scans([tmp_path] if several else tmp_path / "ct.nii", annotations=tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="three lengths in mm above zero"):
        find_scans([tmp_path] if several else tmp_path / "ct.nii", spacing=[1, 1])


def test_labels_and_a_spacing_that_no_scan_needs_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = write_labels(tmp_path / "names.csv", (9, "8, 11", "0.5, 0.5, 5"))
    (tmp_path / "ct.nii").touch()
    find_scans(tmp_path)
    assert not caplog.messages
    find_scans(tmp_path, annotations=labels, spacing=[1, 1, 2])
    assert [text.split(" has no effect: only PNG slices ")[0] for text in caplog.messages] == [
        f"--annotations {labels}",
        "--spacing [1, 1, 2]",
    ]
    caplog.clear()
    write_slices(tmp_path / SERIES, range(8, 12))
    find_scans(tmp_path, annotations=labels, spacing=[1, 1, 2])
    assert not caplog.messages
