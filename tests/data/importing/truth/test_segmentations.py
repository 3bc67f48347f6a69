"""Segmentations: frames lie where they say, those left out are empty, and what contradicts itself is rejected."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.importing.truth.segmentations import read_segmentation
from scripts.data.importing.truth.truth_files import TruthRules, find_truth
from scripts.data.scans.scan import Scan, read_scan
from support.fake_dicom import write_stack
from support.fake_truth import SHAPE, write_dicom_case, write_seg


def squares(*slices: int) -> np.ndarray:
    """A square on each of these slices."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[list(slices), 10:16, 20:28] = 1
    return mask


def found(path: Path, scan: Scan) -> list[tuple[list[int], list[float]]]:
    """Slices and bounds of the lesions, none of which may be on another grid."""
    truth = read_segmentation(path, scan, each_segment=False)
    assert not truth.notes
    return sorted((one.slices.tolist(), one.bounds.tolist()) for one in truth.lesions)


def change(path: Path, edit: Callable[[pydicom.Dataset], None]) -> Path:
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)
    return path


def test_a_segmentation_and_one_elsewhere(tmp_path: Path) -> None:
    series = write_dicom_case(tmp_path / "CT")
    scan = read_scan(series)
    path = write_seg(tmp_path / "seg.dcm", series)
    assert len(read_segmentation(path, scan, each_segment=True).lesions) == 1
    far = np.array(scan.affine)
    far[2, 3] += 900
    with pytest.raises(ValueError, match=r"'Lesion 1' of .* is outside"):
        read_segmentation(path, Scan(scan.hu, far, np.eye(4), scan.stored_shape, scan.path, ()), each_segment=False)


def test_what_is_no_segmentation(tmp_path: Path) -> None:
    series = write_dicom_case(tmp_path / "CT")
    with pytest.raises(ValueError, match="a DICOM segmentation of parallel slices, cannot use"):
        read_segmentation(series / "IM0001.dcm", read_scan(series), each_segment=False)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("slices", [(2, 10), (2, 5, 8, 11), (1, 3, 6), (4, 5, 6, 9), (7,)])
def test_frames_that_are_left_out_are_empty(
    tmp_path: Path, series: Path, scan: Scan, kind: str, slices: tuple[int, ...]
) -> None:
    mask = squares(*slices)
    lesions = found(write_seg(tmp_path / "less.dcm", series, mask=mask, kind=kind), scan)
    assert lesions == found(write_seg(tmp_path / "all.dcm", series, mask=mask, omit_empty_frames=False), scan)
    assert sorted(z for drawn, _ in lesions for z in drawn) == list(slices)


def test_a_label_map_is_recognised(tmp_path: Path, series: Path) -> None:
    write_seg(tmp_path / "t" / "map.dcm", series, mask=squares(2), kind="LABELMAP")
    ((truth,), left) = find_truth(tmp_path / "t", TruthRules())
    assert (truth.kind, left) == ("seg", [])


def test_uneven_slices_are_met_one_by_one(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "ct", [0, 2, 4, 6, 8, 12, 16, 20])
    mask = np.zeros((8, 10, 12), np.uint8)
    mask[[1, 2, 6], 3:6, 4:8] = 1
    scan = read_scan(folder)
    assert scan.places is not None
    truth = read_segmentation(write_seg(tmp_path / "a.dcm", folder, mask=mask), scan, each_segment=False)
    # Positions every 2 mm; the one half-way between two slices takes the lower one.
    assert [one.slices.tolist() for one in truth.lesions] == [[1, 2], [8, 9]]
    assert truth.lesions[1].bounds.tolist() == [4, 3, 8, 6]


def shift_some(dataset: pydicom.Dataset, pixels: float = 8) -> None:
    """Move the last frames, which are the lower slices."""
    for group in dataset.PerFrameFunctionalGroupsSequence[2:]:
        place = group.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [float(x) + pixels, y, z]


def turn_some(dataset: pydicom.Dataset) -> None:
    """Store the last frames from the right to the left, at the same place."""
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    del dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        own = copy.deepcopy(orientation)
        if number >= 2:
            own.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
            x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
            group.PlanePositionSequence[0].ImagePositionPatient = [float(x) + SHAPE[2] - 1, y, z]
        group.PlaneOrientationSequence = [own]


def coarse_some(dataset: pydicom.Dataset) -> None:
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        own = copy.deepcopy(measures)
        if number >= 2:
            own.PixelSpacing = [2, 2]
        group.PixelMeasuresSequence = [own]


def test_each_frame_lies_where_it_says(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = change(write_seg(tmp_path / "a.dcm", series, mask=squares(4, 5, 6, 7)), shift_some)
    (lesion,) = read_segmentation(path, scan, each_segment=True).lesions
    assert lesion.boxes.tolist() == [[28, 10, 36, 16]] * 2 + [[20, 10, 28, 16]] * 2
    path = change(write_seg(tmp_path / "b.dcm", series, mask=squares(4, 5, 6, 7)), turn_some)
    (lesion,) = read_segmentation(path, scan, each_segment=True).lesions
    assert lesion.boxes.tolist() == [[32, 10, 40, 16]] * 2 + [[20, 10, 28, 16]] * 2


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (coarse_some, "its frames have different orientations or sizes of pixels"),
        (lambda dataset: shift_some(dataset, 7.5), "its frames are shifted against each other in their plane"),
        (
            lambda dataset: setattr(dataset, "FrameOfReferenceUID", "1.9"),
            "its frame of reference is 1.9, that of the scan",
        ),
        (lambda dataset: setattr(dataset, "NumberOfFrames", 3), "it says that it has 3 frames, and has"),
        (lambda dataset: dataset.PerFrameFunctionalGroupsSequence.pop(), "and the places of 3"),
    ],
)
def test_frames_that_contradict_each_other(
    tmp_path: Path, series: Path, scan: Scan, edit: Callable[[pydicom.Dataset], None], what: str
) -> None:
    path = change(write_seg(tmp_path / "a.dcm", series, mask=squares(4, 5, 6, 7)), edit)
    with pytest.raises(ValueError, match=what):
        read_segmentation(path, scan, each_segment=False)


def test_a_grid_of_its_own_has_the_distance_that_it_says(tmp_path: Path, series: Path, scan: Scan) -> None:
    def halve(dataset: pydicom.Dataset) -> None:
        # Pixels of half the size: no longer those of the scan.
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.625, 0.5]

    path = change(write_seg(tmp_path / "a.dcm", series, mask=squares(2, 6, 10)), halve)
    truth = read_segmentation(path, scan, each_segment=False)
    assert [one.slices.tolist() for one in truth.lesions] == [[2], [6], [10]]
    assert truth.lesions[0].bounds.tolist() == pytest.approx([10, 5, 14, 8], abs=0.51)

    def lift(dataset: pydicom.Dataset) -> None:
        halve(dataset)
        place = dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x, y, float(z) + 1]

    path = change(write_seg(tmp_path / "b.dcm", series, mask=squares(2, 6, 10)), lift)
    with pytest.raises(ValueError, match="its slices are at other distances than it says"):
        read_segmentation(path, scan, each_segment=False)
