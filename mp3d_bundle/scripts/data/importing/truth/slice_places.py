"""Where the stored slices of a scan are in its canonical orientation, by number and by UID."""

from __future__ import annotations

import functools
import io
import itertools
from dataclasses import dataclass

import numpy as np
import pydicom

from ....storage.printable import shown_name
from ...scans.dicom.dicom_files import read_dataset, read_text
from ...scans.scan import Scan

# Boxes that end within so many pixels outside of their image, or voxels outside of their scan, are cut without a note.
ROUNDING = 1.0
SLICE_FRAMES = ("stored", "from_feet", "from_head")


@dataclass(frozen=True)
class SliceRule:
    """How labels on single slices name their slice and its pixels.

    Attributes:
        frame: ``"stored"``: a slice of the file, its columns and rows as they are stored; ``"from_feet"``,
            ``"from_head"``: axial slices as they are looked at (the patient's right at the left edge, the front at the
            top), counted from that end.
        first: Number of the first slice, 0 or 1; None where slices are named by their files or UIDs alone.
        pixels_from: Number of the first pixel in Pascal VOC, 0 or 1.
    """

    frame: str = "stored"
    first: int | None = None
    pixels_from: int = 1


@dataclass(frozen=True)
class SlicePlaces:
    """The stored slices of a scan.

    Attributes:
        scan: The scan.
        by_uid: Number ``k`` of each stored slice, from 0, by its SOPInstanceUID; empty where slices have none. Without
            the UIDs of Enhanced CT, which name no slice.
        by_file: The same by the name of its file without ending, where each slice has a file of its own.
        patient: PatientID of the slices, ``""`` where they have none.
        study: StudyInstanceUID, likewise.
        uids: SOPInstanceUIDs of all files.
        from_above: Whether the images' own numbers (InstanceNumber) fall from slice to slice.
    """

    scan: Scan
    by_uid: dict[str, int]
    by_file: dict[str, int]
    patient: str = ""
    study: str = ""
    uids: frozenset[str] = frozenset()
    from_above: bool = False

    @classmethod
    def of(cls, scan: Scan) -> SlicePlaces:
        """Read the UIDs of a DICOM series; of other files there are none."""
        headers = [_header(scan, k) for k in range(len(scan.files))] if scan.series is not None else []
        uids = [read_text(header, "SOPInstanceUID") for header in headers]
        whole = [frame is None for frame in scan.frames or [None] * scan.stored_shape[2]]
        by_uid = {uid: k for k, uid in enumerate(uids) if uid and whole[k]}
        single = len(scan.files) == scan.stored_shape[2]
        by_file = {path.stem: k for k, path in enumerate(scan.files) if whole[k]} if single else {}
        patient, study = (read_text(headers[0], tag) if headers else "" for tag in ("PatientID", "StudyInstanceUID"))
        own = [read_text(header, "InstanceNumber") for header in headers]
        numbers = [int(text) for text in own if text.isdecimal()]
        falling = 1 < len(numbers) == len(own) and all(a > b for a, b in itertools.pairwise(numbers))
        return cls(scan, by_uid, by_file, patient, study, frozenset(uids) - {""}, falling)

    def number_of(self, name: str, rule: SliceRule) -> int:
        """The slice that a name means, in the frame of the rule, from 0.

        Raises:
            ValueError: If it means none.
        """
        if rule.frame == "stored" and name in self.by_uid:
            return self.by_uid[name]
        if rule.frame == "stored" and name in self.by_file:
            return self.by_file[name]
        if self.scan.frames and (name in self.uids or any(name == path.stem for path in self.scan.files)):
            raise ValueError(
                f"Expected the number of a slice of {self.scan.path}, got the UID or file of an Enhanced CT, whose "
                f"frames are several slices: {shown_name(name)}. Give masks, SEG, RTSTRUCT or boxes in mm instead."
            )
        if not name.isdecimal():
            raise ValueError(
                f"Expected the number, file or UID of a slice of {self.scan.path}, got {shown_name(name)}."
            )
        if rule.first is None:
            raise ValueError(
                f"Expected to know whether slices are counted from 0 or 1 (--slices_from), {shown_name(name)} is a "
                f"number and no file of {self.scan.path}."
            )
        return int(name) - rule.first

    def notes_on(self, name: str, rule: SliceRule) -> tuple[str, ...]:
        """A note where a name is a number, which the images themselves may count from the other end."""
        counted = rule.frame == "stored" and name not in self.by_uid and name not in self.by_file
        told = (
            "The truth names slices by numbers, which count from the lowest position; the images' own numbers "
            "(InstanceNumber) count from the other end: --slice_frame from_head if it means these."
        )
        return (told,) if counted and self.from_above else ()

    def size(self, frame: str) -> tuple[int, int]:
        """Width and height of the slices in a frame."""
        if frame == "stored":
            return self.scan.stored_shape[0], self.scan.stored_shape[1]
        return self.scan.hu.shape[2], self.scan.hu.shape[1]

    def place(self, number: int, box: np.ndarray, frame: str) -> tuple[int, np.ndarray]:
        """As `on_slice`, of a box in any of the frames."""
        if frame == "stored":
            return self.on_slice(number, box)
        even = self.scan.places is None
        slices = len(self.scan.hu) if even else self.scan.stored_shape[2]
        if not 0 <= number < slices:
            raise ValueError(f"Expected a slice from 0 to {slices - 1} of {self.scan.path}, got {number}.")
        number = number if frame == "from_feet" else slices - 1 - number
        if not even:
            # People count the images, not the even positions between them.
            rising = self.scan.stored_from_canonical[2, 2] > 0
            number = self.on_slice(number if rising else slices - 1 - number, np.zeros(4))[0]
        return number, np.asarray(box, dtype=np.float64)

    def on_slice(self, number: int, box: np.ndarray) -> tuple[int, np.ndarray]:
        """Put a box of a stored slice into the canonical frame.

        Args:
            number: The stored slice ``k``, from 0.
            box: ``(4,)`` edges ``i1, j1, i2, j2`` in pixels of the stored slice, half-open, from 0.

        Returns:
            The canonical slice, and ``(4,)`` the slab-frame box on it.

        Raises:
            ValueError: If the scan has no such slice.
        """
        if not 0 <= number < self.scan.stored_shape[2]:
            raise ValueError(
                f"Expected a slice from 0 to {self.scan.stored_shape[2] - 1} of {self.scan.path}, got {number}."
            )
        if self.scan.slice_axis != 2:
            raise ValueError(
                f"Expected slices along the third axis of the file, those of {self.scan.path} run along axis "
                f"{self.scan.slice_axis + 1}: give labels as axial slices (--slice_frame from_feet or from_head)."
            )
        i1, j1, i2, j2 = box
        middle = number + 0.5
        solid = self.scan.boxes_from_stored(np.array([[i1, j1, middle, i2, j2, middle]]))[0]
        place = int(np.clip(np.floor((solid[2] + solid[5]) / 2 + 1e-6), 0, len(self.scan.hu) - 1))
        return place, solid[[0, 1, 3, 4]]

    def points_on_slice(self, number: int, points: np.ndarray) -> np.ndarray:
        """Points ``(N, 2)`` of a stored slice, ``i, j`` in pixels (edges), in canonical ``x, y``."""
        flat = np.column_stack([points, np.full(len(points), number + 0.5)])
        return self.scan.boxes_from_stored(np.concatenate([flat, flat], axis=1))[:, :2]


