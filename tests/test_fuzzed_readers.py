"""Every reader on files damaged at random: the end is a result or one line that names the file. No hang, no traceback.

Hypothesis draws the damage, the same in every run, and shortens what fails to the smallest case. ``MP3D_FUZZ=10000``
(``make soak``) tries as many files, spread over the readers.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.damaged_volumes import make_files
from scripts.data.importing.truth.reviews import read_review
from scripts.data.importing.truth.slice_places import SlicePlaces
from scripts.data.importing.truth.truth_files import TruthRules, find_truth
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.scan_lists import read_list
from scripts.inference.outputs.result_folder import RECORD, read_record
from scripts.storage.torch_files import read_tensors
from scripts.weights import build_network, load_network, save_weights
from support import fake_truth
from support.fake_dicom import write_ct
from support.fake_enhanced import frames_of, write_enhanced
from support.narrow_networks import TINY
from support.spoilt_files import drawer

CASES = int(os.environ.get("MP3D_FUZZ", "0"))
SLOW_S = 10.0
HU = fake_truth.ball_hu(fake_truth.straight_affine(), fake_truth.SHAPE[::-1]).transpose(2, 1, 0)


@dataclass(frozen=True)
class Reader:
    """A file to damage, and what reads it.

    Attributes:
        make: Writes good files into a folder and returns the one to damage.
        read: Reads them; given the damaged file.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def read_all(place: Path) -> None:
    """Every scan that is found at a place."""
    for source in find_scans(place):
        with source.open() as scan:
            assert scan.hu.dtype == np.int16
            assert np.isfinite(scan.affine).all()


def slices(folder: Path) -> Path:
    return sorted(write_ct(folder / "series", HU[4:7, :24, :24]).iterdir())[1]


def frames(folder: Path) -> Path:
    series = slices(folder).parent
    enhanced = write_enhanced(folder / "enhanced" / "frames.dcm", frames_of(series))
    shutil.rmtree(series)
    return enhanced


