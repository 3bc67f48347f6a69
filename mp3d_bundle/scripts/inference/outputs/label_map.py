"""The boxes in the voxels of the file that was read: a NIfTI label map, and prompts for segmenters.

A voxel belongs to a box if its centre is inside. A box between two rows of centres would not have any voxel;
it gets the voxel that contains its middle. With a tilted gantry this holds in each slice.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel
import numpy as np

from ..detections import Lesion, ScanResult, SliceBoxes
from ..scan_protocol import ScanLike
from .lesions_document import strict_json

# NIfTI's world is RAS, ours is LPS.
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PROMPTS_VERSION = "1.0"
# Boxes are floats after a few additions: a centre this close to an edge counts as on it.
_EDGE = 1e-6
# Two matrices agree if they place the far corner of the scan within this distance.
_SAME_PLACE_MM = 0.1
_IMAGE = ("name", "dicom", "sha256", "shape", "slice_axis", "index_to_lps_mm", "slice_places")
_FRAMES = {
    "bbox_3d": "[[i1, i2], [j1, j2], [k1, k2]] in voxels of the stored array, half-open: voxels i1 .. i2 - 1; i is "
    "the fastest axis of the file (reverse the three pairs for arrays in z, y, x order)",
    "bbox_key_slice": "the same for the best slice alone, one voxel thick along slice_axis",
    "key_slice_xyxy": "[x1, y1, x2, y2] in the key slice, x and y being the other two stored axes in their order, "
    "last pixels included",
    "center_voxel": "[i, j, k] of the voxel in the middle of the key slice's box",
    "box_lps_mm": "[x1, y1, z1, x2, y2, z2] in mm towards the patient's left, back and head",
    "lesionlocator": "by lesion number: box [k1, k2, j1, j2, i1, i2] half-open and point [k, j, i], voxels as text",
}


def box_voxels(scan: ScanLike, boxes: np.ndarray) -> np.ndarray:
    """The voxels of boxes in the stored array.

    Args:
        scan: The scan.
        boxes: ``(N, 6)`` canonical edges ``x1, y1, z1, x2, y2, z2``.

    Returns:
        ``(N, 6)`` int64 ``i1, j1, k1, i2, j2, k2``, half-open, at least one voxel along each axis and none
        outside the array: with a tilted gantry what encloses the voxels of all slices.
    """
    blocks = [_blocks(scan.evenly(), box) for box in np.asarray(boxes, dtype=np.float64).reshape(-1, 6)]
    stored = np.array([[*block[:, :3].min(axis=0), *block[:, 3:].max(axis=0)] for block in blocks], dtype=np.int64)
    stored = stored.reshape(-1, 6)
    if scan.places is None:
        return stored
    # Uneven slices differ from those of the canonical frame: check again which centres are inside.
    for box in stored:
        inside = np.flatnonzero((scan.places + 0.5 > box[2]) & (scan.places + 0.5 < box[5]))
        nearest = int(np.argmin(np.abs(scan.places + 0.5 - (box[2] + box[5]) / 2)))
        box[2], box[5] = (inside[0], inside[-1] + 1) if len(inside) else (nearest, nearest + 1)
    return stored


def _blocks(scan: ScanLike, box: np.ndarray) -> np.ndarray:
    """The voxels of a box ``(6,)`` of an even scan, ``(M, 6)`` as `box_voxels`.

    They are one block, chosen before the axes are permuted, so that the choice does not depend on the axis order of
    the file. With a tilted gantry each slice has its own: the same box lies elsewhere in the next one.
    """
    whole = _around_centres(box[None], scan.hu.shape[::-1])
    if not scan.sheared:
        return np.rint(scan.boxes_to_stored(whole)).astype(np.int64)
    middles = np.arange(whole[0, 2], whole[0, 5]) + 0.5
    planes = np.repeat(box[None], len(middles), axis=0)
    planes[:, 2] = planes[:, 5] = middles
    edges = scan.boxes_to_stored(planes)
    # The straight stack is larger than its slices, so that a box may lie next to some of them.
    there = (edges[:, 3:] > 0).all(axis=1) & (edges[:, :3] < scan.stored_shape).all(axis=1)
    return _around_centres(edges[there] if there.any() else edges, scan.stored_shape).astype(np.int64)


def _around_centres(boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The voxels ``(N, 6)`` of an array whose centres are in boxes ``(N, 6)``, at least one along each axis."""
    first = np.ceil(boxes[:, :3] - 0.5 - _EDGE)
    end = np.ceil(boxes[:, 3:] - 0.5 - _EDGE)
    middle = np.floor((boxes[:, :3] + boxes[:, 3:]) / 2 + _EDGE)
    thin = end <= first
    first, end = np.where(thin, middle, first), np.where(thin, middle + 1, end)
    first = np.clip(first, 0, np.array(size) - 1)
    return np.concatenate([first, np.clip(end, first + 1, size)], axis=1)


