"""DeepLesion: the function with which configs load a split.

The labels come from ``DL_info.csv`` or from the COCO-style JSON of the same labels; both give the same boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...boxes import RECIST_PADDING
from ...storage.needed_files import need_folder
from ...storage.safe_json import finite_numbers, read_json
from ..coco.coco_instances import Categories
from ..importing.set_tables import SET_FILE, read_set
from ..records import Record, check_images
from ..slabs.slice_store import images_folder
from ..training_fraction import Subset
from .coco_labels import read_coco
from .columns import COLUMNS, LABELS, SPLITS, SYNTHETIC
from .dl_info import Details, read_csv
from .lesion_tags import LesionTags
from .mined_lesions import MINED_AS, MINED_SCORE, Mined
from .patient_facts import PatientFacts
from .recist import MASK_TARGETS, Measurements

logger = logging.getLogger(__name__)

__all__ = ["COLUMNS", "SPLITS", "box_padding", "dataset_notice", "load_records", "read_coco", "read_csv"]

# What every result on an imported set says.
IMPORTED = "An imported set, not DeepLesion: published figures are of other images."
_NO_PATIENTS = "%s has no patients for %s."
_NOT_SCORED = (
    " With configs/variants/own_data.yaml nothing is scored in training, and model.pt holds the weights of the last "
    "epoch."
)
_COCO_NAMES = {"train": "deeplesion_train.json", "validation": "deeplesion_val.json", "test": "deeplesion_test.json"}


def load_records(
    dataset_dir: str | Path,
    split: str,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    keep_noisy: bool = True,
    missing_images: str = "raise",
    subset: Subset | None = None,
    by_class: bool | None = None,
    measurements: bool = False,
    mask_targets: str | None = None,
    tags: str | Path | None = None,
    patients: bool = False,
    mined: str | Path | None = None,
    mined_as: str | None = None,
    mined_score: float | None = None,
) -> list[Record]:
    """Load one split of DeepLesion, or of a data set in its format.

    Args:
        dataset_dir: Folder with ``DL_info.csv`` (or ``deeplesion_train.json``, ``_val.json``,
            ``_test.json``) and ``Images_png``, or a store of it, see `scripts.data.slabs.slice_store`.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        annotations: Label file elsewhere, ``.csv`` or ``.json``; relative paths start at ``dataset_dir``. A
            ``.json`` is one split, and is read whole for any ``split``.
        images: Folder of the series folders elsewhere; relative paths start at ``dataset_dir``.
        keep_noisy: Whether boxes marked as noisy are kept, as the released code does.
        missing_images: What to do about absent PNGs: ``"raise"``, ``"drop"`` or ``"ignore"``.
        subset: Draws a share of the images that are there; all of them if left out.
        by_class: Whether labels are the classes of an imported set; if not, all lesions are of one class. By default
            where the set names several.
        measurements: Whether lesions get their fields ``recist`` and ``diameters``, see
            `scripts.data.deeplesion.recist`; a label file in JSON has none.
        mask_targets: ``"ellipses"`` for the field ``masks`` as well. With ``"grabcut"`` a transform makes it, see
            `scripts.data.grab_cut`, and lesions get the fields that it reads.
        tags: File with tags of lesions, for their field ``tags``, see `scripts.data.deeplesion.lesion_tags`.
        patients: Whether lesions get their fields ``male``, ``age`` and ``position``, see
            `scripts.data.deeplesion.patient_facts`; a label file in JSON has none.
        mined: File with boxes that nobody labelled, see `scripts.data.deeplesion.mined_lesions`.
        mined_as: What they are, ``"ignored"`` (the default) or ``"lesions"``.
        mined_score: Lowest score of those that have one; 0.9 by default.

    Returns:
        One record per key slice, see `scripts.data.records`, with ``box_padding``; those of a set with classes have
        ``categories``. Of an imported set a split may have none.

    Raises:
        OSError: If the folder, the labels or images are missing, or a file is in the place of a folder.
        ValueError: If the labels are not as expected; file, row and file name are named.
    """
    if split not in SPLITS:
        raise ValueError(f"Expected one of the splits {', '.join(SPLITS)}, got {split!r}.")
    folder = Path(dataset_dir)
    need_folder(folder, "a data set folder at")
    labels = _find_labels(folder, split) if annotations is None else folder / annotations
    images_dir = images_folder(folder) if images is None else folder / images
    if missing_images != "ignore":
        need_folder(images_dir, "the images in the folder")
    details = _details(mask_targets, measurements=measurements, tags=tags, patients=patients)
    about = read_set(folder)
    classes = tuple(str(name) for name in about["classes"]) if about else ()
    by_class = len(classes) > 1 if by_class is None else by_class
    if about is not None and split not in about["splits"] and annotations is None:
        logger.warning(_NO_PATIENTS + (_NOT_SCORED if split == "validation" else ""), folder, split)
        return []
    if labels.suffix.lower() == ".json":
        wanted = {"classes": by_class, "measurements": mask_targets is not None, "rows that tags belong to": bool(tags)}
        for what in (name for name, asked in wanted.items() if asked):
            raise ValueError(f"Expected a DL_info.csv with {what}, got {labels}.")
        if patients:
            logger.warning("%s has no sex, age and position of patients.", labels)
    records = read_labels(labels, images_dir, split, keep_noisy=keep_noisy, by_class=by_class, details=details)
    records = check_images(records, missing_images)
    padding = box_padding(folder)
    padded: Any = [{**record, "box_padding": padding} for record in records]
    records = padded
    if by_class:
        records = _named(records, classes, folder)
    return _with_mined(records if subset is None else subset(records), mined, mined_as, mined_score)


def read_labels(
    labels: Path,
    images_dir: Path,
    split: str | None = None,
    *,
    keep_noisy: bool = True,
    by_class: bool = False,
    details: Sequence[Details] = (),
) -> list[Record]:
    """Read a label file.

    Args:
        labels: ``DL_info.csv``; or a COCO-style JSON of the same labels, which is read whole and as one class.
        images_dir: Folder of the series folders.
        split: Split of a table; None for all.
        keep_noisy: Whether boxes marked as noisy are kept.
        by_class: Whether labels of a table are classes.
        details: What reads further fields of a table.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not as expected.
    """
    if labels.suffix.lower() == ".json":
        return read_coco(labels, images_dir, keep_noisy=keep_noisy)
    return read_csv(labels, images_dir, split=split, keep_noisy=keep_noisy, by_class=by_class, details=details)


def _with_mined(
    records: list[Record], mined: str | Path | None, mined_as: str | None, score: float | None
) -> list[Record]:
    """The records with the boxes of a file, if there is one."""
    if mined is None:
        if mined_as is not None or score is not None:
            raise ValueError("Expected a file of mined boxes (mined) with mined_as and mined_score, got none.")
        return records
    return Mined(mined, mined_as or MINED_AS[0], MINED_SCORE if score is None else score)(records)


def _named(records: list[Record], classes: tuple[str, ...], folder: Path) -> list[Record]:
    """The records with the names of their classes."""
    highest = max((int(label) for record in records for label in record["instances"]["labels"]), default=0)
    if highest > len(classes):
        raise ValueError(f"Expected the names of {highest} classes in {folder / SET_FILE}, got {len(classes)}.")
    logger.info("%s has %d classes: %s.", folder, len(classes), ", ".join(classes))
    found: Any = [
        {**record, "categories": Categories(tuple(range(1, len(classes) + 1)), classes)} for record in records
    ]
    return found


def _details(mask_targets: str | None, *, measurements: bool, tags: str | Path | None, patients: bool) -> list[Details]:
    """What reads the further fields of lesions."""
    if mask_targets not in (None, *MASK_TARGETS):
        raise ValueError(f"Expected mask targets among {', '.join(MASK_TARGETS)} or None, got {mask_targets!r}.")
    found: list[Details] = []
    if measurements or mask_targets is not None:
        found.append(Measurements(masks=mask_targets == "ellipses"))
    if tags:
        found.append(LesionTags(Path(tags)))
    if patients:
        found.append(PatientFacts())
    return found


def box_padding(dataset_dir: str | Path) -> float:
    """Pixels by which the boxes of lesions are wider than what was measured, on every side.

    Args:
        dataset_dir: Folder of the data set. DeepLesion's boxes are padded, as are those of an imported set if all of
            them were made of diameters; other imported ones are what was drawn. Synthetic sets tell their own.

    Raises:
        ValueError: If what the set says of itself is not as expected.
    """
    about = read_set(Path(dataset_dir))
    if about is not None:
        return RECIST_PADDING if about.get("kinds") == ["recist"] else 0.0
    settings = (_synthetic(Path(dataset_dir)) or {}).get("settings")
    padding = settings.get("padding", RECIST_PADDING) if isinstance(settings, dict) else RECIST_PADDING
    return finite_numbers([padding], 1, "padding", str(Path(dataset_dir) / SYNTHETIC))[0]


def dataset_notice(dataset_dir: str | Path) -> str | None:
    """Notice for every result on a data set, such as that it is synthetic; None without a notice.

    Args:
        dataset_dir: Folder of the data set; ``synthetic.json`` in it marks the generator's work, ``set.json`` an
            imported set.

    Raises:
        ValueError: If that file was not written by the generator.
    """
    about = _synthetic(Path(dataset_dir))
    if about is not None:
        return str(about["about"])
    return IMPORTED if (Path(dataset_dir) / SET_FILE).is_file() else None


def _synthetic(folder: Path) -> dict[str, Any] | None:
    """What the generator says of its work; None of other data sets."""
    path = folder / SYNTHETIC
    if not path.is_file():
        return None
    content = read_json(path, "a description of synthetic images")
    if not isinstance(content, dict) or "about" not in content:
        raise ValueError(f"Expected a description with the key 'about', got something else in {path}.")
    return content


def label_files(dataset_dir: str | Path) -> list[Path]:
    """The label files of a data set: one for all splits, or those that are there of one each; none without any."""
    table, *others = (Path(dataset_dir) / name for name in (LABELS, *_COCO_NAMES.values()))
    return [table] if table.is_file() else [path for path in others if path.is_file()]


def _find_labels(folder: Path, split: str) -> Path:
    candidates = [folder / LABELS, folder / _COCO_NAMES[split]]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"Expected labels at {' or '.join(map(str, candidates))}, but neither exists.")
