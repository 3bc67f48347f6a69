"""The slices of a CT series as one Enhanced CT file, for tests of what reads frames like slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedCTImageStorage, generate_uid

# Tags of a slice by the functional group that they are in, and under which name.
GROUPS = {
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing", "SliceThickness": "SliceThickness"},
    "PixelValueTransformationSequence": {name: name for name in ("RescaleSlope", "RescaleIntercept", "RescaleType")},
    "CTImageFrameTypeSequence": {"ImageType": "FrameType"},
    "CTReconstructionSequence": {"ConvolutionKernel": "ConvolutionKernel"},
    "CTXRayDetailsSequence": {"KVP": "KVP"},
    "CTAcquisitionDetailsSequence": {"GantryDetectorTilt": "GantryDetectorTilt"},
    "FrameContentSequence": {
        "AcquisitionNumber": "FrameAcquisitionNumber",
        "InstanceNumber": "InStackPositionNumber",
        "TemporalPositionIdentifier": "TemporalPositionIndex",
    },
}
_MOVED = {name for group in GROUPS.values() for name in group}


def read_slices(folder: Path) -> list[Dataset]:
    """The slices of a series, in the order of their files."""
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def frames_of(series: Path) -> list[Dataset]:
    """The slices of a series from the feet up."""
    return sorted(read_slices(series), key=lambda one: one.ImagePositionPatient[2])


def write_enhanced(
    path: Path,
    slices: Sequence[Dataset],
    *,
    shared: Sequence[str] = ("PlaneOrientationSequence", "PixelMeasuresSequence"),
    change: Callable[[int, Dataset], None] | None = None,
    **tags: object,
) -> Path:
    """Write slices as the frames of one file, in their order.

    Args:
        path: The file; its folder is created if needed.
        slices: Data sets of single slices with one coding of pixels.
        shared: Groups that are written once, with the values of the first slice.
        change: Called with the index and the functional groups of each frame before they are written.
        tags: Changed attributes of the file; None removes one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    first = slices[0]
    file = Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset(first.file_meta)
    for element in first:
        if element.keyword not in (*_MOVED, "PixelData"):
            file.add(element)
    coded = first.file_meta.TransferSyntaxUID.is_encapsulated
    frames = [_stored(one, coded) for one in slices]
    groups = [_groups(one, [name for name in GROUPS if name not in shared]) for one in slices]
    for index, group in enumerate(groups):
        if change is not None:
            change(index, group)
    values: dict[str, object] = {
        "SOPClassUID": EnhancedCTImageStorage,
        "SOPInstanceUID": generate_uid(entropy_srcs=[str(path)]),
        "InstanceNumber": 1,
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "NumberOfFrames": len(slices),
        "SharedFunctionalGroupsSequence": [_groups(first, shared)],
        "PerFrameFunctionalGroupsSequence": groups,
        "PixelData": encapsulate(frames) if coded else b"".join(frames),
    }
    for name, value in {**values, **tags}.items():
        file.pop(name, None)
        if value is not None:
            setattr(file, name, value)
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    if "PixelData" in file:
        file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB" if coded else "OW", coded
    pydicom.dcmwrite(path, file, enforce_file_format=True)
    return path


def _stored(one: Dataset, coded: bool) -> bytes:
    return next(pydicom.encaps.generate_frames(one.PixelData, number_of_frames=1)) if coded else one.PixelData


def _groups(one: Dataset, names: Sequence[str]) -> Dataset:
    groups = Dataset()
    for name in names:
        item = Dataset()
        for tag, other in GROUPS[name].items():
            if tag in one:
                setattr(item, other, one[tag].value)
        if len(item):
            setattr(groups, name, [item])
    return groups


def in_two(series: Path, folder: Path, **changes: object) -> list[Path]:
    """A scan as a concatenation of two files, the head first."""
    slices = frames_of(series)[::-1]
    paths = []
    for part, own in enumerate((slices[:3], slices[3:]), start=1):
        tags = {"ConcatenationUID": "1.7", "InConcatenationNumber": part, "InConcatenationTotalNumber": 2,
                "ConcatenationFrameOffsetNumber": 0 if part == 1 else 3}  # fmt: skip
        paths.append(write_enhanced(folder / f"{part}.dcm", own, **{**tags, **(changes if part == 2 else {})}))
    return paths
