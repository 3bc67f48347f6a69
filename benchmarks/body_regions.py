"""In which regions of the body the rule places real scans: of a tumour with a mask, otherwise slice by slice.

``SCANS`` names folders, files and archives, separated by colons; a mask is a file ``tumour.nii.gz`` or ``mask.nii.gz``
next to the image. Without a mask the middle of the body of every measured slice is asked for.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import nibabel
import numpy as np

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import Scan
from scripts.inference.body_profile import PIXEL_MM, measure_slice, sampled
from scripts.inference.body_regions import BodyRegions

MASKS = ("tumour.nii.gz", "mask.nii.gz")


def of_mask(scan: Scan, path: Path) -> str:
    """The region of what a mask marks, in the slice where most is marked."""
    marked = np.asarray(nibabel.load(path).dataobj) > 0  # type: ignore[attr-defined]
    others = tuple(axis for axis in range(3) if axis != scan.slice_axis)
    best = int(marked.sum(axis=others).argmax())
    places = np.argwhere(marked)
    places = places[places[:, scan.slice_axis] == best]
    box = scan.boxes_from_stored(np.concatenate([places.min(axis=0), places.max(axis=0) + 1])[None])[0]
    found = BodyRegions(scan).of(box[[0, 1, 3, 4]], (box[2] + box[5]) / 2 - 0.5)
    return f"mask: {found.name} ({found.basis})"


def by_slice(scan: Scan) -> str:
    """The regions of the middle of the body from the lowest to the highest slice."""
    regions, told = BodyRegions(scan), []
    for z in sampled(len(scan.hu), scan.spacing[2]):
        facts = measure_slice(scan.hu[z], scan.spacing[:2])
        rows = np.flatnonzero((facts.pieces == facts.trunk).any(axis=1))
        x, y = facts.extent[0] * PIXEL_MM / scan.spacing[0], rows.mean() * PIXEL_MM / scan.spacing[1]
        told.append((int(z), regions.of((x - 5, y - 5, x + 5, y + 5), float(z)).name))
    runs = [(name, [z for z, _ in run]) for name, run in itertools.groupby(told, key=lambda pair: pair[1])]
    return "; ".join(f"{name} {slices[0]}..{slices[-1]}" for name, slices in runs)


def main() -> None:
    """Print a line for each scan."""
    for place in os.environ["SCANS"].split(":"):
        for source in find_scans(place):
            if source.path.name in MASKS:
                continue
            with source.open() as scan:
                began = time.process_time()
                masks = [source.path.parent / name for name in MASKS if (source.path.parent / name).is_file()]
                told = of_mask(scan, masks[0]) if masks else by_slice(scan)
                seconds = time.process_time() - began
                print(f"{source.name or source.path.name}, {len(scan.hu)} slices, {seconds:.2f} s: {told}")


if __name__ == "__main__":
    main()
