"""References of DICOM results to frames of an Enhanced CT.

highdicom takes single images, or the frames of one file; a scan may be in several. So each frame is given to it as an
image of its own under a UID that is made up, and the references that it wrote are put right before a result is a file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid

# The lists of all files that an SR or a SEG used, series by series: of whole files.
_WHOLE = ("ReferencedSOPSequence", "ReferencedInstanceSequence")


@dataclass(frozen=True)
class Frame:
    """A frame of a file.

    Attributes:
        made_up: SOPInstanceUID of the image that it is while a result is made.
        storage: SOPClassUID of the file.
        uid: SOPInstanceUID of the file.
        number: Of the frame, from 1.
    """

    made_up: str
    storage: str
    uid: str
    number: int


def as_image(header: Dataset, number: int) -> Frame:
    """Make a header of a frame that of a CT image of its own, in place.

    Args:
        header: With the SOP class and UID of the file.
        number: Of the frame in the file, from 1.
    """
    frame = Frame(generate_uid(), header.SOPClassUID, header.SOPInstanceUID, number)
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, frame.made_up
    return frame


def name_frames(result: Dataset, frames: Sequence[Frame | None]) -> None:
    """Let the references of a result to images of `as_image` name the files and frames, in place.

    Args:
        result: A result that highdicom made.
        frames: Those of the scan, None for images that are files of their own.
    """
    known = {frame.made_up: frame for frame in frames if frame is not None}
    if known:
        _rename(result, known)


def _rename(dataset: Dataset, known: dict[str, Frame]) -> None:
    for element in dataset:
        if element.VR != "SQ":
            continue
        items, named = [], defaultdict(list)
        for item in element.value:
            _rename(item, known)
            frame = known.get(item.get("ReferencedSOPInstanceUID"))
            if frame is None:
                items.append(item)
                continue
            if frame.uid not in named:
                items.append(_reference(item, frame))
            named[frame.uid].append(frame.number)
        if not named:
            continue
        if "SeriesInstanceUID" not in dataset or element.keyword not in _WHOLE:
            for item in items:
                if numbers := named.get(item.get("ReferencedSOPInstanceUID")):
                    item.ReferencedFrameNumber = sorted(numbers)
        # A list of its own: highdicom puts lists and their items into several places.
        element.value = items


def _reference(item: Dataset, frame: Frame) -> Dataset:
    """A reference to the file of a frame in the place of another, which lists elsewhere may share."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = frame.storage, frame.uid
    for element in item:
        if element.tag not in reference:
            reference.add(element)
    return reference
