"""Enhanced CT: the law is that frames are read like the same slices in files of their own."""

from __future__ import annotations

import itertools
import pickle
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.fileset import FileSet
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from scripts.data.scans.dicom.dicom_series import read_series
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.volume_files.stored_image import log_text
from scripts.storage.atomic_files import hash_files
from support.fake_dicom import write_ct, write_stack
from support.fake_enhanced import GROUPS, frames_of, in_two, read_slices, write_enhanced

SHAPE = (7, 10, 12)
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.radians(20))), float(-np.sin(np.radians(20))))


def body(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Noise of tissue in air, so that no two slices are alike."""
    hu = np.full(shape, -1000)
    hu[:, 2:-2, 2:-2] = np.random.default_rng(3).integers(-150, 250, hu[:, 2:-2, 2:-2].shape)
    return hu


def read(path: Path) -> Scan:
    """The only scan at a path."""
    (source,) = find_scans(path)
    with source.open() as scan:
        return scan


def same(one: Scan, other: Scan) -> None:
    """Two scans agree in all that says what is where."""
    np.testing.assert_array_equal(one.hu, other.hu)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-9)
    np.testing.assert_allclose(one.stored_from_canonical, other.stored_from_canonical)
    assert (one.stored_shape, one.series) == (other.stored_shape, other.series)
    assert (one.places is None) == (other.places is None)
    assert len(one.files) == len(one.headers) == len(other.files)
    # Of scans that pass through other programs as tensors the bytes are hashed again.
    assert [hash_files(scan.files) for scan in (one, other)] == [one.sha256, other.sha256]


def message(path: Path) -> str:
    """Why a path is not read."""
    with pytest.raises((OSError, ValueError)) as raised:
        read(path)
    return str(raised.value)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_ct(tmp_path / "classic", body())


ORDERS = {
    "rising": list(range(7)),
    "falling": list(range(6, -1, -1)),
    "unsorted": [3, 0, 6, 2, 5, 1, 4],
}
SHARED = tuple(name for name in GROUPS if name not in ("PlanePositionSequence", "FrameContentSequence"))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("shared", [(), SHARED], ids=["per frame", "shared"])
def test_frames_in_any_order_and_groups_are_the_slices(
    series: Path, tmp_path: Path, order: list[int], shared: tuple[str, ...]
) -> None:
    slices = read_slices(series)
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", [slices[at] for at in order], shared=shared)
    same(read(path.parent), read(series))
    same(read(path), read(series))
    scan = read_scan(path)
    same(scan, read(series))
    places = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    for k, frame in enumerate(scan.frames):
        assert frame is not None
        height = scan.affine @ np.linalg.inv(scan.stored_from_canonical) @ [0, 0, k, 1]
        np.testing.assert_allclose(places[frame - 1].PlanePositionSequence[0].ImagePositionPatient, height[:3])


@pytest.mark.parametrize("folder", ["tilted", "uneven", "one slice"])
def test_other_stacks_are_read_alike(tmp_path: Path, folder: str) -> None:
    classic = tmp_path / "classic"
    if folder == "tilted":
        write_ct(classic, body(), orientation=TILTED, GantryDetectorTilt=20.0)
    elif folder == "uneven":
        write_stack(classic, [0, 4, 8, 15, 22, 29])
    else:
        write_ct(classic, body((1, 10, 12)))
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", read_slices(classic))
    one, other = read(path.parent), read(classic)
    same(one, other)
    assert one.notes == other.notes


def test_each_frame_has_its_own_rescale(tmp_path: Path) -> None:
    hu = body()
    for index in range(len(hu)):
        write_ct(tmp_path / "part", (hu[index : index + 1] + 1024) * 2 - 1024, origin=(0, 0, 2.5 * index),
                 RescaleSlope=0.5, RescaleIntercept=-1024.0 if index % 2 else -1000.0,
                 SOPInstanceUID=f"1.9.{index}", InstanceNumber=index + 1)  # fmt: skip
        (tmp_path / "classic").mkdir(exist_ok=True)
        (tmp_path / "part" / "IM0001.dcm").rename(tmp_path / "classic" / f"{index}.dcm")
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", read_slices(tmp_path / "classic"))
    same(read(path), read(tmp_path / "classic"))
    assert read(path).hu[1].max() != read(path).hu[0].max()


CODINGS = [RLELossless, JPEGLSLossless, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", CODINGS)
def test_pixels_in_any_coding(series: Path, tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    slices = read_slices(series)
    for one in slices:
        if syntax.is_compressed:
            one.compress(syntax, generate_instance_uid=False)
        one.file_meta.TransferSyntaxUID = syntax
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", slices[::-1])
    same(read(path), read(series))


def test_what_highdicom_converts_is_read_alike(series: Path, tmp_path: Path) -> None:
    slices = read_slices(series)
    converted = hd.legacy.LegacyConvertedEnhancedCTImage(slices, hd.UID(), 5, hd.UID(), 1)
    (tmp_path / "enhanced").mkdir()
    converted.save_as(tmp_path / "enhanced" / "e")
    one, other = read(tmp_path / "enhanced"), read(series)
    np.testing.assert_array_equal(one.hu, other.hu)
    np.testing.assert_allclose(one.affine, other.affine)


def test_localizers_and_projections_among_the_frames_are_left_out(series: Path, tmp_path: Path) -> None:
    slices = frames_of(series)

    def odd(index: int, groups: Dataset) -> None:
        kind = groups.CTImageFrameTypeSequence[0]
        if index == 7:
            kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
        if index == 8:
            kind.VolumeBasedCalculationTechnique = "MAX_IP"
        if index == 9:
            kind.VolumetricProperties = "DISTORTED"

    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", [*slices, *slices[:3]], change=odd)
    scan = read(path.parent)
    np.testing.assert_array_equal(scan.hu, read(series).hu)
    assert scan.frames == tuple(range(1, 8))
    assert [note.split(": ")[1] for note in scan.notes] == [
        "a localizer.",
        "a projection or curved plane (MAX_IP), not a CT slice.",
        "a curved plane, not a CT slice.",
    ]
    assert log_text(scan.notes[0]) == "Left out frame 8 of e.dcm: a localizer."


def test_missing_and_doubled_frames_are_told_as_slices_are(series: Path, tmp_path: Path) -> None:
    slices = frames_of(series)
    gap = write_enhanced(tmp_path / "gap" / "e.dcm", [*slices[:3], *slices[4:]])
    assert f"between frame 3 of {gap} and frame 4 of {gap}" in message(gap)
    assert "a slice is missing" in message(gap)
    doubled = write_enhanced(tmp_path / "doubled" / "e.dcm", [*slices, slices[2]])
    assert f"two at the same place: frame 3 of {doubled} and frame 8 of {doubled}" in message(doubled)
    slices[2].ImagePositionPatient = [-20.0, 30.0, slices[2].ImagePositionPatient[2]]
    assert "mm off it" in message(write_enhanced(tmp_path / "aside" / "e.dcm", slices))


def test_a_copy_of_the_file_is_left_out_and_another_content_is_not(series: Path, tmp_path: Path) -> None:
    slices = frames_of(series)
    path = write_enhanced(tmp_path / "enhanced" / "a.dcm", slices, SOPInstanceUID="1.9")
    shutil.copy(path, path.with_name("b.dcm"))
    scan = read(path.parent)
    same(scan, read(series))
    assert [log_text(note) for note in scan.notes] == [
        "Left out b.dcm: the same image as a.dcm (SOP instance UID 1.9)."
    ]
    write_enhanced(path.with_name("b.dcm"), slices[::-1], SOPInstanceUID="1.9")
    assert "one SOPInstanceUID for different images: frame 1 of" in message(path.parent)


@pytest.mark.parametrize("tag", ["StackID", "TemporalPositionIndex"])
def test_stacks_at_the_same_places_are_scans_of_their_own(
    series: Path, tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices, later = frames_of(series), frames_of(series)
    for one in later:
        one.RescaleIntercept = -1000
    both = list(itertools.chain.from_iterable(zip(slices, later, strict=True)))

    def number(index: int, groups: Dataset) -> None:
        setattr(groups.FrameContentSequence[0], tag, str(index % 2 + 1) if tag == "StackID" else index % 2 + 1)

    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", both, change=number)
    # As found, read again in another process, and read again where too many headers are kept already.
    for again, room in itertools.product((False, True), (0, 10_000)):
        monkeypatch.setattr("scripts.data.scans.find_scans.MAX_KEPT_HEADERS", room)
        found = find_scans(path)
        scans = []
        for source in pickle.loads(pickle.dumps(found)) if again else found:
            with source.open() as scan:
                scans.append(scan)
        np.testing.assert_array_equal(scans[0].hu, read(series).hu)
        np.testing.assert_array_equal(scans[1].hu, read(series).hu + 24)
        assert [scan.frames for scan in scans] == [tuple(range(1, 15, 2)), tuple(range(2, 15, 2))]
        assert f"2 scans that differ in {tag}" in scans[0].notes[0]
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        archive.write(path, "study/e.dcm")
    zipped = find_scans(tmp_path / "both.zip")
    assert len(zipped) == 2
    with zipped[1].open() as scan:
        np.testing.assert_array_equal(scan.hu, read(series).hu + 24)


def test_stacks_that_follow_one_another_are_one_scan_with_a_note(series: Path, tmp_path: Path) -> None:
    def number(index: int, groups: Dataset) -> None:
        groups.FrameContentSequence[0].StackID = "1" if index < 4 else "2"
        groups.FrameContentSequence[0].InStackPositionNumber = index % 4 + 1

    scan = read(write_enhanced(tmp_path / "enhanced" / "e.dcm", frames_of(series), change=number))
    same(scan, read(series))
    assert "differ in StackID, but follow one another" in scan.notes[0]


def test_a_scan_in_several_files_is_read_as_one_or_not_at_all(series: Path, tmp_path: Path) -> None:
    paths = in_two(series, tmp_path / "whole")
    scan = read(paths[0].parent)
    same(scan, read(series))
    assert scan.frames == (4, 3, 2, 1, 3, 2, 1)
    assert [path.name for path in scan.files] == ["2.dcm"] * 4 + ["1.dcm"] * 3
    assert "folder of a DICOM series of 2 files, got one of them" in message(paths[0])
    with pytest.raises(ValueError, match="folder of a DICOM series of 2 files"):
        read_scan(paths[1])
    paths[0].unlink()
    assert "Expected parts 1 to 2 of a scan in several files, got 2" in message(paths[0].parent)
    assert "Expected parts 1 to 2 of a scan in several files, got 2" in message(paths[1])
    path, _ = in_two(series, tmp_path / "offset", ConcatenationFrameOffsetNumber=4)
    assert "Expected 3 frames before part 2 of a scan in several files, got 4" in message(path.parent)
    path, _ = in_two(series, tmp_path / "odd", ConcatenationFrameOffsetNumber=None)
    assert "Expected 3 frames before part 2" in message(path.parent)


@pytest.mark.parametrize("shape", ["folder", "zip", "list", "medium"])
def test_files_of_a_series_without_a_concatenation_are_found_wherever_scans_are(
    series: Path, tmp_path: Path, shape: str
) -> None:
    slices, folder = frames_of(series), tmp_path / "in" / "DICOM" / "ST0"
    paths = [write_enhanced(folder / name, part) for name, part in (("IM0", slices[:4]), ("IM1", slices[4:]))]
    place = folder
    if shape == "zip":
        place = tmp_path / "scan.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for path in paths:
                archive.write(path, path.name)
    elif shape == "medium":
        place = tmp_path / "in"
        FileSet().write(place, use_existing=False)
        assert (place / "DICOMDIR").is_file()
    elif shape == "list":
        place = tmp_path / "scans.txt"
        place.write_text(f"{folder}\n")
    (source,) = find_scans(place)
    with source.open() as scan:
        same(scan, read(series))


def without(name: str) -> Callable[[int, Dataset], None]:
    """Remove a group of the fourth frame."""

    def change(index: int, groups: Dataset) -> None:
        if index == 3:
            delattr(groups, name)

    return change


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("PlanePositionSequence", "Expected 3 numbers in the DICOM tag ImagePositionPatient, got None in frame 4 of"),
        ("PlaneOrientationSequence", "Expected 6 numbers in the DICOM tag ImageOrientationPatient, got None in frame"),
        ("PixelMeasuresSequence", "Expected 2 numbers in the DICOM tag PixelSpacing, got None in frame 4 of"),
        ("PixelValueTransformationSequence", "Expected the DICOM tag RescaleIntercept"),
    ],
)
def test_nothing_stands_in_for_a_place_or_rescale(series: Path, tmp_path: Path, name: str, wanted: str) -> None:
    slices = frames_of(series)
    tags = {tag: slices[3][tag].value for tag in GROUPS[name]}
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", slices, shared=(), change=without(name), **tags)
    assert wanted in message(path.parent)
    assert f"frame 4 of {path}" in message(path.parent)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no groups": ({"PerFrameFunctionalGroupsSequence": None}, "NumberOfFrames 7 and functional groups of 0 frames"),
    "other number": ({"NumberOfFrames": 6}, "NumberOfFrames 6 and functional groups of 7 frames"),
    "no number": ({"NumberOfFrames": None}, "NumberOfFrames 0 and functional groups of 7 frames"),
    "cut short": ({"PixelData": b"\0" * 100}, "Expected 1680 bytes of pixels for 7 frames, got 100"),
    "too long": ({"PixelData": b"\1" * 1700}, "Expected 1680 bytes of pixels for 7 frames, got 1700"),
    "no pixels": ({"PixelData": None}, "there are no pixels"),
    "inverse": ({"PhotometricInterpretation": "MONOCHROME1"}, "Expected grey values (MONOCHROME2), got MONOCHROME1"),
    "8 bits": ({"BitsAllocated": 8}, "Expected at least 16 bits per pixel"),
}


@pytest.mark.parametrize(("tags", "wanted"), BAD.values(), ids=BAD)
def test_files_that_contradict_themselves_are_rejected(
    series: Path, tmp_path: Path, tags: dict[str, Any], wanted: str
) -> None:
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", frames_of(series), **tags)
    for place in (path, path.parent):
        assert wanted in message(place)
        assert str(path) in message(place)


def test_groups_that_contradict_each_other_are_rejected(series: Path, tmp_path: Path) -> None:
    def twice(index: int, groups: Dataset) -> None:
        item = Dataset()
        item.PixelSpacing, item.SliceThickness = [0.9, 0.7 + 0.1 * (index == 2)], 2.5
        groups.PixelMeasuresSequence = [item]

    def several(index: int, groups: Dataset) -> None:
        groups.PlanePositionSequence = [*groups.PlanePositionSequence, Dataset()]

    def energy(index: int, groups: Dataset) -> None:
        groups.PixelValueTransformationSequence[0].RescaleType = "Z_EFF"

    slices = frames_of(series)
    wanted = {
        twice: "PixelMeasuresSequence twice for frame 3",
        several: "2 items of PlanePositionSequence for frame 1",
        energy: "Expected Hounsfield units (RescaleType HU), got Z_EFF in frame",
    }
    for number, (change, text) in enumerate(wanted.items()):
        assert text in message(write_enhanced(tmp_path / str(number) / "e.dcm", slices, change=change))


def test_compressed_pixels_of_too_few_frames_are_rejected(series: Path, tmp_path: Path) -> None:
    slices = frames_of(series)
    for one in slices:
        one.compress(RLELossless, generate_instance_uid=False)
    coded = encapsulate([next(generate_frames(one.PixelData, number_of_frames=1)) for one in slices[:5]])
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", slices, PixelData=coded)
    assert "Expected the compressed pixels of 7 frames" in message(path)


def test_only_an_enhanced_file_is_a_scan_by_itself(series: Path) -> None:
    path = next(series.iterdir())
    assert "Expected the folder of a DICOM series, got one DICOM file" in message(path)


def test_a_file_without_names_is_read(series: Path, tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", frames_of(series))
    file = pydicom.dcmread(path)
    for tag in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(file, tag, "")
    file.remove_private_tags()
    file.save_as(path)
    scan = read(path.parent)
    np.testing.assert_array_equal(scan.hu, read(series).hu)
    assert (scan.series, scan.frames) == ("none", tuple(range(1, 8)))


def test_memory_stays_near_that_of_the_scan(tmp_path: Path) -> None:
    slices = frames_of(write_ct(tmp_path / "classic", body((120, 256, 256))))
    path = write_enhanced(tmp_path / "enhanced" / "e.dcm", slices)
    tracemalloc.start()
    try:
        values = read_series(path.parent).values
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The slices one by one, and their stack.
    assert peak < 2.6 * values.nbytes
