"""``report.html``: a scan and its lesions for the browser, in one file, without a network connection.

Every slice is one grey JPEG of two pictures, one above the other: soft tissue (-200 to 300 HU, two HU to a
grey value) and the whole range (-1350 to 2000 HU, coarser towards bone). The page decodes a slice when it is
first shown, puts Hounsfield units together from both, and so can show any window. Quality and, for very long
scans, size of the pictures depend on the allowed size of the file.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...detections import Lesion, ScanResult, SliceBoxes
from ...lesion_outlines import outline_of
from ...scan_protocol import ScanLike
from ..lesions_document import STACKED, cautions, result_sha256
from ..pictures.finding_pictures import LUNG, display_window, lines_of
from ..source_names import name_image, series_text

# Soft tissue in 8 bits, and the knots (HU, grey) between which the picture of the whole range is linear.
FINE = (-200.0, 300.0)
COARSE = ((-1350.0, 0.0), (-200.0, 144.0), (300.0, 175.0), (2000.0, 255.0))
# The page blends both: only fine between the inner two, only coarse outside the outer two.
BLEND = (-190.0, -130.0, 230.0, 290.0)
# Window presets: name, lowest and highest HU shown; their keys are 1, 2, ...
WINDOWS = (
    ("Lung", -1350, 150),
    ("Soft tissue", -160, 240),
    ("Bone", -450, 1050),
    ("Liver", -45, 105),
    ("Mediastinum", -125, 225),
    ("Brain", 0, 80),
)
# What the archive calls the series, and how the page names it.
_ARCHIVE = {
    "series_number": "Series number",
    "series_description": "Series description",
    "study_date": "Study date",
    "accession_number": "Accession number",
    "series_instance_uid": "Series UID",
}
_TEMPLATE = Path(__file__).parent / "viewer_template"
_SCRIPTS = ("pictures.js", "viewer.js", "planes.js", "overview.js", "worklist.js", "measure.js", "controls.js")
# The overview: black below, white above.
_OVERVIEW = (-150.0, 850.0)
# Longest sides and JPEG qualities to try, best first.
_SIDES = (512, 384, 256, 192, 128)
_QUALITIES = (90, 85, 80, 70, 60)
_SAMPLES = 12
# JPEG works in blocks of 8 x 8: the two pictures must not share one.
_BLOCK = 8
_BASE64 = 4 / 3


@dataclass(frozen=True)
class SlicePictures:
    """The slices of a scan as JPEG.

    Attributes:
        content: One JPEG per slice, feet first.
        size: Width and height of each of the two pictures in it.
        offset: Row at which the second picture begins.
        quality: JPEG quality.
    """

    content: list[bytes]
    size: tuple[int, int]
    offset: int
    quality: int


@dataclass(frozen=True)
class ReportWriter:
    """Write ``report.html``.

    Attributes:
        max_megabytes: Limit for the pictures of the slices, in millions of bytes of the file.
        threads: Slices encoded at the same time; all processors when None.
        operating_points: Score thresholds to choose from, by the false positives per image in the
            validation of the weights (their names).
    """

    max_megabytes: float = 45.0
    threads: int | None = None
    operating_points: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, result: ScanResult) -> dict[str, bytes]:
        """Write the page of one scan.

        Args:
            result: The results of the scan.

        Returns:
            ``report.html``.

        Raises:
            OSError: If a part of the template is missing.
            ValueError: If the slices do not fit into ``max_megabytes`` even at the smallest size.
        """
        scan, document = result.scan, result.document
        pictures = encode_slices(scan.hu, max_bytes=self.max_megabytes * 1e6, threads=self.threads)
        data = {
            **_page_data(result, pictures),
            "points": sorted(self.operating_points.items(), key=lambda point: float(point[0])),
        }
        parts = {
            "TITLE": html.escape(f"Lesions in {_title(document['input'])}"),
            "NOTICES": "".join(f"<p>{html.escape(notice)}</p>" for notice in document["notices"]),
            "PRESETS": window_buttons(),
            "CUSTOM": str(len(WINDOWS) + 1),
            "CORONAL": _overview(scan.hu.max(axis=1)),
            "SAGITTAL": _overview(scan.hu.max(axis=2)),
        }
        return {"report.html": fill_page("page.html", parts, data, _SCRIPTS, {"s": pictures.content})}


def fill_page(
    template: str,
    parts: Mapping[str, str],
    data: Mapping[str, Any],
    scripts: Sequence[str],
    slices: Mapping[str, Sequence[bytes]],
) -> bytes:
    """Make a page of a template.

    Args:
        template: Name of the file with what is inside of ``frame.html``.
        parts: Safe HTML by the name of its place.
        data: What the scripts read, plain values.
        scripts: Names of files.
        slices: JPEGs by the first letter of their ids.

    Raises:
        OSError: If a part of the template is missing.
    """
    parts = {
        **parts,
        "STYLE": _part("style.css"),
        # A "<" could close the element that holds the data.
        "DATA": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "SCRIPT": "".join(map(_part, scripts)),
    }
    page = _part("frame.html").replace("%BODY%", _part(template))
    # One pass: inserted text is not searched for further placeholders.
    page = re.sub("%([A-Z]+)%", lambda match: parts.get(match[1], match[0]), page)
    before, after = page.split("<!-- slices -->")
    chunks = [before.encode("utf-8", "replace")]
    chunks.extend(
        b'<script type="text/plain" id="%b%d">%b</script>\n' % (letter.encode(), z, base64.b64encode(picture))
        for letter, pictures in slices.items()
        for z, picture in enumerate(pictures)
    )
    return b"".join([*chunks, after.encode("utf-8", "replace")])


def encode_slices(hu: np.ndarray, *, max_bytes: float, threads: int | None = None) -> SlicePictures:
    """Encode the slices of a scan in the largest size and best quality that fit.

    Args:
        hu: ``(Z, H, W)`` int16 HU.
        max_bytes: Limit for all of them as base64.
        threads: Slices encoded at the same time; all processors when None.

    Raises:
        ValueError: If they do not fit at the smallest size and quality.
    """
    tables = _tables()
    sample = np.unique(np.linspace(0, len(hu) - 1, _SAMPLES).round().astype(int)).tolist()
    longest = max(hu.shape[1:])
    sides = sorted({min(side, longest) for side in _SIDES}, reverse=True)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for side, quality in itertools.product(sides, _QUALITIES):
            size = (max(1, round(hu.shape[2] * side / longest)), max(1, round(hu.shape[1] * side / longest)))
            encode = partial(_encode, tables=tables, size=size, quality=quality)
            tried = [len(picture) for picture in pool.map(encode, [hu[z] for z in sample])]
            if _BASE64 * float(np.mean(tried)) * len(hu) > max_bytes:
                continue
            content = list(pool.map(encode, hu))
            if _BASE64 * sum(map(len, content)) <= max_bytes:
                return SlicePictures(content, size, _offset(size[1]), quality)
    raise ValueError(f"Expected space for {len(hu)} slices in the report, {max_bytes / 1e6:g} MB is not enough.")


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Grey values of the two pictures for every int16, indexed as uint16."""
    hu = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.float64)
    fine = (hu - FINE[0]) * (255 / (FINE[1] - FINE[0]))
    coarse = np.interp(hu, *np.array(COARSE).T)
    return np.clip(fine, 0, 255).round().astype(np.uint8), coarse.round().astype(np.uint8)


