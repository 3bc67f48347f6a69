"""Slices that do not belong together: split if that is certain, otherwise rejected with both values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.volume_files.stored_image import log_text
from support.fake_dicom import write_ct

HU = np.random.default_rng(0).integers(-1000, 1000, (8, 5, 6)).astype(np.int16)


def write_slices(folder: Path, each: Callable[[int], Mapping[str, object]], heights: list[float] | None = None) -> Path:
    """Eight slices, 2.5 mm apart, each with its own tags; file and instance numbers rise with the slice."""
    for index, plane in enumerate(HU):
        z = -100 + 2.5 * index if heights is None else heights[index]
        tags = {"InstanceNumber": index + 1, "SOPInstanceUID": f"1.9.{index}", **each(index)}
        write_ct(folder / "one", plane[None], origin=(-12, 30, z), **tags)
        (folder / "one" / "IM0001.dcm").rename(folder / f"{index}.dcm")
    (folder / "one").rmdir()
    return folder


def scans(folder: Path) -> list[Scan]:
    found = []
    for source in find_scans(folder):
        with source.open() as scan:
            found.append(scan)
    return found


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("tag", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber"])
@pytest.mark.parametrize("order", [lambda index: index // 4, lambda index: index % 2], ids=["halves", "alternating"])
def test_other_patients_studies_frames_and_series_are_other_scans(
    tmp_path: Path, tag: str, order: Callable[[int], int]
) -> None:
    found = scans(write_slices(tmp_path, lambda index: {tag: str(7 + order(index))}))
    assert len(found) == 2
    for number, scan in enumerate(found):
        kept = [index for index in range(8) if order(index) == number]
        np.testing.assert_array_equal(scan.hu, HU[kept])
        assert [path.name for path in scan.files] == [f"{index}.dcm" for index in kept]
        # The log has the values, results do not.
        (note,) = [note for note in scan.notes if "2 scans that differ in" in note]
        assert tag in note
        assert "'7'" not in note
        assert "'7', '8'" in log_text(note)


@pytest.mark.parametrize("tag", ["PatientID", "FrameOfReferenceUID"])
def test_slices_that_do_not_say_whose_they_are_are_rejected(tmp_path: Path, tag: str) -> None:
    write_slices(tmp_path, lambda index: {tag: "77" if index < 4 else None})
    with pytest.raises(ValueError, match=rf"one {tag} in a scan, got '77' in .*0\.dcm and 'none' in .*4\.dcm"):
        scans(tmp_path)


def test_one_slice_of_another_patient_is_rejected(tmp_path: Path) -> None:
    write_slices(tmp_path, lambda index: {"PatientID": "B" if index == 7 else "A"})
    with pytest.raises(ValueError, match=r"one PatientID in a scan, got 'A' in .*0\.dcm and 'B' in .*7\.dcm"):
        read_scan(tmp_path)


@pytest.mark.parametrize(
    ("tag", "one", "other"),
    [
        ("PatientName", "Doe^Jane", "Doe^Joan"),
        ("PatientBirthDate", "19500101", "19600101"),
        ("PatientSex", "F", "M"),
        ("IssuerOfPatientID", "here", "there"),
        ("AccessionNumber", "A1", "A2"),
        ("StudyDate", "20260101", "20260102"),
        ("Manufacturer", "one", "other"),
        ("DeviceSerialNumber", "1", "2"),
    ],
)
def test_what_must_agree_but_may_be_a_slip_is_rejected(tmp_path: Path, tag: str, one: str, other: str) -> None:
    write_slices(tmp_path, lambda index: {tag: one if index < 4 else other})
    with pytest.raises(ValueError, match=f"one {tag} in a scan") as raised:
        scans(tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in (f"one {tag} in a scan", repr(one), repr(other), "0.dcm", "4.dcm"))


def test_one_name_may_be_written_in_two_ways(tmp_path: Path) -> None:
    write_slices(tmp_path, lambda index: {"PatientName": "Doe^Jane" if index < 4 else "DOE^JANE^^^"})
    assert [scan.hu.shape for scan in scans(tmp_path)] == [(8, 5, 6)]


@pytest.mark.parametrize(
    ("tag", "one", "other"),
    [
        ("ConvolutionKernel", "B31f", "B70f"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "PRIMARY", "AXIAL"]),
        ("KVP", "80", "140"),
        ("TemporalPositionIdentifier", 1, 2),
        ("NominalPercentageOfCardiacPhase", 30.0, 70.0),
        ("AcquisitionNumber", 1, 2),
    ],
)
@pytest.mark.parametrize("same_place", [False, True])
def test_kinds_at_or_between_each_other_are_scans_of_their_own(
    tmp_path: Path, tag: str, one: object, other: object, same_place: bool
) -> None:
    heights = [5.0 * (index // 2) for index in range(8)] if same_place else None
    found = scans(write_slices(tmp_path, lambda index: {tag: (one, other)[index % 2]}, heights))
    assert [scan.spacing[2] for scan in found] == pytest.approx([5.0, 5.0])
    for number, scan in enumerate(found):
        np.testing.assert_array_equal(scan.hu, HU[number::2])
        assert any(f"2 scans that differ in {tag}" in note for note in scan.notes)


def test_acquisitions_one_above_the_other_are_one_scan(tmp_path: Path) -> None:
    (scan,) = scans(write_slices(tmp_path, lambda index: {"AcquisitionNumber": 1 + index // 4}))
    np.testing.assert_array_equal(scan.hu, HU)
    assert scan.notes == ()


def test_each_slice_may_be_an_acquisition_and_one_be_taken_again(tmp_path: Path) -> None:
    (scan,) = scans(write_slices(tmp_path / "step", lambda index: {"AcquisitionNumber": 1 + index}))
    np.testing.assert_array_equal(scan.hu, HU)
    (scan,) = scans(write_slices(tmp_path / "again", lambda index: {"AcquisitionNumber": 9 if index == 3 else 1}))
    np.testing.assert_array_equal(scan.hu, HU)


def test_kinds_one_above_the_other_are_one_scan_with_a_note(tmp_path: Path) -> None:
    (scan,) = scans(write_slices(tmp_path, lambda index: {"ConvolutionKernel": ("B31f", "B70f")[index // 4]}))
    np.testing.assert_array_equal(scan.hu, HU)
    assert any("differ in ConvolutionKernel, but follow one another" in note for note in scan.notes)


def test_one_slice_of_another_kind_is_rejected(tmp_path: Path) -> None:
    write_slices(tmp_path, lambda index: {"ConvolutionKernel": "B70f" if index == 3 else "B31f"})
    with pytest.raises(
        ValueError, match=r"one ConvolutionKernel in a scan, got 'B31f' in .*0\.dcm and 'B70f' in .*3\."
    ):
        scans(tmp_path)


def test_sizes_and_directions_are_scans_of_their_own(tmp_path: Path) -> None:
    write_ct(tmp_path, HU)
    write_ct(tmp_path / "small", HU[:3, :4], SOPInstanceUID=None)
    for path in (tmp_path / "small").iterdir():
        path.rename(tmp_path / f"small_{path.name}")
    write_ct(tmp_path / "coronal", HU, orientation=(1, 0, 0, 0, 0, -1), stacking=(0, 1, 0), SOPInstanceUID=None)
    for path in (tmp_path / "coronal").iterdir():
        path.rename(tmp_path / f"coronal_{path.name}")
    found = scans(tmp_path)
    assert sorted(scan.stored_shape for scan in found) == [(6, 4, 3), (6, 5, 8), (6, 5, 8)]
    assert sorted(scan.slice_axis for scan in found) == [1, 2, 2]


def test_bolus_tracking_next_to_a_scan_is_left_out_and_alone_a_failure(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_ct(folder, HU)
    write_slices(tmp_path / "timing", lambda index: {"SeriesInstanceUID": "5.6"}, [10.0] * 8)
    with pytest.raises(ValueError, match=r"modality CT, got 8 CT images of one place over time in"):
        scans(tmp_path / "timing")
    # In a folder of its own and in the same one.
    assert len(scans(tmp_path)) == 1
    for path in (tmp_path / "timing").iterdir():
        path.rename(folder / f"timing_{path.name}")
    (scan,) = scans(folder)
    np.testing.assert_array_equal(scan.hu, HU)
    assert any(
        "8 files of series 5.6: images of the same place over time (bolus tracking)" in one for one in scan.notes
    )


def test_problem_of_one_series_stops_no_other(tmp_path: Path) -> None:
    write_slices(tmp_path, lambda index: {"PatientName": "A" if index < 4 else "B", "SeriesInstanceUID": "5.6"})
    write_ct(tmp_path / "good", HU)
    for path in (tmp_path / "good").iterdir():
        path.rename(tmp_path / path.name)
    bad, good = sorted(find_scans(tmp_path), key=lambda source: source.series != "5.6")
    with pytest.raises(ValueError, match="one PatientName in a scan"):
        bad.open()
    with good.open() as scan:
        np.testing.assert_array_equal(scan.hu, HU)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"PixelData": (HU[3] + 1025).astype(np.uint16).tobytes()}, "their pixels, or in how these are coded"),
        ({"PixelData": (HU[3] + 1024).astype(np.uint16).tobytes()[:-2]}, "their pixels, or in how these are coded"),
        ({"RescaleIntercept": -1000}, "RescaleIntercept"),
        ({"PixelSpacing": [0.9, 0.8]}, "PixelSpacing"),
    ],
)
def test_images_with_one_uid_and_place_that_differ_are_rejected(tmp_path: Path, change: dict, what: str) -> None:
    write_slices(tmp_path, lambda index: {})
    write_ct(tmp_path / "one", HU[3:4], origin=(-12, 30, -92.5), **{"SOPInstanceUID": "1.9.3", **change})
    # By its name it comes before the other, and would be the one that is kept.
    (tmp_path / "one" / "IM0001.dcm").rename(tmp_path / "0_again.dcm")
    (tmp_path / "one").rmdir()
    (source,) = find_scans(tmp_path)
    with (
        pytest.raises(ValueError, match=rf"for different images: .*3\.dcm \(1\.9\.3\) differ in {what}\."),
        source.open(),
    ):
        pass


def test_copy_of_an_image_may_be_written_in_another_way(tmp_path: Path) -> None:
    write_slices(tmp_path, lambda index: {})
    again = {"SOPInstanceUID": "1.9.3", "RescaleIntercept": "-1024.0", "PatientComments": "sent twice"}
    write_ct(tmp_path / "one", HU[3:4], origin=(-12, 30, -92.5), **again)
    (tmp_path / "one" / "IM0001.dcm").rename(tmp_path / "again.dcm")
    (tmp_path / "one").rmdir()
    (scan,) = scans(tmp_path)
    np.testing.assert_array_equal(scan.hu, HU)
    assert any("Left out a copy of an image" in note for note in scan.notes)
