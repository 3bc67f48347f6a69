"""DICOM series: the same scan as NIfTI, and every irregularity named."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2KLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from scripts.data.scans.dicom.dicom_series import read_series
from scripts.data.scans.scan import read_scan
from scripts.data.scans.volume_files.stored_image import LPS_FROM_RAS, log_text
from support import fake_dicom
from support.fake_dicom import write_stack

SERIES = "1.2.3.4"
ROWS, COLUMNS = 5, 6


def hounsfield(number: int = 4) -> np.ndarray:
    """``(Z, H, W)``, foot end first."""
    return np.random.default_rng(0).integers(-1000, 1500, (number, ROWS, COLUMNS)).astype(np.int16)


def write_slice(path: Path, hu: np.ndarray, z: float, **tags: object) -> Path:
    """One CT slice at a height in mm; ``tags`` change or (None) remove header entries."""
    about = {"ImagePositionPatient": [-12.0, 30.0, z], "SeriesDescription": "abdomen"}
    return fake_dicom.write_slice(path, hu, **{**about, **tags})


def write_series(folder: Path, number: int = 4, **tags: object) -> Path:
    """A series whose file names and instance numbers run from the head down, as scanners number them."""
    folder.mkdir(exist_ok=True)
    for index, plane in enumerate(hounsfield(number)):
        order = number - index
        write_slice(folder / f"IM{order:04d}.dcm", plane, z=-100 + 2.5 * index, **{"InstanceNumber": order, **tags})
    return folder


def test_series_gives_the_same_scan_as_nifti(tmp_path: Path) -> None:
    scan = read_scan(write_series(tmp_path / "series"))
    affine = np.diag([0.7, 0.9, 2.5, 1.0])
    affine[:3, 3] = (-12, 30, -100)
    nibabel.save(nibabel.Nifti1Image(hounsfield().transpose(2, 1, 0), LPS_FROM_RAS @ affine), tmp_path / "scan.nii")
    same = read_scan(tmp_path / "scan.nii")
    np.testing.assert_array_equal(scan.hu, hounsfield())
    np.testing.assert_array_equal(scan.hu, same.hu)
    np.testing.assert_allclose(scan.affine, same.affine, atol=1e-5)
    box = np.array([[1.0, 2.0, 0.0, 3.5, 4.0, 2.0]])
    np.testing.assert_allclose(scan.boxes_to_lps(box), same.boxes_to_lps(box), atol=1e-4)
    np.testing.assert_allclose(scan.boxes_to_stored(box), box)
    assert [path.name for path in scan.files] == ["IM0004.dcm", "IM0003.dcm", "IM0002.dcm", "IM0001.dcm"]


def test_feet_first_prone_and_sagittal_slices_are_turned(tmp_path: Path) -> None:
    straight = read_scan(write_series(tmp_path / "straight"))
    turned = tmp_path / "turned"
    turned.mkdir()
    # The same volume as sagittal slices: a row runs to the back, a column runs down to the feet.
    sagittal = hounsfield().transpose(2, 0, 1)[:, ::-1]
    for index, plane in enumerate(sagittal):
        write_slice(
            turned / f"{index}.dcm",
            plane,
            z=0,
            ImagePositionPatient=[-12 + 0.7 * index, 30, -100 + 2.5 * 3],
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            PixelSpacing=[2.5, 0.9],
            SliceThickness=0.7,
            InstanceNumber=index,
        )
    scan = read_scan(turned)
    np.testing.assert_array_equal(scan.hu, straight.hu)
    np.testing.assert_allclose(scan.affine, straight.affine, atol=1e-6)
    assert (scan.slice_axis, straight.slice_axis) == (1, 2)


def test_slope_and_padding_are_applied(tmp_path: Path) -> None:
    plane = np.full((ROWS, COLUMNS), -1000, dtype=np.int16)
    plane[0, 0] = -3024
    stored = (plane + 3024) // 2
    write_slice(
        tmp_path / "a.dcm",
        plane,
        0.0,
        PixelData=stored.astype(np.uint16).tobytes(),
        RescaleSlope=2,
        RescaleIntercept=-3024,
    )
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu[0], plane)
    assert scan.spacing[2] == pytest.approx(2.5)


def test_compressed_pixels_are_decoded(tmp_path: Path) -> None:
    plane = np.random.default_rng(0).integers(-1000, 1500, (32, 48)).astype(np.int16)
    dataset = pydicom.dcmread(write_slice(tmp_path / "a.dcm", plane, 0.0))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_scan(tmp_path).hu[0], plane)


def test_other_files_are_left_out_with_a_line_each(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    (folder / "readme.txt").write_text("hello")
    write_slice(
        folder / "scout.dcm",
        hounsfield()[0],
        0.0,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        SeriesInstanceUID="9",
    )
    write_slice(folder / "report.dcm", hounsfield()[0], 0.0, Modality="SR", SeriesInstanceUID="8")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.hu, hounsfield())
    assert len(scan.notes) == 3
    names = {"readme.txt", "scout.dcm", "report.dcm"}
    assert names == {log_text(note).split()[2].strip(":") for note in scan.notes}
    # Names of files go into the log alone.
    assert not any(name in note for note in scan.notes for name in names)
    assert "Left out 1 file of series 9: a localizer." in scan.notes


def test_series_of_another_kind_are_left_out_with_one_line(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    for index in range(3):
        tags = {"Modality": "MR", "SeriesInstanceUID": "7", "SeriesDescription": "T2"}
        write_slice(folder / f"mr{index}.dcm", hounsfield()[0], 0.0, **tags)
    (note,) = read_scan(folder).notes
    assert note == "Left out 3 files of series 7: modality MR, not a CT slice."
    assert log_text(note) == "Left out 3 files of series 7 (T2), mr0.dcm the first: modality MR, not a CT slice."


def test_series_can_be_chosen(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    write_slice(folder / "other.dcm", hounsfield()[0], 50.0, SeriesInstanceUID="5.6.7", SeriesDescription="lung")
    stored = read_series(folder, SERIES)
    assert stored.values.shape == (COLUMNS, ROWS, 4)
    assert list(map(log_text, stored.notes)) == ["Left out series 5.6.7 (lung, 1 slices)."]
    with pytest.raises(ValueError, match=r"the series 9\.9 in .*, got 1\.2\.3\.4 \(abdomen, 4 slices\); 5\.6\.7"):
        read_series(folder, "9.9")


def test_two_series_are_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    write_slice(folder / "other.dcm", hounsfield()[0], 50.0, SeriesInstanceUID="5.6.7", SeriesDescription="lung")
    with pytest.raises(
        ValueError, match=r"one CT series, got 2 .*1\.2\.3\.4 \(abdomen, 4 slices\); 5\.6\.7 \(lung, 1 slices\)"
    ):
        read_scan(folder)


def test_missing_slice_is_named_with_its_gap(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    (folder / "IM0002.dcm").unlink()
    with pytest.raises(
        ValueError, match=r"gap of 5\.00 mm between .*IM0003\.dcm and .*IM0001\.dcm .*a slice is missing"
    ):
        read_scan(folder)


def test_missing_slice_is_noticed_where_the_rest_is_evenly_spaced(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", number=3)
    (folder / "IM0002.dcm").unlink()
    with pytest.raises(ValueError, match=r"gap of 5\.00 mm .*instance numbers 3 and 1.*a slice is missing"):
        read_scan(folder)


def test_sparse_series_with_consecutive_numbers_is_legal(tmp_path: Path) -> None:
    assert read_scan(write_series(tmp_path / "series", SliceThickness=1.0)).spacing[2] == pytest.approx(2.5)


@pytest.mark.parametrize("numbers", [(3, 7, 1, 5), (1, 3, 5, 7), (8, 1, 9, 2)])
def test_numbers_that_no_missing_slice_explains_are_noted(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    for index, (number, plane) in enumerate(zip(numbers, hounsfield(), strict=True)):
        write_slice(tmp_path / f"{index}.dcm", plane, 2.5 * index, InstanceNumber=number, SliceThickness=1.0)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, hounsfield())
    (note,) = scan.notes
    assert "instance numbers skip some" in note


@pytest.mark.parametrize("numbers", [(1, 4, 2, 5, 3, 6), (6, 3, 5, 2, 4, 1), (1, 11, 21, 2, 12, 22, 3, 13, 23)])
def test_evenly_spaced_slices_of_alternating_runs_are_rejected(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    write_stack(tmp_path, [2.5 * index for index in range(len(numbers))], numbers)
    with pytest.raises(
        ValueError, match=r"instance numbers that alternate between 1 to 3 and .*: [23] stacks in one\?"
    ):
        read_scan(tmp_path)


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1), (1, 3, 2, 5, 4, 6), (1, 3, 5, 2, 4, 6)])
def test_other_orders_of_instance_numbers_are_read(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    write_stack(tmp_path, [2.5 * index for index in range(len(numbers))], numbers)
    assert len(read_scan(tmp_path).hu) == len(numbers)


def test_one_skipped_number_is_a_missing_slice(tmp_path: Path) -> None:
    for index, (number, plane) in enumerate(zip((1, 2, 4, 5), hounsfield(), strict=True)):
        write_slice(tmp_path / f"{index}.dcm", plane, 2.5 * index, InstanceNumber=number, SliceThickness=1.0)
    with pytest.raises(ValueError, match=r"instance numbers 2 and 4.*a slice is missing"):
        read_scan(tmp_path)


@pytest.mark.parametrize("missing", [None, 1, 20, 38])
def test_thin_slices_with_rounded_positions_are_evenly_spaced(tmp_path: Path, missing: int | None) -> None:
    for index in range(40):
        if index != missing:
            z = round(0.625 * index - 100, 1)
            write_slice(tmp_path / f"{index:02d}.dcm", hounsfield()[0], z, InstanceNumber=index, SliceThickness=0.625)
    if missing is None:
        assert read_scan(tmp_path).spacing[2] == pytest.approx(0.625, abs=0.005)
    else:
        with pytest.raises(ValueError, match="a slice is missing"):
            read_scan(tmp_path)


def test_doubled_slice_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    write_slice(folder / "again.dcm", hounsfield()[1], -97.5)
    with pytest.raises(ValueError, match=r"two at the same place: .*(again|IM0003)\.dcm and .*(again|IM0003)\.dcm"):
        read_scan(folder)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "MR"}, "modality CT, got 4 MR"),
        ({"ImagePositionPatient": None}, "tag ImagePositionPatient, got None"),
        ({"PixelSpacing": [0.0, 0.7]}, "positive voxel spacings"),
        ({"PixelSpacing": None}, "tag PixelSpacing, got None"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "grey values .* got RGB"),
        ({"BitsAllocated": 8}, "at least 16 bits per pixel, got 8"),
        ({"GantryDetectorTilt": 15.0}, r"tilt of 15\.0 degrees and .* leans by 0\.0"),
        ({"NumberOfFrames": 2}, "one slice per DICOM file, got 2 frames"),
        ({"PixelSpacing": [0.7]}, r"Expected 2 numbers in the DICOM tag PixelSpacing, got 0\.7 in .*IM0001"),
        ({"SliceThickness": [2.5, 2.5]}, r"Expected 1 number in the DICOM tag SliceThickness, got \[2\.5, 2\.5\] in"),
        ({"Columns": None}, "Expected 1 number in the DICOM tag Columns, got None in"),
        ({"RescaleIntercept": None}, "DICOM tag RescaleIntercept, .* it is missing in .*IM0001"),
        ({"RescaleSlope": None}, "DICOM tag RescaleSlope, .* it is missing in"),
        ({"RescaleType": "US"}, r"Hounsfield units \(RescaleType HU\), got US in"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "modality CT, got 4 Secondary Capture"),
    ],
)
def test_unusable_series_are_rejected(tmp_path: Path, tags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scan(write_series(tmp_path / "series", **tags))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"SpacingBetweenSlices": -2.5}, r"Expected SpacingBetweenSlices above zero .*, got -2\.5 in .*IM0001"),
        ({"SliceThickness": -1}, "Expected SliceThickness above zero .*, got -1 in"),
        ({"SliceThickness": None}, "Expected SliceThickness in the only slice"),
    ],
)
def test_extent_of_a_single_slice_is_rejected_by_its_tag(tmp_path: Path, tags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scan(write_series(tmp_path, 1, **tags))


@pytest.mark.parametrize("kind", ["HU", "", None])
def test_hounsfield_units_need_no_name(tmp_path: Path, kind: str | None) -> None:
    np.testing.assert_array_equal(read_scan(write_series(tmp_path, RescaleType=kind)).hu, hounsfield())


def test_file_that_does_not_say_how_it_is_coded_is_rejected(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", hounsfield()[0], 0.0)
    dataset = pydicom.dcmread(path)
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    with pytest.raises(ValueError, match=r"TransferSyntaxUID .* missing in .*a\.dcm"):
        read_scan(tmp_path)


def test_copies_of_a_slice_are_left_out_by_name(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    (folder / "copy.dcm").write_bytes((folder / "IM0003.dcm").read_bytes())
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.hu, hounsfield())
    (note,) = scan.notes
    assert log_text(note).startswith("Left out copy.dcm: the same image as IM0003.dcm")
    assert ".dcm" not in note


def test_slices_pushed_aside_are_rejected(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    write_slice(folder / "IM0003.dcm", hounsfield()[1], 0.0, ImagePositionPatient=[-9.0, 30.0, -97.5])
    with pytest.raises(ValueError, match=r"straight line, .*IM0003\.dcm is 3\.0 mm off"):
        read_scan(folder)


def test_compression_without_a_decoder_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    dataset = pydicom.dcmread(folder / "IM0002.dcm")
    dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(200)])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    dataset.save_as(folder / "IM0002.dcm")
    with pytest.raises(OSError, match=r"High-Throughput JPEG 2000.*1\.2\.840\.10008\.1\.2\.4\.201\) in .*IM0002\.dcm"):
        read_scan(folder)


def tilted_series(folder: Path, degrees: float = 10.0, **tags: object) -> Path:
    """A stack along z of slices that lean, as a tilted gantry makes them."""
    angle = np.radians(degrees)
    folder.mkdir()
    for index, plane in enumerate(hounsfield()):
        write_slice(
            folder / f"{index}.dcm",
            plane,
            -100 + 2.5 * index,
            InstanceNumber=index,
            ImageOrientationPatient=[1, 0, 0, 0, np.cos(angle), -np.sin(angle)],
            **tags,
        )
    return folder


@pytest.mark.parametrize("tag", [None, 10, -10.4])
def test_tilted_stack_is_shifted_back(tmp_path: Path, tag: float | None) -> None:
    scan = read_scan(tilted_series(tmp_path / "tilted", GantryDetectorTilt=tag))
    assert any("sheared by 10.0 degrees (gantry tilt)" in note for note in scan.notes)
    np.testing.assert_allclose(scan.affine[:3, 2] @ scan.affine[:3, 1], 0, atol=1e-9)
    assert scan.spacing == pytest.approx((0.7, 0.9, 2.5 * np.cos(np.radians(10))))
    # The centre of the first pixel of each slice is where its header says.
    for index, path in enumerate(scan.files):
        stored = np.array([[0.5, 0.5, index + 0.5] * 2])
        place = scan.points_to_lps(scan.boxes_from_stored(stored)[:, :3])[0]
        np.testing.assert_allclose(place, pydicom.dcmread(path).ImagePositionPatient, atol=1e-6)


def test_tilt_that_the_slices_do_not_show_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tilt of 15\.0 degrees and an ImageOrientationPatient that leans by 10\.0"):
        read_scan(tilted_series(tmp_path / "tilted", GantryDetectorTilt=15))


@pytest.mark.parametrize(("tag", "value"), [("Rows", None), ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1])])
def test_slices_that_differ_are_rejected(tmp_path: Path, tag: str, value: object) -> None:
    folder = write_series(tmp_path / "series")
    if tag == "Rows":
        write_slice(folder / "odd.dcm", np.zeros((7, COLUMNS), dtype=np.int16), -90.0)
    else:
        write_slice(folder / "odd.dcm", hounsfield()[0], -90.0, **{tag: value})
    with pytest.raises(ValueError, match=r"odd\.dcm"):
        read_scan(folder)


@pytest.mark.parametrize("keep", [0, 100, 700, -1])
def test_file_cut_short_is_named(tmp_path: Path, keep: int) -> None:
    folder = write_series(tmp_path / "series")
    path = folder / "IM0002.dcm"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(OSError, match=r"IM0002\.dcm"):
        read_scan(folder)


def test_fewer_pixels_than_the_header_says_are_rejected(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    pixels = hounsfield()[2].astype(np.uint16).tobytes()
    write_slice(folder / "IM0002.dcm", hounsfield()[2], -95.0, PixelData=pixels[:-20], InstanceNumber=2)
    with pytest.raises(OSError, match=r"Expected 60 bytes of pixels, got 40 in .*IM0002\.dcm"):
        read_scan(folder)


def test_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="modality CT, got no DICOM file"):
        read_scan(tmp_path)


def test_real_series(shared: Path) -> None:
    folder = shared / "data" / "volumes" / "dicom_3slice"
    scan = read_scan(folder)
    assert scan.hu.shape == (3, 512, 512)
    assert scan.spacing == pytest.approx((0.810547, 0.810547, 1.0))
    assert scan.hu.min() == -3024
    # Instance 1 is the highest: the last in canonical order.
    first = pydicom.dcmread(folder / "01.dcm")
    np.testing.assert_array_equal(scan.hu[-1], first.pixel_array.astype(np.int32) - 1024)
    np.testing.assert_allclose(scan.points_to_lps(np.array([[0.5, 0.5, 2.5]]))[0], first.ImagePositionPatient)
