"""Lesions as a DICOM presentation state: lines and names over the images, for viewers that show no report.

A Grayscale Softcopy Presentation State holds no pixels. It refers to each image that a lesion is on, in its own window.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from highdicom import pr
from highdicom.color import CIELabColor

from ....storage.result_files import OUTPUTS
from ...detections import ScanResult
from ..lesions_document import bundle_version
from ..named_classes import class_text
from .box_segmentation import masked
from .frame_references import name_frames
from .own_series import OwnSeries, earlier_file, file_bytes, files_or_warning, outlined_lesions
from .source_images import Outlined, Rectangle, SourceSlice, read_sources

_SERIES_NUMBER = 9003
(_FILE,) = OUTPUTS["gsps"].files
# The yellow of the boxes in all other outputs.
_COLOUR = CIELabColor.from_rgb(255, 215, 40)
# Where the notices are on the screen, as shares of it: left, top, right, bottom.
_NOTICE_BOX = (0.02, 0.92, 0.98, 0.98)
_LONGEST_TEXT = 1024


@dataclass(frozen=True)
class PresentationWriter:
    """Write ``lesions_pr.dcm``.

    Attributes:
        version: Of the software, as written to the file.
    """

    version: str = field(default_factory=bundle_version)

    def __call__(self, result: ScanResult) -> dict[str, bytes]:
        """Write the presentation state of one scan.

        Args:
            result: The results of the scan.

        Returns:
            ``lesions_pr.dcm``; nothing if no lesion was found, for a scan that was not read from DICOM, or (with a
            warning) whose headers lack required references.
        """
        return files_or_warning(result.scan, lambda: self._write(result)) if result.lesions else {}

    def _write(self, result: ScanResult) -> dict[str, bytes]:
        slices = read_sources(result.scan.files, result.scan.headers, result.scan.frames)
        outlined = outlined_lesions(result, slices)
        shown = "outlines" if masked(outlined) else "boxes"
        series = OwnSeries(_SERIES_NUMBER, shown, self.version, earlier_file(result.folder, _FILE, slices[0].header))
        layer = pr.GraphicLayer("LESIONS", order=1, description="Lesions found by a program", display_color=_COLOUR)
        on_image: dict[int, list[tuple[Outlined, Rectangle]]] = defaultdict(list)
        for one in outlined:
            for rectangle in one.rectangles:
                on_image[rectangle.index].append((one, rectangle))
        equipment = series.equipment()
        with warnings.catch_warnings():
            # Names are written as in the images, even if highdicom would change them.
            warnings.filterwarnings("ignore", message=".*person name")
            state = pr.GrayscaleSoftcopyPresentationState(
                referenced_images=[slices[index].header for index in sorted(on_image)],
                content_label="LESIONS",
                content_description=equipment["series_description"],
                graphic_layers=[layer],
                graphic_annotations=[
                    _annotation(slices[index], on_image[index], layer, result.notices) for index in sorted(on_image)
                ],
                **equipment,
            )
        (area,) = state.DisplayedAreaSelectionSequence
        # The default is square pixels, whatever the images have.
        del area.PresentationPixelAspectRatio
        area.PresentationPixelSpacing = slices[0].header.PixelSpacing
        # Required where a part of the body may be paired; empty means unknown.
        side = slices[0].header.get("Laterality")
        state.Laterality = side if side in ("R", "L") else ""
        name_frames(state, [one.frame for one in slices])
        return {_FILE: file_bytes(state)}


def _annotation(
    image: SourceSlice,
    lesions: Sequence[tuple[Outlined, Rectangle]],
    layer: pr.GraphicLayer,
    notices: Sequence[str],
) -> pr.GraphicAnnotation:
    """The lesions of one image: a closed line, a name and a score each; and the notices."""
    pixel, display = pr.AnnotationUnitsValues.PIXEL, pr.AnnotationUnitsValues.DISPLAY
    lines, texts = [], []
    for one, rectangle in lesions:
        points = _in_pixels(image, rectangle)
        tracked: dict[str, Any] = {"tracking_id": one.name, "tracking_uid": one.tracking}
        lines.append(pr.GraphicObject(pr.GraphicTypeValues.POLYLINE, points, pixel, **tracked))
        # The name is at the right end of the line, clear of the lesion.
        right = points[points[:, 0].argmax()]
        text = f"{one.name}{class_text(one.entry)} ({one.entry['score']:.2f})"
        anchor = (float(right[0]), float(right[1]))
        texts.append(pr.TextObject(text, pixel, anchor_point=anchor, anchor_point_visible=False, **tracked))
    texts.append(pr.TextObject(" ".join(notices)[:_LONGEST_TEXT], display, bounding_box=_NOTICE_BOX))
    return pr.GraphicAnnotation([image.header], layer, graphic_objects=lines, text_objects=texts)


def _in_pixels(image: SourceSlice, rectangle: Rectangle) -> np.ndarray:
    """The line of a lesion ``(P, 2)`` in columns and rows from the corner of the first pixel, inside of the image."""
    corners = np.column_stack([rectangle.corners, np.ones(len(rectangle.corners))])
    # Pixel centres are at whole numbers in the matrix.
    points = (corners @ image.inverse.T)[:, :2] + 0.5
    return np.clip(points, 0, [image.header.Columns, image.header.Rows])
