"""Count the files on two walks through the bundle's code: the figures of docs/architecture.md.

    python tools/trace_walks.py

Walk 1: a key slice from its record to its loss. Walk 2: a DICOM folder to ``lesions.json``. Everything is built before
the count begins; then every call of a function of ``mp3d_bundle/scripts`` is noted by ``sys.setprofile``. A *step* is
a pair of files of which the second is called right after the first; each pair counts once.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
SCRIPTS = f"{BUNDLE / 'scripts'}{os.sep}"
sys.path[:0] = [str(BUNDLE)]

import numpy as np  # noqa: E402
from monai.bundle import ConfigParser  # noqa: E402
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian  # noqa: E402

from scripts.data.synthetic import generate  # noqa: E402


def traced(walk: Callable[[], object]) -> list[str]:
    """The files of `scripts` in the order in which a walk calls their functions, a file once for each move to it.

    Args:
        walk: The function to follow.
    """
    visits: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(SCRIPTS) and frame.f_code.co_name != "<module>":
            place = name.removeprefix(SCRIPTS)
            if not visits or visits[-1] != place:
                visits.append(place)

    sys.setprofile(note)
    try:
        walk()
    finally:
        sys.setprofile(None)
    return visits


def slice_to_loss(folder: Path) -> list[str]:
    """Walk 1, with the narrow network and a synthetic data set.

    Args:
        folder: Folder for the data set.
    """
    generate(folder / "data", "small", seed=1, workers=1, num_train=2, num_validation=2, num_test=2)
    files = [BUNDLE / "configs" / name for name in ("train.json", "variants/size_narrow.yaml")]
    parser = ConfigParser(ConfigParser.load_config_files(list(map(str, files))))
    parser.update({"dataset_dir": str(folder / "data"), "device": "cpu", "amp": False})
    dataset, network, loss = (parser.get_parsed_content(name) for name in ("train#dataset", "network_def", "loss"))
    prepare = parser.get_parsed_content("train#trainer#prepare_batch")
    network.train()

    def walk() -> None:
        slabs, _, arguments, _ = prepare([dataset[0]], "cpu", False)
        loss(network(slabs, *arguments), None)

    return traced(walk)


def write_series(folder: Path, slices: int = 12) -> Path:
    """Write a small CT series with a bright ball in a body.

    Args:
        folder: Target folder; created here.
        slices: Number of slices, 2.5 mm apart.
    """
    folder.mkdir()
    k, j, i = np.mgrid[:slices, :64, :64]
    hu = np.where((i - 32) ** 2 + (j - 32) ** 2 < 28**2, 40, -1000)
    hu[((i - 30) ** 2 + (j - 26) ** 2 + 4 * (k - 6) ** 2) < 36] = 160
    for number in range(slices):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.4.{number + 1}")
        image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
        image.Modality, image.ImageType, image.PatientID = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "walk"
        image.Rows, image.Columns, image.PixelSpacing, image.InstanceNumber = 64, 64, [1.0, 1.0], number + 1
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2.5 * number]
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelData = (hu[number] + 1024).astype("<u2").tobytes()
        image.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
    return folder


def dicom_to_json(folder: Path) -> list[str]:
    """Walk 2, with the demo's weights and no other output than ``json``.

    Args:
        folder: Folder for the series and the results.
    """
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs" / "inference.json")))
    settings = {"checkpoint": str(BUNDLE / "models" / "demo.pt"), "output_dir": str(folder / "out"), "progress": False}
    parser.update({**settings, "input": str(write_series(folder / "series")), "outputs": ["json"], "device": "cpu"})
    evaluator = parser.get_parsed_content("evaluator")
    evaluator.weights.load()
    # Finding scans is part of the walk; the config does it while the evaluator is built.
    found = parser.get("dataset")["data"]

    def walk() -> None:
        search = ConfigParser({**parser.get(), "again": found}).get_parsed_content("again")
        evaluator.dataset = search
        evaluator.overwrite = True
        evaluator.run()

    visits = traced(walk)
    if evaluator.failures or not (folder / "out" / "lesions.json").is_file():
        raise RuntimeError(f"Expected results of the scan, got {evaluator.failures}.")
    return visits


def main() -> None:
    """Print the figures, and the files in the order of their first call."""
    with tempfile.TemporaryDirectory() as place:
        for name, walk in (("slice to loss", slice_to_loss), ("DICOM folder to lesions.json", dicom_to_json)):
            folder = Path(place) / name.split()[0]
            folder.mkdir()
            visits = walk(folder)
            files = list(dict.fromkeys(visits))
            print(f"{name}: {len(files)} files, {len(set(itertools.pairwise(visits)))} steps")
            print("\n".join(f"  {file}" for file in files))


if __name__ == "__main__":
    main()