def slice_ranks(scan: Scan) -> np.ndarray:
    """Which stored slice is nearest to each canonical one, ``(Z,)`` rising from 0.

    Of unevenly spaced slices the canonical ones lie on the even positions between them: slices that follow one another
    in the file are not neighbours there.
    """
    middles = np.arange(len(scan.hu)) + 0.5
    if scan.places is None or scan.slice_axis != 2:
        return np.arange(len(middles))
    flat = np.zeros((len(middles), 6))
    flat[:, 2] = flat[:, 5] = middles
    at = scan.evenly().boxes_to_stored(flat)[:, 2] - 0.5
    nearest = np.abs(scan.places[:, None] - at).argmin(axis=0)
    return nearest if nearest[-1] >= nearest[0] else len(scan.places) - 1 - nearest


def frame_of_reference(scan: Scan) -> str:
    """FrameOfReferenceUID of a DICOM series; ``""`` of other files."""
    return read_text(_header(scan, 0), "FrameOfReferenceUID") if scan.series is not None else ""


def _header(scan: Scan, number: int) -> pydicom.Dataset:
    path = scan.files[number]
    content = scan.headers[number] if number < len(scan.headers) else None
    tags = ["SOPInstanceUID", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "InstanceNumber"]
    return read_dataset(path, None if content is None else functools.partial(io.BytesIO, content), tags=tags)
