"""Pictures of the findings in a scan, each with its notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...detections import Lesion, ScanResult, SliceBoxes
from ...lesion_outlines import Outline, outline_of
from ..lesions_document import image_of, shown_name, stored_slice
from ..measurements import size_text, tags_text
from ..named_classes import class_text
from ..source_names import image_text, series_text
from .box_drawing import DETECTION, add_caption, draw_boxes, mark_sides

SOFT_TISSUE = (-160.0, 240.0)
LUNG = (-1350.0, 150.0)
# If most of the ring around a box is darker than this, the box is in lung.
_LUNG_HU = -400
_RING = 5


def display_window(hu_slice: np.ndarray, box: np.ndarray) -> tuple[float, float]:
    """The HU window for showing a box: lung if the tissue around it is lung, otherwise soft tissue.

    Args:
        hu_slice: ``(H, W)`` HU.
        box: ``(4,)`` x1, y1, x2, y2 in pixels of the slice.
    """
    low, high = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    (x1, y1), (x2, y2) = np.maximum(low - _RING, 0), high + _RING
    ring = hu_slice[y1:y2, x1:x2].astype(np.float32)
    ring[_inner(low[1] - y1, high[1] - y1), _inner(low[0] - x1, high[0] - x1)] = np.nan
    around = ring[np.isfinite(ring)]
    # Padding outside the field of view is not lung.
    around = around[around > -1024]
    return LUNG if around.size and np.median(around) < _LUNG_HU else SOFT_TISSUE


def _inner(first: int, last: int) -> slice:
    return slice(max(int(first), 0), max(int(last), 0))


def lesion_picture(
    hu: np.ndarray,
    found: SliceBoxes,
    lesion: Lesion,
    *,
    title: str,
    notices: Sequence[str],
    outline: Outline | None = None,
) -> np.ndarray:
    """The key slice of a lesion with its box.

    Args:
        hu: ``(Z, H, W)`` HU of the scan.
        found: Slice boxes of the scan.
        lesion: The lesion.
        title: Text below the picture.
        notices: Notices below the title.
        outline: Of the lesion in this slice; drawn with the axes in place of the box.

    Returns:
        ``(H', W', 3)`` uint8 RGB.
    """
    plane = hu[found.nearest_slice(lesion.key)]
    drawn = draw_boxes(
        plane,
        {"boxes": lesion.key_box[None], "scores": [lesion.score], "lines": [lines_of(outline)]},
        window=display_window(plane, lesion.key_box),
    )
    return add_caption(mark_sides(drawn), title, legend=[DETECTION], notice="\n".join(notices))


def lines_of(outline: Outline | None) -> list[np.ndarray]:
    """What is drawn of an outline: lines ``(P, 2)`` in pixels of the slice, the outline closed, then the axes."""
    if outline is None:
        return []
    polygon = [] if outline.polygon is None else [np.concatenate([outline.polygon, outline.polygon[:1]])]
    return [*polygon, *([] if outline.axes is None else [outline.axes[:2], outline.axes[2:]])]


def slice_picture(
    hu: np.ndarray,
    found: SliceBoxes,
    lattice_slice: int,
    *,
    title: str,
    notices: Sequence[str],
    spacing: Sequence[float] = (1.0, 1.0),
) -> np.ndarray:
    """A lattice slice with all its boxes or outlines, in the window of the best one; see `lesion_picture`."""
    plane = hu[found.nearest_slice(lattice_slice)]
    rows = np.flatnonzero(found.slices == lattice_slice)
    best = rows[np.argmax(found.scores[rows])]
    drawn = draw_boxes(
        plane,
        {
            "boxes": found.boxes[rows],
            "scores": found.scores[rows],
            "lines": [lines_of(outline_of(found, int(row), spacing)) for row in rows],
        },
        window=display_window(plane, found.boxes[best]),
    )
    return add_caption(mark_sides(drawn), title, legend=[DETECTION], notice="\n".join(notices))


@dataclass(frozen=True)
class OverlayWriter:
    """Write ``overlays/lesion_001.png`` ...: the key slice of each of the best lesions.

    Attributes:
        limit: Pictures of at most this many lesions, best first.
        slices: Also write a picture of every slice with a box, in ``overlays/slices/``.

    The caption of a DICOM scan begins with a line that names the series as the report page does.
    """

    limit: int = 10
    slices: bool = False

    def __call__(self, result: ScanResult) -> dict[str, bytes]:
        """The pictures of one scan."""
        scan, found, files = result.scan, result.found, {}
        series = series_text(result.document["input"].get("dicom"))
        name = f"{series}\n{shown_name(scan)}" if series else shown_name(scan)
        for lesion, entry in list(zip(result.lesions, result.entries, strict=True))[: self.limit]:
            size = " x ".join(f"{edge:.0f}" for edge in entry["size_mm"])
            title = f"{name}: lesion {entry['lesion']}{class_text(entry)}, "
            title += f"slice {entry['key_slice']}{image_text(entry)}, {size} mm"
            title += f"\naxes {size_text(entry)}".removesuffix(", ") + tags_text(entry)
            outline = outline_of(found, lesion.best(found), scan.spacing) if "outline" in entry else None
            picture = lesion_picture(scan.hu, found, lesion, title=title, notices=result.notices, outline=outline)
            files[f"overlays/lesion_{entry['lesion']:03d}.png"] = _png(picture)
        for number in np.unique(found.slices).tolist() if self.slices else []:
            first = found.boxes[np.flatnonzero(found.slices == number)[0]]
            title = f"{name}: slice {stored_slice(scan, found, number)}"
            title += image_text(image_of(scan, found, number, first))
            picture = slice_picture(scan.hu, found, number, title=title, notices=result.notices, spacing=scan.spacing)
            files[f"overlays/slices/slice_{number:04d}.png"] = _png(picture)
        return files


def _png(picture: np.ndarray) -> bytes:
    """An RGB picture as PNG."""
    done, content = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise OSError(f"Could not encode a picture of shape {picture.shape} as PNG.")
    return content.tobytes()
