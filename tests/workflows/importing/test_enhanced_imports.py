"""Own scans as Enhanced CT: the law is that a set of frames is the set of the same slices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from scripts.data.importing.patient_splits import SplitRule
from scripts.data.slabs.slab_reader import read_slice
from scripts.workflows.importing.import_scans import ImportRules, Sources, import_scans
from support.fake_enhanced import read_slices, write_enhanced
from support.fake_truth import (
    BALL,
    name_slices_alone,
    stored_grid,
    write_dicom_case,
    write_lidc,
    write_rtstruct,
    write_seg,
    write_voc,
)


def run(images: Path, truth: Path, output: Path) -> dict[str, Any]:
    """The only record of an import, without what names files."""
    import_scans(Sources(images, truth), ImportRules(splits=SplitRule((1, 0, 0))), output, progress=False)
    record = json.loads((output / "scans" / "000001_01_01.json").read_text())
    return {name: record[name] for name in ("lesions", "shape", "spacing", "patient") if name in record}


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """A case as slices and as frames from the head to the feet."""
    series = write_dicom_case(tmp_path / "classic" / "a")
    path = write_enhanced(tmp_path / "enhanced" / "a" / "e.dcm", read_slices(series))
    return series, path


def seg_of_frames(path: Path, enhanced: Path) -> None:
    """Write the ball as a segmentation that refers to the frames."""
    source = pydicom.dcmread(enhanced)
    affine, shape = stored_grid("plain")
    mask = BALL.inside(affine, shape).transpose(2, 1, 0).astype(np.uint8)
    groups = source.PerFrameFunctionalGroupsSequence
    heights = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups]
    places = np.argsort(np.argsort(heights))
    describe = highdicom.seg.SegmentDescription(
        1, "Lesion 1", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, "MANUAL"
    )
    uids = highdicom.UID(), 9, highdicom.UID(), 1
    found = highdicom.seg.Segmentation([source], mask[places], "BINARY", [describe], *uids, "maker", "model", "1", "1")
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path)


def name_the_file(path: Path, enhanced: Path) -> None:
    """Let the outlines of an RTSTRUCT, which names no series, name an enhanced file."""
    source, dataset = pydicom.dcmread(enhanced, stop_before_pixels=True), pydicom.dcmread(path)
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        (image,) = contour.ContourImageSequence
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    dataset.save_as(path)


def classic(path: Path) -> Path:
    """The slices, next to the truth's folder."""
    return path.parents[1] / "classic" / "a"


def outlines(path: Path, series: Path) -> None:
    """Write an RTSTRUCT that names slices, or the file of frames, and no series."""
    name_slices_alone(write_rtstruct(path, classic(path)), classic(path))
    if series.is_file():
        name_the_file(path, series)


TRUTHS: dict[str, tuple[Callable[[Path, Path], object], Callable[[Path, Path], object]]] = {
    "SEG of the slices": (write_seg, lambda path, _: write_seg(path, classic(path))),
    "SEG of the frames": (write_seg, seg_of_frames),
    "RTSTRUCT by series": (write_rtstruct, lambda path, _: write_rtstruct(path, classic(path))),
    "RTSTRUCT by images": (outlines, outlines),
}


@pytest.mark.parametrize(("of_slices", "of_frames"), TRUTHS.values(), ids=TRUTHS)
def test_truth_in_mm_gives_the_same_set(
    both: tuple[Path, Path],
    tmp_path: Path,
    of_slices: Callable[[Path, Path], object],
    of_frames: Callable[[Path, Path], object],
) -> None:
    series, enhanced = both
    of_slices(tmp_path / "truth_1" / "t.dcm", series)
    of_frames(tmp_path / "truth_2" / "t.dcm", enhanced)
    wanted = run(tmp_path / "classic", tmp_path / "truth_1", tmp_path / "set_1")
    found = run(tmp_path / "enhanced", tmp_path / "truth_2", tmp_path / "set_2")
    assert len(wanted["lesions"]) == 1
    for record in (wanted, found):
        record["lesions"] = [{**one, "source": None} for one in record["lesions"]]
    assert found == wanted
    for path in sorted((tmp_path / "set_1" / "Images_png" / "000001_01_01").iterdir()):
        other = tmp_path / "set_2" / "Images_png" / "000001_01_01" / path.name
        np.testing.assert_array_equal(read_slice(other), read_slice(path))


@pytest.mark.parametrize("name", ["uid", "file"])
def test_labels_of_a_whole_file_are_rejected(both: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    series, enhanced = both
    uid = str(pydicom.dcmread(enhanced, stop_before_pixels=True).SOPInstanceUID)
    first = sorted(write_voc(tmp_path / "voc", series).iterdir())[0]
    folder = tmp_path / "truth" if name == "uid" else tmp_path / "truth" / "a"
    folder.mkdir(parents=True)
    first.rename(folder / f"{uid if name == 'uid' else 'e'}.xml")
    with pytest.raises(ValueError, match=r"got the UID or file of an Enhanced CT, whose frames are several slices"):
        import_scans(
            Sources(tmp_path / "enhanced", tmp_path / "truth", match=None if name == "uid" else "place"),
            ImportRules(splits=SplitRule((1, 0, 0))), tmp_path / "set", progress=False,
        )  # fmt: skip


def test_lidc_needs_slices_with_uids(both: tuple[Path, Path], tmp_path: Path) -> None:
    series, _ = both
    (tmp_path / "truth").mkdir()
    write_lidc(tmp_path / "truth" / "reading.xml", series)
    with pytest.raises(ValueError, match=r"Expected DICOM slices, which .* names by their UIDs"):
        run(tmp_path / "enhanced", tmp_path / "truth", tmp_path / "set")