def label_map(result: ScanResult) -> dict[str, bytes]:
    """Write the 3D boxes as a NIfTI label map in the grid of the scan's own file.

    Voxels hold the number of the lesion, 0 outside all boxes; where boxes overlap, the better score wins.

    Args:
        result: The results of the scan.

    Returns:
        ``lesion_boxes.nii.gz``, int16. Of unevenly spaced slices, which NIfTI cannot express, the grid is the even one
        that they were interpolated onto. The grid of a tilted gantry is sheared, which the qform cannot say: it then
        is marked as unknown, and the sform alone counts.
    """
    scan = result.scan.evenly()
    labels = np.zeros(scan.stored_shape, dtype=np.int16, order="F")
    for lesion, entry in reversed(list(zip(result.lesions, result.entries, strict=True))):
        for i1, j1, k1, i2, j2, k2 in _blocks(scan, lesion.box):
            labels[i1:i2, j1:j2, k1:k2] = entry["lesion"]
    affine = _RAS_FROM_LPS @ scan.affine @ np.linalg.inv(scan.stored_from_canonical)
    image = nibabel.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    # A qform cannot have shear: programs that prefer it (ITK) would misplace the boxes of a tilted scan.
    far = np.array([*scan.stored_shape, 1])
    if np.abs((image.get_qform() - affine) @ far).max() > _SAME_PLACE_MM:
        image.set_qform(affine, code="unknown")
    image.header["descrip"] = b"Lesion boxes. Not a medical device. For research use only."
    image.header["intent_name"] = b"lesion boxes"
    # Without a time stamp the same result gives the same bytes.
    return {"lesion_boxes.nii.gz": gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)}


def prompts(result: ScanResult) -> dict[str, bytes]:
    """Write a box per lesion in the formats of promptable segmenters.

    Args:
        result: The results of the scan.

    Returns:
        ``prompts.json``; its ``frames`` describe each format.
    """
    head, pairs = result.document["input"], zip(result.lesions, result.entries, strict=True)
    entries = [_prompt(result.scan, result.found, lesion, entry) for lesion, entry in pairs]
    content = {
        "schema_version": _PROMPTS_VERSION,
        "notices": result.notices,
        "image": {key: head[key] for key in _IMAGE if key in head},
        "frames": _FRAMES,
        "prompts": entries,
        "lesionlocator": {str(entry["lesion"]): _lesionlocator(entry) for entry in entries},
    }
    return {"prompts.json": strict_json(content)}


def _prompt(scan: ScanLike, found: SliceBoxes, lesion: Lesion, entry: Mapping[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = lesion.key_box
    # The same key slice as in other outputs, even if the lattice is between two slices.
    z = found.nearest_slice(lesion.key)
    solid, key = box_voxels(scan, np.array([lesion.box, [x1, y1, z, x2, y2, z + 1]]))
    axis = scan.slice_axis
    key[axis], key[axis + 3] = entry["key_slice"], entry["key_slice"] + 1
    plane = [other for other in range(3) if other != axis]
    return {
        "lesion": entry["lesion"],
        **({"class": entry["class"]} if "class" in entry else {}),
        "score": entry["score"],
        "bbox_3d": _pairs(solid),
        "bbox_key_slice": _pairs(key),
        "key_slice": entry["key_slice"],
        **({"image": entry["image"]} if "image" in entry else {}),
        "key_slice_xyxy": [int(key[other]) for other in plane] + [int(key[other + 3]) - 1 for other in plane],
        "center_voxel": [int(edge) for edge in (key[:3] + key[3:]) // 2],
        "box_lps_mm": entry["box_lps_mm"],
    }


def _lesionlocator(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """The prompt in LesionLocator's own format: axes from the slowest to the fastest, numbers as text."""
    box = [str(edge) for pair in reversed(entry["bbox_3d"]) for edge in pair]
    return {"box": box, "point": [str(index) for index in reversed(entry["center_voxel"])]}


def _pairs(edges: np.ndarray) -> list[list[int]]:
    return [[int(edges[axis]), int(edges[axis + 3])] for axis in range(3)]