def archive(folder: Path) -> Path:
    files = sorted(slices(folder).parent.iterdir())
    with zipfile.ZipFile(folder / "series.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for path in files:
            target.write(path, path.name)
    shutil.rmtree(folder / "series")
    return folder / "series.zip"


def pictures(folder: Path) -> Path:
    place = folder / "000001_01_01"
    place.mkdir()
    for number in (5, 6, 7):
        cv2.imwrite(str(place / f"{number:03d}.png"), (HU[number].astype(np.int32) + 32768).astype(np.uint16))
    header = "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
    header += "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,"
    header += "Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test\n"
    row = '000001_01_01_006.png,1,1,1,6,"1, 2, 3, 4, 5, 6, 7, 8","1, 1, 9, 9","9, 8","0.5, 0.5, 0.5",3,0,"5, 7",'
    (folder / "DL_info.csv").write_text(f'{header}{row}"0.8, 0.8, 5","60, 48","-175, 275",M,62,1\n')
    return place / "006.png"


def picture_labels(folder: Path) -> Path:
    return pictures(folder).parents[1] / "DL_info.csv"


def volume(name: str) -> Reader:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(make_files()[name])
        return folder / name

    return Reader(make, read_scan)


@cache
def scan_of(folder: Path) -> tuple[Path, Scan]:
    """The series whose truth is read, and its scan."""
    series = fake_truth.write_dicom_case(folder / "ct")
    (source,) = find_scans(series)
    with source.open() as scan:
        return series, scan


def truth(make: Callable[[Path, Path], Path], **rules: str) -> Reader:
    """A reader of truth; ``make`` writes it for a series."""

    def made(folder: Path) -> Path:
        return make(folder, scan_of(folder)[0])

    def read(path: Path) -> None:
        places = SlicePlaces.of(scan_of(path.parent)[1])
        for one in find_truth(path, TruthRules(**rules))[0]:
            lesions = one.read(places, one.image.rpartition("/")[2])
            assert lesions is not None

    return Reader(made, read)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def boxes_csv(folder: Path, series: Path) -> Path:
    head = "scan,x1,y1,z1,x2,y2,z2"
    values = ",".join(f"{value:.1f}" for value in fake_truth.ball_bounds())
    return written(folder / "boxes.csv", f"{head}\ncase,{values}\n")


def boxes_json(folder: Path, series: Path) -> Path:
    return written(folder / "boxes.json", json.dumps({"case": [fake_truth.ball_bounds()]}))


def mask(folder: Path, series: Path) -> Path:
    affine, shape = fake_truth.stored_grid("plain")
    return fake_truth.save_nifti(folder / "mask.nii", fake_truth.BALL.inside(affine, shape).astype(np.uint8), affine)


def yolo(folder: Path, series: Path) -> Path:
    return written(folder / "IM0007.txt", "0 0.500000 0.500000 0.100000 0.100000\n")


def voc(folder: Path, series: Path) -> Path:
    return sorted(fake_truth.write_voc(folder, series).glob("*.xml"))[0]


LESION = {"lesion": 1, "score": 0.9, "box_voxel": [10, 10, 4, 20, 20, 8], "review": {"decision": "accepted"}}
REVIEW = {"input": {"name": "case", "sha256": "0" * 64, "shape": [60, 48, 14]}, "lesions": [LESION]}


def record(folder: Path) -> Path:
    made = {"source": {"sha256": "0" * 64}, "settings": {"a": 1}}
    return written(folder / RECORD, json.dumps({"made": made, "files": {"lesions.json": "0" * 64}}))


def tiny_weights(folder: Path) -> Path:
    torch.manual_seed(0)
    return save_weights(folder / "tiny.pt", build_network(TINY), TINY, {"name": "tiny"})


def tensors(folder: Path) -> Path:
    torch.save({"a": torch.arange(5.0), "b": [1, "x", {"c": torch.ones(2, 2)}]}, folder / "last.pt")
    return folder / "last.pt"


READERS = {
    **{name: volume(name) for name in make_files()},
    "dicom": Reader(slices, lambda path: read_all(path.parent)),
    "enhanced": Reader(frames, lambda path: read_all(path.parent)),
    "dicom in zip": Reader(archive, read_all),
    "png": Reader(pictures, lambda path: read_all(path.parent)),
    "png labels": Reader(picture_labels, lambda path: read_all(path.parent / "000001_01_01")),
    "list": Reader(lambda folder: written(folder / "list.txt", "a.nii\nb/c.nii.gz\n"), read_list),
    "mask": truth(mask),
    "seg": truth(lambda folder, series: fake_truth.write_seg(folder / "seg.dcm", series)),
    "rtstruct": truth(lambda folder, series: fake_truth.write_rtstruct(folder / "rtstruct.dcm", series, every=2)),
    "lidc": truth(lambda folder, series: fake_truth.write_lidc(folder / "lidc.xml", series)),
    "voc": truth(voc),
    "coco": truth(lambda folder, series: fake_truth.write_coco(folder / "coco.json", series)),
    "yolo": truth(yolo),
    "boxes csv": truth(boxes_csv, box_frame="lps"),
    "boxes json": truth(boxes_json, box_frame="lps"),
    "review": Reader(lambda folder: written(folder / "lesions_reviewed.json", json.dumps(REVIEW)), read_review),
    "finished": Reader(record, lambda path: read_record(path.parent)),
    "weights": Reader(tiny_weights, load_network),
    "tensors": Reader(tensors, read_tensors),
}


def end_of(reader: Reader, path: Path) -> str:
    """How a reader ends: ``read`` or ``rejected``, after a check of its one line."""
    start, message = time.process_time(), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except (ValueError, OSError) as error:
        message = str(error)
    spent = time.process_time() - start
    assert spent < SLOW_S, f"{spent:.1f} s"
    if message is None:
        return "read"
    assert message
    assert "\n" not in message, message
    assert len(message) < 2000, message[:300]
    assert path.name in message or path.parent.name in message, message
    return "rejected"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("name", READERS)
def test_every_end_is_a_result_or_one_line(name: str, tmp_path: Path) -> None:
    reader, ends = READERS[name], Counter[str]()
    path = reader.make(tmp_path)
    assert end_of(reader, path) == "read", "the good file is read"
    strategy, content = drawer(path)
    cases = max(8, CASES // len(READERS))

    @settings(
        derandomize=True, database=None, deadline=None, max_examples=cases, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def law(data: st.DataObject) -> None:
        path.write_bytes(data.draw(strategy(content)))
        ends[end_of(reader, path)] += 1

    law()
    assert sum(ends.values()) >= cases / 2
    assert ends["rejected"] > 0 or name in ("finished", "list", "yolo", "png labels")
    with open(os.environ.get("MP3D_FUZZ_REPORT", os.devnull), "a", newline="") as report:
        csv.writer(report).writerow([name, sum(ends.values()), ends["read"], ends["rejected"]])
