"""Whole scans with boxes, as a data set in DeepLesion's format that the bundle's own training reads.

DeepLesion has one key slice per lesion with a box drawn where the lesion is widest. A 3D box gives only
the start and end of a lesion, so key slices are taken from the middle half of its length, where its outline in the
plane is close to the box. Every lesion that such a slice cuts is labelled in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from ...box_frames import to_deeplesion
from ...boxes import scale
from ..importing.set_tables import write_about
from ..scans.markup_boxes import boxes_in_scan, read_markups
from ..scans.scan import Scan, read_scan
from ..synthetic.annotations import TRAIN, VALIDATION
from ..synthetic.writing import write_slices, write_table
from .columns import LABELS

AIR_HU = -1024
# The network's lattice: key slices closer than this show nearly the same.
STEP_MM = 2.5
# Shape (H, W) and spacing (x, y) mm of a slice to its size (h, w) for the network.
Frame = Callable[[tuple[int, int], tuple[float, float]], tuple[int, int]]


@dataclass(frozen=True)
class LabelledScan:
    """A scan on disk with its boxes.

    Attributes:
        path: The scan.
        boxes: ``(N, 6)`` canonical edges.
        keys: Key slices, 0-based from the feet.
        size: ``(h, w)`` of its slices for the network.
    """

    path: Path
    boxes: np.ndarray
    keys: tuple[int, ...]
    size: tuple[int, int]


def read_labelled(items: Sequence[Mapping[str, str]], frame: Frame) -> list[LabelledScan]:
    """Read scans and the boxes drawn in them.

    Args:
        items: ``image`` (path of a CT) and ``label`` (path of Slicer markups) of each.
        frame: Size of slices for the network.

    Returns:
        The scans with at least one box, in order.

    Raises:
        OSError: If a file is missing or damaged.
        ValueError: If one is invalid, or none has a box.
    """
    found = []
    for item in items:
        label = Path(item["label"])
        if label.suffix.lower() != ".json":
            raise ValueError(f"Expected boxes as Slicer markups (.json), got the label {label.name}.")
        corners = read_markups(label)
        scan = read_scan(item["image"])
        boxes = boxes_in_scan(scan, corners, label.name)
        if len(boxes):
            size = frame((scan.hu.shape[1], scan.hu.shape[2]), scan.spacing[:2])
            found.append(LabelledScan(Path(item["image"]), boxes, key_slices(boxes, scan), size))
    if not found:
        raise ValueError(f"Expected at least one box in the submitted labels, got none in {len(items)} label(s).")
    return found


def key_slices(boxes: np.ndarray, scan: Scan) -> tuple[int, ...]:
    """The key slices of a scan: for each box the slice through its middle and others in its middle half.

    Args:
        boxes: ``(N, 6)`` canonical edges.
        scan: The scan.
    """
    keys = set()
    step = max(1, math.ceil(STEP_MM / scan.spacing[2] - 1e-6))
    for low, high in boxes[:, [2, 5]]:
        middle, reach = (low + high) / 2, (high - low) / 4
        centre = int(min(max(math.floor(middle), 0), len(scan.hu) - 1))
        keys.add(centre)
        steps = int(reach / step)
        keys.update(centre + step * number for number in range(-steps, steps + 1))
    return tuple(sorted(key for key in keys if 0 <= key < len(scan.hu)))


def write_labelled(
    folder: Path, scans: Sequence[LabelledScan], *, validation: Collection[int], reach_mm: float, smooth: bool
) -> int:
    """Write ``Images_png``, ``DL_info.csv``, and ``set.json``, which says that boxes are as drawn, without padding.

    Slices are resampled to network pixels and padded with air to one size, so that lesions have the same size in
    training and inference.

    Args:
        folder: Folder to write to; created if missing.
        scans: The scans.
        validation: Indices of scans for validation; without any, the file gets one unused placeholder row.
        reach_mm: Distance around a key slice within which slices are needed.
        smooth: Average over pixels when slices are reduced.

    Returns:
        Longer side of the images in pixels.

    Raises:
        OSError: If a file cannot be read or written.
    """
    canvas = (max(scan.size[0] for scan in scans), max(scan.size[1] for scan in scans))
    rows: list[dict[str, str]] = []
    for index, labelled in enumerate(scans):
        scan = read_scan(labelled.path)
        around = math.ceil(reach_mm / scan.spacing[2]) + 1
        count = len(scan.hu)
        blocks = {key: (max(0, key - around), min(count - 1, key + around)) for key in labelled.keys}
        needed = sorted({place for low, high in blocks.values() for place in range(low, high + 1)}, reverse=True)
        series, split = f"{index + 1:06d}_01_01", VALIDATION if index in validation else TRAIN
        planes = _shown(scan.hu[needed], labelled.size, canvas, smooth)
        # Numbered from the head, as DeepLesion's.
        write_slices(folder / "Images_png" / series, [count - place for place in needed], planes)
        for key, (first, final) in reversed(blocks.items()):
            common = {
                "File_name": f"{series}_{count - key:03d}.png",
                "Slice_range": f"{count - final}, {count - first}",
                "Image_size": f"{canvas[1]}, {canvas[0]}",
                "Train_Val_Test": str(split),
            }
            rows.extend(_rows(labelled, scan, key, common))
    if not validation:
        rows.append({**rows[0], "Train_Val_Test": str(VALIDATION)})
    write_table(folder / LABELS, rows)
    write_about(folder, ["train", "validation"], {"classes": ["lesion"], "kinds": ["markups"]})
    return max(canvas)


def _shown(hu: np.ndarray, size: tuple[int, int], canvas: tuple[int, int], smooth: bool) -> np.ndarray:
    """Slices ``(n, H, W)`` at ``size`` in the upper left corner of ``canvas``, int16 HU."""
    planes = torch.from_numpy(hu.clip(AIR_HU, None).astype(np.float32))[None]
    if planes.shape[-2:] != size:
        planes = interpolate(planes, size, mode="bilinear", align_corners=False, antialias=smooth)
    out = np.full((len(hu), *canvas), AIR_HU, dtype=np.int16)
    out[:, : size[0], : size[1]] = planes[0].round().numpy()
    return out


def _rows(labelled: LabelledScan, scan: Scan, key: int, common: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows of one key slice: every lesion that the middle of the slice cuts, or those it was chosen for."""
    low, high = labelled.boxes[:, 2], labelled.boxes[:, 5]
    cut = (low <= key + 0.5) & (key + 0.5 <= high)
    if not cut.any():  # boxes thinner than a slice
        cut = (low < key + 1) & (high > key)
    factor_y, factor_x = (new / old for new, old in zip(labelled.size, scan.hu.shape[1:], strict=True))
    boxes = to_deeplesion(scale(labelled.boxes[cut][:, [0, 1, 3, 4]], factor_x, factor_y))
    spacing = (scan.spacing[0] / factor_x, scan.spacing[1] / factor_y, scan.spacing[2])
    return [
        {
            **common,
            "Key_slice_index": str(len(scan.hu) - key),
            "Bounding_boxes": _join(box),
            "Coarse_lesion_type": "-1",
            "Possibly_noisy": "0",
            "Spacing_mm_px_": _join(spacing),
            "DICOM_windows": "-175, 275",
        }
        for box in boxes
    ]


def _join(values: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{float(value):.6f}" for value in values)
