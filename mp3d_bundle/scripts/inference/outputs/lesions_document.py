"""The result document of a scan as plain data: schema, frames and units in one place.

Boxes are given twice: in the voxels of the stored file (``i1, j1, k1, i2, j2, k2``, half-open edges: voxel
``i`` covers ``[i, i + 1)``, ``i`` being the fastest axis of the file; for a DICOM series the column, ``j`` the
row, ``k`` the slice from its lowest position) and in LPS millimetres (low corner, high corner).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...instances import select
from ...storage.atomic_files import hash_files
from ..body_regions import BodyRegions
from ..detections import LABELS, Lesion, ScanResult, SliceBoxes, numbered
from ..scan_protocol import ScanLike
from .measurements import Tagging, axes_of_box, describe_box, said_otherwise, tagging_for, tagging_in, volume
from .measurements import plain_numbers as _numbers
from .named_classes import classes_for, classes_in, describe_class, names_in_weights
from .source_names import name_image, name_series

SCHEMA_VERSION = "1.5"
NOTICE = "Not a medical device. For research use only."
_FRAMES = {
    "box_voxel": "i1, j1, k1, i2, j2, k2 in the stored array, i the fastest axis; voxel i covers [i, i + 1)",
    "box_lps_mm": "x1, y1, z1, x2, y2, z2 in mm towards the patient's left, back and head",
    "key_slice": "0-based index along stored axis slice_axis",
    "axes": "long and short axis in the key slice; source mask: measured on the outline of the network's mask, axes: "
    "as the network gives them, box: the sides of the box, an estimate and not a measurement of the lesion",
    "long_axis_estimate_mm": "longer side of the box in the key slice (short_axis_estimate_mm: the shorter one); an "
    "estimate from the box, not a measurement of the lesion; left out where the network measures",
    "volume": "estimate in millilitres; source mask: areas of the outlines, each as thick as a slice that the network "
    "saw, box: the ellipsoid that fits the 3D box",
    "region": "coarse region of the body by a rule; source scan: from what the slices show, tags: from named tags of "
    "the network, none: unknown; basis says why",
    "image": "DICOM input: the image of the key slice as the archive counts it",
    "voxel": "of outlines and axes: i, j, k in the stored array, in the frame of box_voxel",
    "lps_mm": "of outlines and axes: x, y, z in the frame of box_lps_mm",
}

_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
_METADATA = Path(__file__).resolve().parents[3] / "configs" / "metadata.json"
_NUMBERS = re.compile(r"\[\s+((?:-?[0-9][0-9.eE+-]*,?\s+)+)\]")
# The stored axis along which the images of a DICOM series are stacked.
STACKED = 2
# Pixels count as not square if their sides differ by more than this factor.
_SQUARE = 1.25


def shown_name(scan: ScanLike) -> str:
    """Name of a scan in results: the UID of a DICOM series, because folders are named after patients, or its file name.

    Only the last part of a path is used, in printable form.
    """
    if scan.series is not None:
        return scan.series if _UID.fullmatch(scan.series) else "DICOM series"
    return _writable(scan.path.resolve().name)


def _writable(text: str) -> str:
    """A printable text; file names in it may not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def describe_input(scan: ScanLike, sha256: str | None = None) -> dict[str, Any]:
    """Name, hash and geometry of a scan, see `shown_name`.

    Args:
        scan: The scan.
        sha256: Hash of its files if already known.
    """
    stored_affine = scan.affine @ np.linalg.inv(scan.stored_from_canonical)
    spacing = np.linalg.norm(stored_affine[:3, :3], axis=0)
    uneven = {}
    if scan.places is not None:
        spacing[2] *= (scan.places[-1] - scan.places[0]) / (len(scan.places) - 1)
        uneven = {"slice_places": _numbers(scan.places)}
    series = name_series(scan)
    return {
        "name": shown_name(scan),
        **({} if series is None else {"dicom": series}),
        "sha256": sha256 or scan.sha256 or hash_files(scan.files),
        "files": len(set(scan.files)),
        "shape": list(scan.stored_shape),
        "spacing_mm": _numbers(spacing),
        "slice_axis": scan.slice_axis,
        "index_to_lps_mm": [_numbers(row, digits=6) for row in stored_affine],
        **uneven,
        "notes": [_writable(note) for note in scan.notes],
    }


def cautions(scan: ScanLike, found: SliceBoxes) -> list[str]:
    """Caveats of a result, one sentence each."""
    notes = []
    if not found.examined.any():
        notes.append("No slice shows a body: nothing was examined, so an empty result has no meaning.")
    if len(scan.hu) == 1:
        notes.append("Only one slice: the network saw copies of it in place of its neighbours.")
    across, down = (edge / scale for edge, scale in zip(scan.spacing, found.scale, strict=False))
    if not 1 / _SQUARE <= across / down <= _SQUARE:
        notes.append(
            f"The network saw pixels of {across:.2f} x {down:.2f} mm, that is squeezed slices, while it was trained on "
            "square pixels."
        )
    return notes


