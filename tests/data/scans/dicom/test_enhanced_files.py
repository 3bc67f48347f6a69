"""What a file of Enhanced CT says as a whole, next to what it says of each frame."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from scripts.data.scans.dicom.enhanced_ct import KINDS
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import Scan, read_scan
from support.fake_dicom import write_ct
from support.fake_enhanced import frames_of, write_enhanced

LOCALIZER, VOLUME = (["ORIGINAL", "PRIMARY", kind, "NONE"] for kind in ("LOCALIZER", "VOLUME"))
Change = Callable[[int, Dataset], None]


@pytest.fixture
def series(tmp_path: Path) -> Path:
    hu = np.full((7, 10, 12), -1000)
    hu[:, 2:-2, 2:-2] = np.random.default_rng(3).integers(-150, 250, hu[:, 2:-2, 2:-2].shape)
    return write_ct(tmp_path / "classic", hu)


def read(path: Path) -> list[Scan]:
    """All scans at a path."""
    scans = []
    for source in find_scans(path):
        with source.open() as scan:
            scans.append(scan)
    return scans


def message(path: Path) -> str:
    """Why a path is not read."""
    with pytest.raises((OSError, ValueError)) as raised:
        read(path)
    return str(raised.value)


def frame_types(*kinds: list[str]) -> Change:
    """FrameType of each frame, of the last kind from there on; an empty one leaves its group out."""

    def change(index: int, groups: Dataset) -> None:
        kind = kinds[min(index, len(kinds) - 1)]
        if kind:
            groups.CTImageFrameTypeSequence[0].FrameType = kind
        else:
            del groups.CTImageFrameTypeSequence

    return change


def test_frames_say_what_they_are_where_the_file_sums_up(series: Path, tmp_path: Path) -> None:
    slices = frames_of(series)
    some = frame_types(*[VOLUME] * 7, LOCALIZER)
    path = write_enhanced(tmp_path / "some" / "e.dcm", [*slices, *slices[:2]], change=some, ImageType=LOCALIZER)
    (scan,) = read(path)
    np.testing.assert_array_equal(scan.hu, read_scan(series).hu)
    assert [note.split(": ")[1] for note in scan.notes] == ["a localizer."]


@pytest.mark.parametrize("kind", [LOCALIZER, []], ids=["frames", "file alone"])
def test_a_file_of_localizers_is_not_a_scan(series: Path, tmp_path: Path, kind: list[str]) -> None:
    path = write_enhanced(tmp_path / "e.dcm", frames_of(series), change=frame_types(kind), ImageType=LOCALIZER)
    assert "Expected a DICOM series of modality CT, got 7 CT localizer in" in message(path)


def test_a_localizer_whose_groups_are_damaged_costs_no_scan(series: Path, tmp_path: Path) -> None:
    slices = frames_of(series)
    path = write_enhanced(tmp_path / "both" / "a.dcm", slices, ImageType=LOCALIZER, NumberOfFrames=2)
    write_enhanced(path.with_name("b.dcm"), slices)
    (scan,) = read(path.parent)
    assert [note.split(": ")[1] for note in scan.notes] == ["a localizer."]


@pytest.mark.parametrize(
    ("tag", "value", "wanted"),
    [("VolumeBasedCalculationTechnique", "MAX_IP", "1 frame"), ("VolumetricProperties", "DISTORTED", "1 frame")],
)
def test_a_file_tells_of_projections_where_its_frames_do_not(
    series: Path, tmp_path: Path, tag: str, value: str, wanted: str
) -> None:
    def change(index: int, groups: Dataset) -> None:
        if index < 7:
            setattr(groups.CTImageFrameTypeSequence[0], tag, {"MAX_IP": "NONE", "DISTORTED": "VOLUME"}[value])

    slices = frames_of(series)
    changes: dict[str, Any] = {tag: value}
    (scan,) = read(write_enhanced(tmp_path / "e.dcm", [*slices, slices[3]], change=change, **changes))
    assert scan.frames == tuple(range(1, 8))
    assert f"Left out {wanted} of series" in scan.notes[0]


@pytest.mark.parametrize("tag", ["NominalPercentageOfRespiratoryPhase", "NominalRespiratoryTriggerDelayTime"])
def test_phases_of_the_breath_are_scans_of_their_own(series: Path, tmp_path: Path, tag: str) -> None:
    def change(index: int, groups: Dataset) -> None:
        groups.RespiratorySynchronizationSequence = [Dataset()]
        setattr(groups.RespiratorySynchronizationSequence[0], tag, 50.0 * (index // 7))

    one, other = read(write_enhanced(tmp_path / "e.dcm", frames_of(series) * 2, change=change))
    assert (one.frames, other.frames) == (tuple(range(1, 8)), tuple(range(8, 15)))
    np.testing.assert_array_equal(one.hu, other.hu)
    assert f"2 scans that differ in {tag}" in one.notes[0]


def test_of_two_windows_the_frame_has_its_own(series: Path, tmp_path: Path) -> None:
    def change(index: int, groups: Dataset) -> None:
        groups.FrameVOILUTSequence = [window(50 + index)]

    path = write_enhanced(tmp_path / "e.dcm", frames_of(series), change=change)
    file = pydicom.dcmread(path)
    file.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [window(40)]
    file.save_as(path)
    (scan,) = read(path)
    headers = [pydicom.dcmread(io.BytesIO(known or b""), stop_before_pixels=True) for known in scan.headers]
    assert [header.WindowCenter for header in headers] == [50 + index for index in range(7)]


def window(centre: float) -> Dataset:
    item = Dataset()
    item.WindowCenter, item.WindowWidth = centre, 400
    return item


def test_one_item_describes_all_frames(series: Path, tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "e.dcm", frames_of(series))
    file = pydicom.dcmread(path)
    file.SharedFunctionalGroupsSequence = [*file.SharedFunctionalGroupsSequence, Dataset()]
    file.save_as(path)
    assert "2 items of SharedFunctionalGroupsSequence" in message(path)


@pytest.mark.parametrize("implicit", [False, True])
def test_headers_of_frames_do_not_repeat_what_lists_all_images(series: Path, tmp_path: Path, *, implicit: bool) -> None:
    def evidence(count: int) -> list[Dataset]:
        items = [Dataset() for _ in range(count)]
        for number, item in enumerate(items):
            item.ReferencedSOPInstanceUID = f"1.2.{number}"
        return items

    def sizes(name: str, count: int) -> list[int]:
        path = write_enhanced(tmp_path / name / "e.dcm", frames_of(series), PatientIdentityRemoved="YES",
                              DeidentificationMethodCodeSequence=evidence(1), ReferencedImageSequence=evidence(count),
                              ImageComments="said of all")  # fmt: skip
        file = pydicom.dcmread(path)
        file.private_block(0x0009, "VENDOR", create=True).add_new(1, "OB", b"\1" * 10 * count)
        file.add_new("RedPaletteColorLookupTableData", "OW", b"\1" * 10 * count)
        if implicit:
            file.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        pydicom.dcmwrite(path, file, implicit_vr=implicit, little_endian=True)
        (scan,) = read(path)
        np.testing.assert_array_equal(scan.hu, read_scan(series).hu)
        header = pydicom.dcmread(io.BytesIO(scan.headers[0] or b""), stop_before_pixels=True)
        assert header.ImageComments == "said of all"
        assert len(header.DeidentificationMethodCodeSequence) == 1
        return [len(known or b"") for known in scan.headers]

    assert sizes("many", 1000) == sizes("few", 500)


KEPT = {
    **{tag: (lambda index: index % 2) for tag in KINDS if tag != "StackID"},
    "StackID": lambda index: str(index % 2),
    "ConcatenationUID": lambda index: "1.7",
    "InConcatenationNumber": lambda index: 7 - index // 2,
    "VolumeBasedCalculationTechnique": lambda index: "MAX_IP",
}


@pytest.mark.parametrize("tag", KEPT)
def test_slices_that_kept_tags_of_frames_are_one_scan(series: Path, tag: str) -> None:
    before = read_scan(series)
    for index, path in enumerate(sorted(series.iterdir())):
        one = pydicom.dcmread(path)
        one.ConcatenationUID = "1.7"
        setattr(one, tag, KEPT[tag](index))
        one.save_as(path)
    (scan,) = read(series)
    np.testing.assert_array_equal(scan.hu, before.hu)
    assert scan.notes == before.notes


def test_a_damaged_tag_that_no_slice_needs_costs_no_scan(series: Path, tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "e.dcm", frames_of(series), AcquisitionTime="")
    content = path.read_bytes()
    at = content.index(b"\x08\x00\x32\x00TM")
    # An unknown value representation.
    path.write_bytes(content[: at + 4] + b"T\xff" + content[at + 6 :])
    (scan,) = read(path)
    np.testing.assert_array_equal(scan.hu, read_scan(series).hu)
