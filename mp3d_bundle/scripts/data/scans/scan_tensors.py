"""Scans as tensors that carry their geometry, for programs that pass tensors from stage to stage (MONAI Label).

The tensor is MONAI's usual one: channel first, axes x, y, z, an affine from voxel-centre index to RAS millimetres.
Its metadata has everything else that converts results back to the file.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from .scan import Scan, canonical, read_scan
from .volume_files.stored_image import DEFAULT_RULES, LPS_FROM_RAS, ReadingRules, StoredImage

_FRAME = "stored_from_canonical"


class LoadScand(Transform):
    """Read the CT that a path names, see `read_scan`.

    Args:
        key: Key of the path in the data, and of the image that replaces it.
        rules: How strictly the scan is read.
    """

    def __init__(self, key: Hashable = "image", rules: ReadingRules = DEFAULT_RULES) -> None:
        self.key = key
        self.rules = rules

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the scan as `scan_tensor` in place of its path.

        Raises:
            FileNotFoundError: If nothing is at the path.
            OSError: If the file is damaged.
            ValueError: If it is not a CT.
        """
        return {**data, self.key: scan_tensor(read_scan(data[self.key], self.rules))}


def scan_tensor(scan: Scan) -> MetaTensor:
    """A scan as ``(1, X, Y, Z)`` int16 HU in canonical orientation, without copying the voxels."""
    meta = {
        "filename_or_obj": str(scan.path),
        "files": [str(path) for path in scan.files],
        "notes": list(scan.notes),
        "stored_shape": list(scan.stored_shape),
        _FRAME: scan.stored_from_canonical.tolist(),
        # Only if there are any: batches consist of texts and numbers.
        **({} if scan.series is None else {"series": scan.series}),
        **({} if scan.places is None else {"places": scan.places.tolist()}),
        # 0 where a file holds one slice.
        **({"frames": [frame or 0 for frame in scan.frames]} if scan.frames else {}),
    }
    image = torch.from_numpy(scan.hu).permute(2, 1, 0)[None]
    return MetaTensor(image, affine=torch.from_numpy(LPS_FROM_RAS @ scan.affine), meta=meta)


def scan_of(image: torch.Tensor) -> Scan:
    """The scan in a tensor: one of `scan_tensor`, or any MONAI image of Hounsfield units.

    Args:
        image: MetaTensor ``(X, Y, Z)`` of HU in any orientation with its affine to RAS mm, or the same with one or
            two leading axes of length 1 (channel; batch and channel), on any device.

    Raises:
        ValueError: If the shape is another one, the affine is missing, or it is not a CT; see `canonical`.
    """
    if not isinstance(image, MetaTensor):
        raise ValueError(f"Expected an image with its affine (a MetaTensor), got a {type(image).__name__}.")
    shape = tuple(image.shape)
    if not 3 <= len(shape) <= 5 or any(length != 1 for length in shape[:-3]) or 0 in shape:
        raise ValueError(f"Expected one volume (X, Y, Z), with up to two leading axes of length 1, got {shape}.")
    meta = image.meta
    values = image.detach().cpu().numpy().reshape(shape[-3:])
    affine = LPS_FROM_RAS @ np.asarray(image.affine.cpu(), dtype=np.float64)
    path = Path(str(meta.get("filename_or_obj", "image")))
    files = tuple(Path(name) for name in meta.get("files", ()))
    notes = tuple(meta.get("notes", ()))
    if _FRAME not in meta:
        return canonical(StoredImage(values, affine, files, notes=notes), path)
    i, j, k = meta["stored_shape"]
    places = meta.get("places")
    return Scan(
        hu=np.ascontiguousarray(values.transpose(2, 1, 0)),
        affine=affine,
        stored_from_canonical=np.asarray(meta[_FRAME], dtype=np.float64),
        stored_shape=(i, j, k),
        path=path,
        files=files,
        notes=notes,
        series=meta.get("series"),
        places=None if places is None else np.asarray(places, dtype=np.float64),
        frames=tuple(frame or None for frame in meta.get("frames", ())),
    )