def json_files(result: ScanResult) -> dict[str, bytes]:
    """Write ``lesions.json``, the lesions in 3D, and ``detections.json``, every slice box."""
    head = {name: value for name, value in result.document.items() if name != "lesions"}
    tagging, classes = tagging_in(result.document), classes_in(result.document)
    detections = describe_detections(result.scan, result.found, result.lesions, tagging=tagging, classes=classes)
    return {
        "lesions.json": strict_json(result.document),
        "detections.json": strict_json({**head, "detections": detections}),
    }


def describe_detections(
    scan: ScanLike,
    found: SliceBoxes,
    lesions: Sequence[Lesion],
    *,
    tagging: Tagging | None = None,
    classes: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """One entry per slice box, slice by slice, with the number of its lesion."""
    lesion_of = {row: number for number, lesion in numbered(lesions) for row in lesion.members}
    solid = found.solid()
    stored, lps = scan.boxes_to_stored(solid), scan.boxes_to_lps(solid)
    images = _images(scan, found)
    return [
        {
            "slice": stored_slice(scan, found, int(found.slices[row])),
            **images[row],
            "score": round(float(found.scores[row]), 6),
            **describe_class(int(found.fields[LABELS][row]) if LABELS in found.fields else None, classes),
            "lesion": lesion_of.get(row),
            "box_voxel": _numbers(stored[row]),
            "box_lps_mm": _numbers(lps[row]),
            **describe_box(scan, found, row, tagging),
            **_fields(select(found.fields, row)),
        }
        for row in range(len(solid))
    ]


def describe_lesions(
    scan: ScanLike,
    found: SliceBoxes,
    lesions: Sequence[Lesion],
    *,
    calibration: Mapping[str, Sequence[float]] | None = None,
    tagging: Tagging | None = None,
    classes: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """One entry per lesion, best score first, numbered from 1 or as in the result that was reviewed.

    Args:
        scan: The scan.
        found: Its slice boxes.
        lesions: Its lesions.
        calibration: Knots ``scores`` and ``probabilities`` of a piecewise linear function; every entry then has a
            ``probability``, that of a box of its score to be right on the images that the function was fitted on.
        tagging: Which tags are named; needed where ``found`` has scores of tags.
        classes: Names of the classes; needed where ``found`` has labels.
    """
    entries = []
    regions = BodyRegions(scan)
    for number, lesion in numbered(lesions):
        box = lesion.box[None]
        x1, y1, x2, y2 = lesion.key_box
        key = scan.points_to_lps(np.array([[(x1 + x2) / 2, (y1 + y2) / 2, found.positions[lesion.key] + 0.5]]))
        centre = scan.points_to_lps((box[:, :3] + box[:, 3:]) / 2)
        said = describe_box(scan, found, lesion.best(found), tagging)
        sides = {} if "axes" in said else axes_of_box((x2 - x1) * scan.spacing[0], (y2 - y1) * scan.spacing[1])
        entries.append(
            {
                "lesion": number,
                **describe_class(lesion.label, classes),
                "score": round(lesion.score, 6),
                **_probability(lesion.score, calibration),
                "box_voxel": _numbers(scan.boxes_to_stored(box)[0]),
                "box_lps_mm": _numbers(scan.boxes_to_lps(box)[0]),
                "center_lps_mm": _numbers(centre[0]),
                "size_mm": _numbers((lesion.box[3:] - lesion.box[:3]) * scan.spacing),
                **sides,
                **said,
                "volume": volume(scan, found, lesion),
                "region": regions.of(lesion.key_box, found.positions[lesion.key], said.get("tags", ())).plain(),
                "key_slice": stored_slice(scan, found, lesion.key),
                **image_of(scan, found, lesion.key, lesion.key_box),
                "key_point_lps_mm": _numbers(key[0]),
                "num_slices": len({int(found.slices[row]) for row in lesion.members}),
                **({"review": dict(lesion.review)} if lesion.review else {}),
                **_fields(lesion.fields),
            }
        )
    return entries


def image_of(scan: ScanLike, found: SliceBoxes, lattice_slice: int, box: np.ndarray) -> dict[str, Any]:
    """The image of a slice box as the archive calls it; of images across the slices that through its middle.

    Returns:
        ``image`` as an entry has it; nothing for a scan that was not read from DICOM.
    """
    if scan.series is None:
        return {}
    index = stored_slice(scan, found, lattice_slice)
    if scan.slice_axis != STACKED:
        x, y, z = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, found.positions[lattice_slice] + 0.5
        place = scan.boxes_to_stored(np.array([[x, y, z, x, y, z]]))[0, STACKED]
        index = int(np.clip(np.floor(place), 0, scan.stored_shape[STACKED] - 1))
    image = name_image(scan, index)
    return {} if image is None else {"image": image}


def _images(scan: ScanLike, found: SliceBoxes) -> list[dict[str, Any]]:
    """`image_of` each slice box; the boxes of a slice share it where slices are images."""
    if scan.series is None or scan.slice_axis != STACKED:
        return [image_of(scan, found, int(number), box) for number, box in zip(found.slices, found.boxes, strict=True)]
    numbers, first, place = np.unique(found.slices, return_index=True, return_inverse=True)
    shared = [image_of(scan, found, int(number), found.boxes[row]) for number, row in zip(numbers, first, strict=True)]
    return [shared[at] for at in place]


def _fields(fields: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Further outputs of the network for a box, as numbers and lists of them; an empty dict if there are none."""
    arrays = {name: np.asarray(values) for name, values in fields.items() if not said_otherwise(name, values)}
    plain = {name: (np.round(v, 6) + 0.0 if v.dtype.kind == "f" else v).tolist() for name, v in arrays.items()}
    return {"fields": plain} if plain else {}


def _probability(score: float, calibration: Mapping[str, Sequence[float]] | None) -> dict[str, float]:
    if not calibration:
        return {}
    return {"probability": round(float(np.interp(score, calibration["scores"], calibration["probabilities"])), 4)}


def no_probability(model: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> str | None:
    """Why lesions have no probability, in one sentence; None if they have one.

    A calibration is valid for images like those it was measured on, at the same scale. Weights with a notice declare
    that this is not the case: readers would trust a number near 100 % more than a notice "finds no real lesions" next
    to it. Every output uses this function.

    Args:
        model: ``calibration``, ``notice`` and ``inference`` of the weights.
        settings: Settings of the detector. ``deviations`` from the weights' recipe are used, or ``pixel_spacing_mm``
            if they are missing.
    """
    if not model.get("calibration"):
        return "The weights have no calibration."
    if model.get("notice"):
        return "The weights have a notice of their own: their calibration does not hold for other images."
    if len(names_in_weights(model)) > 1:
        return "The calibration of the weights does not tell classes apart."
    deviations = (settings or {}).get("deviations")
    if deviations is None:
        wanted = (model.get("inference") or {}).get("pixel_spacing")
        used = (settings or {}).get("pixel_spacing_mm", wanted)
        deviations = {"pixel_spacing": {"weights": wanted, "used": used}} if used != wanted else {}
    told = [f"{name} {values['weights']}, this run used {values['used']}" for name, values in deviations.items()]
    return f"The calibration was measured at {'; at '.join(told)}." if told else None


def calibration_of(
    model: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> Mapping[str, Sequence[float]] | None:
    """The calibration of the weights if it is valid, otherwise None; see `no_probability`."""
    return None if no_probability(model, settings) else model["calibration"]


def notices_of(model: Mapping[str, Any]) -> list[str]:
    """Notices for every output: that it is not a medical device, and the notice of the weights."""
    return [NOTICE, *([str(model["notice"])] if model.get("notice") else [])]


def describe_run(
    scan: ScanLike,
    found: SliceBoxes,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    sha256: str | None = None,
) -> dict[str, Any]:
    """The common head of all result files.

    Args:
        scan: The scan.
        found: Its slice boxes.
        model: ``name``, ``notice``, ``path``, ``sha256`` and ``calibration`` of the weights.
        settings: Settings of the detector, plain values.
        sha256: Hash of the scan's files if already known.

    Raises:
        ValueError: If the weights name another number of tags than the network scores.
    """
    tagging, classes = tagging_for(found, model, settings), classes_for(found, model)
    return {
        "schema_version": SCHEMA_VERSION,
        "notices": notices_of(model),
        "model": {
            "name": model.get("name"),
            "weights": Path(model["path"]).name if model.get("path") else None,
            "sha256": model.get("sha256"),
            "no_probability": no_probability(model, settings),
            **({} if classes is None else {"classes": list(classes)}),
            **({} if tagging is None else {"tags": list(tagging.names)}),
        },
        "input": {**describe_input(scan, sha256), "notes": [*scan.notes, *cautions(scan, found)]},
        "settings": {
            **settings,
            **({} if tagging is None else {"tag_threshold": tagging.threshold}),
            "pixel_scale": _numbers(found.scale, digits=6),
            "lattice_slices": len(found.positions),
            "examined_slices": int(found.examined.sum()),
        },
        "frames": _FRAMES,
    }


def stored_slice(scan: ScanLike, found: SliceBoxes, lattice_slice: int) -> int:
    """The stored slice nearest to a lattice slice, 0-based along ``scan.slice_axis``."""
    middle = found.nearest_slice(lattice_slice) + 0.5
    edge = scan.boxes_to_stored(np.array([[0, 0, middle, 0, 0, middle]]))[0, scan.slice_axis]
    return int(np.clip(np.floor(edge), 0, scan.stored_shape[scan.slice_axis] - 1))


def bundle_version() -> str:
    """The version of this bundle from its metadata."""
    return json.loads(_METADATA.read_text(encoding="utf-8"))["version"]


def result_sha256(document: Mapping[str, Any]) -> str:
    """Which result it is: the SHA-256 of the content of its ``lesions.json`` without ``timing_s``."""
    return hashlib.sha256(strict_json({k: v for k, v in document.items() if k != "timing_s"})).hexdigest()


def strict_json(content: Mapping[str, Any]) -> bytes:
    """JSON without NaN, a list of numbers to a line."""
    text = json.dumps(content, indent=1, allow_nan=False)
    return (_NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text) + "\n").encode()
