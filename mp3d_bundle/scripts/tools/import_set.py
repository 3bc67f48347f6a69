"""The work behind ``python -m scripts.import_ct``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..data.importing.lesion_classes import ClassRule
from ..data.importing.patient_splits import SplitRule
from ..data.importing.set_records import KeyRule
from ..data.importing.split_shares import check_shares
from ..data.importing.truth.slice_places import SliceRule
from ..data.importing.truth.truth_files import TruthRules
from ..data.scans.volume_files.stored_image import ReadingRules
from ..workflows.importing.import_scans import ImportRules, Sources, import_scans
from ..workflows.importing.set_report import write_set_report
from .early_checks import check_import


def main(
    images: str,
    output: str,
    truth: str | None = None,
    *,
    image_pattern: str | None = None,
    truth_pattern: str | None = None,
    kind: str | None = None,
    match: str | None = None,
    image_ending: str = "",
    truth_ending: str = "",
    without_truth: str = "reject",
    lost_truth: bool = False,
    lesions: str = "parts",
    mask_frame: str = "mm",
    box_frame: str | None = None,
    box_layout: str = "corners",
    slice_frame: str = "stored",
    slices_from: int | None = None,
    pixels_from: int = 1,
    readers: int = 3,
    classes: Sequence[str] | None = None,
    ignore: Sequence[str] = ("ignore", "ignored"),
    key_slices: str = "middle",
    negatives: int = 4,
    complete: bool = False,
    patients: str = "header",
    split: Sequence[float] = (0.7, 0.15, 0.15),
    split_file: str | None = None,
    folds: int = 0,
    seed: int = 0,
    hu_offset: float | None = None,
    spacing: Sequence[float] | None = None,
) -> None:
    """Import CTs with masks, contours or boxes as a data set to train and evaluate on.

    docs/own_data.md describes every kind of truth. The same command resumes an import that was stopped.

    Args:
        images: Folder of the scans, or one: NIfTI, NRRD, MetaImage, DICOM folders and zips, PNG.
        output: Folder of the set.
        truth: Folder or file of the truth; without it no scan has a lesion.
        image_pattern: Only files like this below the folder of the images, such as "*/ct.nii.gz".
        truth_pattern: Likewise for the truth.
        kind: What the truth is where its content does not say: mask, seg, rtstruct, boxes, recist, voc, coco, yolo,
            markups, lesions or lidc.
        match: How a truth finds its scan: stem (the same name), place (the same folder), uid (what it names itself)
            or pattern (what * stands for in both patterns).
        image_ending: What names of images end in beyond those of the truth, such as _0000.
        truth_ending: What names of the truth end in beyond those of the images, such as _seg.
        without_truth: Scans without truth: reject, negative (they have no lesion) or leave_out.
        lost_truth: Leave out truth that belongs to no scan instead of ending with an error.
        lesions: parts (each connected part of a label is a lesion) or values (each label is one).
        mask_frame: mm (the mask's own position) or voxel (its voxels are those of the scan's file).
        box_frame: Of boxes in JSON and CSV: voxel, voxel_inclusive, lps or ras.
        box_layout: Of boxes in JSON: corners, centre_size, corner_size or xyxyzz.
        slice_frame: Of labels of slices: stored, from_feet or from_head.
        slices_from: Number of the first slice in names of labels, 0 or 1.
        pixels_from: Number of the first pixel in Pascal VOC, 0 or 1.
        readers: Of LIDC's four, how many have to agree.
        classes: NAME or NAME=PATTERN for each class, such as [tumour=GTV*,node=LN*]; by default all are one class.
        ignore: Names or patterns of labels that are regions in which nothing is known.
        key_slices: Of each lesion: middle, widest or all.
        negatives: Slices without a lesion from each scan at most, where the truth allows them.
        complete: Every lesion of a scan is in its truth: slices elsewhere show none.
        patients: header (DICOM's PatientID), folder (the first below that of the images), or a CSV of scan, patient.
        split: Shares of train, validation and test patients.
        split_file: CSV of patient (or scan) and split, instead of a random split.
        folds: Folds of the patients that are not for testing, 0 for none.
        seed: Of the splits.
        hu_offset: Added to the values of the scans.
        spacing: mm along x, y and z of PNG slices without labels.

    Raises:
        ValueError: If scans and truth do not match or cannot be used; each is named.
        OSError: If a file cannot be read or written.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_import(images, truth, split, split_file, folds)
    sources = Sources(
        Path(images),
        None if truth is None else Path(truth),
        image_pattern=image_pattern,
        truth_pattern=truth_pattern,
        kind=kind,
        match=match,
        image_ending=image_ending,
        truth_ending=truth_ending,
        without_truth=without_truth,
        lost_truth=lost_truth,
    )
    slices = SliceRule(slice_frame, slices_from, pixels_from)
    rules = ImportRules(
        TruthRules(lesions, mask_frame, box_frame, box_layout, slices, readers),
        ClassRule.read(_words(classes), _words(ignore) or ()),
        KeyRule(key_slices, negatives, complete),
        SplitRule(check_shares(split), seed, None if split_file is None else Path(split_file), folds),
        patients,
        ReadingRules(hu_offset=hu_offset),
        None if spacing is None else tuple(spacing),
    )
    import_scans(sources, rules, Path(output))
    page, advice = write_set_report(Path(output))
    print(f"Wrote {output}. Look at {page} before you train.")
    print("\n".join(advice))


def _words(value: Sequence[str] | str | None) -> Sequence[str] | None:
    return [value] if isinstance(value, str) else value