def _offset(height: int) -> int:
    return -(-height // _BLOCK) * _BLOCK


def _encode(plane: np.ndarray, *, tables: tuple[np.ndarray, np.ndarray], size: tuple[int, int], quality: int) -> bytes:
    """One slice ``(H, W)`` as JPEG: the fine picture, rows repeated to whole blocks, and the coarse one below."""
    if plane.shape[::-1] != size:
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    rows = np.minimum(np.arange(_offset(size[1])), size[1] - 1)
    places = np.ascontiguousarray(plane).view(np.uint16)
    both = np.concatenate([tables[0][places[rows]], tables[1][places]])
    return _jpeg(both, quality)


def _jpeg(grey: np.ndarray, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    done, content = cv2.imencode(".jpg", grey, options)
    if not done:
        raise OSError(f"Could not encode a picture of shape {grey.shape} as JPEG.")
    return content.tobytes()


def _overview(projection: np.ndarray) -> str:
    """A projection ``(Z, N)`` of HU as base64 JPEG, head up."""
    low, high = _OVERVIEW
    grey = np.clip((projection[::-1].astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    return base64.b64encode(_jpeg(grey.round().astype(np.uint8), 85)).decode()


def _title(scan: Mapping[str, Any]) -> str:
    """Which scan it is: what the archive calls the series, or the name of the file."""
    return series_text(scan.get("dicom")) or scan["name"]


def _page_data(result: ScanResult, pictures: SlicePictures) -> dict[str, Any]:
    """Data for the script of the page: geometry in canonical edges, and the lesions."""
    scan, found = result.scan, result.found
    depth, height, width = scan.hu.shape
    middles = np.column_stack([np.full(depth, width / 2), np.full(depth, height / 2), np.arange(depth) + 0.5])
    stored = scan.boxes_to_stored(np.concatenate([middles, middles], axis=1))[:, scan.slice_axis]
    return {
        "shape": [depth, height, width],
        "spacing": [round(edge, 6) for edge in scan.spacing],
        "numbers": np.floor(stored).astype(int).tolist(),
        "images": _image_numbers(scan, np.floor(stored).astype(int).tolist()),
        "affine": np.round(scan.affine[:3], 6).tolist(),
        "heights": scan.points_to_lps(middles)[:, 2].round(2).tolist(),
        "picture": [*pictures.size, pictures.offset],
        "fine": FINE,
        "coarse": COARSE,
        "blend": BLEND,
        "thickness": found.thickness,
        "threshold": result.document["settings"].get("score_threshold"),
        "lesions": [
            _lesion_data(scan, found, lesion, entry)
            for lesion, entry in zip(result.lesions, result.entries, strict=True)
        ],
        "caution": " ".join(cautions(scan, found)),
        "about": _about(result.document, pictures),
        "result": result_sha256(result.document),
        # What a review is saved with.
        "head": {name: value for name, value in result.document.items() if name not in ("lesions", "timing_s")},
    }


def _image_numbers(scan: ScanLike, stored: Sequence[int]) -> list[int | None] | None:
    """The number of the image of each slice, feet first, as the archive counts; None if slices are not images.

    Frames are not: all of a file have its number.
    """
    if scan.series is None or scan.slice_axis != STACKED or scan.frames:
        return None
    last = scan.stored_shape[STACKED] - 1
    names = [name_image(scan, min(max(index, 0), last)) for index in stored]
    numbers = [None if name is None else name["instance_number"] for name in names]
    return numbers if any(number is not None for number in numbers) else None


def _lesion_data(scan: ScanLike, found: SliceBoxes, lesion: Lesion, entry: Mapping[str, Any]) -> dict[str, Any]:
    key = found.nearest_slice(lesion.key)
    rows = list(lesion.members)
    members = np.column_stack([found.positions[found.slices[rows]], found.boxes[rows], found.scores[rows]])
    return {
        "number": entry["lesion"],
        "score": entry["score"],
        "probability": entry.get("probability"),
        "size": entry["size_mm"],
        "axes": [entry["axes"][name] for name in ("long_axis_mm", "short_axis_mm", "source")],
        "volume": entry["volume"]["estimate_ml"],
        "region": entry["region"],
        "tags": [[tag["tag"], tag["score"]] for tag in entry.get("tags", ())],
        "box": np.round(lesion.box, 2).tolist(),
        "key": key,
        "preset": 0 if display_window(scan.hu[key], lesion.key_box) == LUNG else 1,
        "members": np.round(members, 3).tolist(),
        # Of each member what is drawn in place of its box: the closed outline, then the axes.
        "lines": [
            [np.round(line, 2).tolist() for line in lines_of(outline_of(found, row, scan.spacing))] for row in rows
        ],
        "entry": {name: value for name, value in entry.items() if name != "outline"},
    }


def _about(document: Mapping[str, Any], pictures: SlicePictures) -> list[tuple[str, str]]:
    """Description of the run for the page."""
    scan, model = document["input"], document["model"]
    shape = " x ".join(str(number) for number in scan["shape"])
    spacing = " x ".join(f"{edge:g}" for edge in scan["spacing_mm"])
    archive = scan.get("dicom") or {}
    return [
        *((name, str(archive[key])) for key, name in _ARCHIVE.items() if archive.get(key)),
        ("Scan", f"{scan['name']}: {shape} voxels of {spacing} mm, SHA-256 {scan['sha256'][:12]}"),
        *(("Note", note) for note in scan["notes"]),
        ("Model", f"{model['name'] or 'unnamed'}, {model['weights']}, SHA-256 {(model['sha256'] or '')[:12]}"),
        *([("Tags from a score of", _threshold(document["settings"]["tag_threshold"]))] if "tags" in model else []),
        ("Slices examined", f"{document['settings']['examined_slices']} of {document['settings']['lattice_slices']}"),
        ("Pictures", f"{pictures.size[0]} x {pictures.size[1]} pixels, JPEG quality {pictures.quality}"),
    ]


def _threshold(value: float | Sequence[float]) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else "each its own"


def _part(name: str) -> str:
    return (_TEMPLATE / name).read_text(encoding="utf-8")


def window_buttons(count: int = len(WINDOWS)) -> str:
    """Buttons of the first windows as HTML."""
    return "".join(
        f'<button type="button" data-low="{low}" data-high="{high}" title="key {key}">{name}</button>'
        for key, (name, low, high) in enumerate(WINDOWS[:count], start=1)
    )
