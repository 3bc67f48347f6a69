"""The work behind ``python -m scripts.compare_scans``."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...inference.outputs.html.report_reading import ReportVolume, read_report
from ...inference.outputs.lesions_document import NOTICE, result_sha256
from ...inference.outputs.source_names import series_text
from ...storage.atomic_files import replacing, write_csv, write_json
from ...storage.output_folder import check_output_folder
from ...storage.safe_json import read_json
from ...workflows.comparing.change_page import change_page
from ...workflows.comparing.lesion_changes import (
    OTHER_CLASS,
    STATES,
    ChangeRule,
    Timepoint,
    class_changed,
    list_changes,
    sum_up,
)
from ...workflows.comparing.lesion_places import PLACE_COLUMNS, place_of
from ...workflows.comparing.rigid_alignment import LATTICE_MM, Alignment, align

_COLUMNS = (
    *("state", "before", "after", "long_axis_before_mm", "long_axis_after_mm", "change_mm", "change_percent"),
    *("axes_source_before", "axes_source_after", "compared_by", *PLACE_COLUMNS),
)
_CLASS_COLUMNS = ("class_before", "class_after")
# No millimetre of a scan is farther away.
_FARTHEST = 1e5
# Below this the alignment is called doubtful.
_SURE = 0.6
# From here on no mirror image is tried; it counts if it agrees better by so much.
_SURELY_NOT_MIRRORED, _CLEARLY = 0.9, 0.1
_ESTIMATES = (
    "Sizes and changes are estimates: from boxes or masks of a network, of lesions that it found in each scan alone. "
    "They are no response assessment."
)


@dataclass(frozen=True)
class _Result:
    """A folder of results: the content of ``lesions.json``, and the scan as ``report.html`` has it."""

    document: Mapping[str, Any]
    volume: ReportVolume

    @property
    def name(self) -> str:
        return series_text(self.document["input"].get("dicom")) or str(self.document["input"]["name"])

    @property
    def timepoint(self) -> Timepoint:
        return Timepoint(self.document["lesions"], np.linalg.inv(self.volume.affine), self.volume.hu.shape)


def compare(
    before: str,
    after: str,
    output: str = "changes",
    *,
    max_distance: float = 15.0,
    change: float = 0.2,
    least: float = 2.0,
    aligned: bool = False,
) -> None:
    """Compare the lesions of two scans of one patient: new, gone, grown, shrunk.

    Both folders are results of `run inferring` with the outputs json and report. The scans are aligned rigidly by
    their pictures; docs/outputs.md describes the rules.

    Args:
        before: Folder of the results of the earlier scan.
        after: Folder of the results of the later one.
        output: Folder for changes.json, changes.csv and changes.html.
        max_distance: mm that the middles of one lesion are apart at most, or half of its long axis if that is more.
        change: A lesion grew or shrank if its long axis differs by at least this share of what it was before.
        least: It must also differ by at least so many mm.
        aligned: Both scans are in one frame already: do not align them.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If a folder does not hold such results.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not (0 < max_distance < math.inf and 0 <= change < math.inf and 0 <= least < math.inf):
        raise ValueError(
            f"Expected max_distance above 0, change and least from 0, got {max_distance}, {change}, {least}."
        )
    folder = Path(output)
    check_output_folder(folder)
    first, last = _read(Path(before)), _read(Path(after))
    same = first.document["input"]["sha256"] == last.document["input"]["sha256"]
    if aligned or same:
        lying = Alignment(np.eye(4), 1.0 if same else None)
    else:
        lying = align((first.volume.hu, first.volume.affine), (last.volume.hu, last.volume.affine))
    rule = ChangeRule(max_distance, change, least)
    _write(folder, first, last, lying, rule, _cautions(first, last, lying, same))


def _write(
    folder: Path, first: _Result, last: _Result, lying: Alignment, rule: ChangeRule, cautions: Sequence[str]
) -> None:
    """Write the three files and print the summary."""
    changes = [
        {**one, **place_of(first.document, one["before"], "before"), **place_of(last.document, one["after"], "after")}
        for one in list_changes(first.timepoint, last.timepoint, lying.matrix, rule)
    ]
    sums = sum_up(changes)
    cautions = [*cautions, *_class_cautions(first, last, changes), *_source_cautions(changes)]
    notices = list(dict.fromkeys([NOTICE, *first.document["notices"], *last.document["notices"], _ESTIMATES]))
    document = {
        "notices": notices,
        "cautions": cautions,
        "before": _described(first),
        "after": _described(last),
        "alignment": {
            "before_to_after_lps_mm": lying.matrix.round(6).tolist(),
            "degrees": round(lying.degrees, 3),
            "shift_of_middle_mm": _shift(first, lying),
            "similarity": lying.similarity,
        },
        "rule": asdict(rule),
        **sums,
        "changes": changes,
    }
    write_json(document, folder / "changes.json")
    columns = [*_COLUMNS, *(_CLASS_COLUMNS if changes and _CLASS_COLUMNS[0] in changes[0] else ()), "notice"]
    rows = [[*(one[name] for name in columns[:-1]), " ".join(notices)] for one in changes]
    write_csv(columns, rows, folder / "changes.csv")
    summary = _summary(sums, cautions)
    texts = {
        "title": f"{first.name} and {last.name}",
        "notices": notices,
        "summary": summary,
        "about": _about(first, last, lying, rule),
    }
    boxed = [{**one, **_boxes(one, first, last, lying.matrix)} for one in changes]
    with replacing(folder / "changes.html") as part:
        part.write_bytes(change_page(first.volume, last.volume, lying.matrix, boxed, texts))
    print("\n".join([*summary, f"Wrote changes.json, changes.csv and changes.html in {folder}."]))


def _read(folder: Path) -> _Result:
    if not (folder / "lesions.json").is_file():
        below = sorted(folder.glob("*/lesions.json"))
        if len(below) > 1:
            raise ValueError(
                f"Expected the results of one scan in {folder}, got those of {len(below)}: name one folder."
            )
        folder = below[0].parent if below else folder
    document = read_json(folder / "lesions.json", "results (lesions.json)")
    try:
        _check(document)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"Expected a lesions.json of this bundle, got another file in {folder}: {type(error).__name__} {error}."
        ) from error
    page = folder / "report.html"
    if not page.is_file():
        raise FileNotFoundError(
            f"Expected report.html next to lesions.json in {folder}: the scans are aligned by its pictures. Find the "
            "lesions again with --outputs json,report."
        )
    volume = read_report(page)
    if volume.result != result_sha256(document):
        raise ValueError(f"Expected lesions.json and report.html of one result, got those of two in {folder}.")
    return _Result(document, volume)


def _check(document: Mapping[str, Any]) -> None:
    """Check what is used of ``lesions.json``.

    Raises:
        AttributeError, TypeError, KeyError, ValueError: If it is otherwise.
    """
    about, model, lesions = document["input"], document["model"], document["lesions"]
    known = [model["name"], model["sha256"]]
    texts = [about["name"], about["sha256"], *document["notices"], *(text for text in known if text is not None)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name, a hash or a notice is not a text")
    series_text(about.get("dicom"))
    document["settings"].get("score_threshold")
    rows = [
        (
            *one["center_lps_mm"],
            *one["box_lps_mm"],
            *one["key_point_lps_mm"],
            one["axes"]["long_axis_mm"],
            *one["size_mm"],
        )
        for one in lesions
    ]
    numbers = np.array(rows, dtype=np.float64).reshape(-1, 16)
    if not (np.abs(numbers) <= _FARTHEST).all() or (numbers[:, 12:] < 0).any():
        raise ValueError("a position or size of a lesion is impossible")
    if not all(isinstance(one.get("class", ""), str) for one in lesions):
        raise ValueError("the class of a lesion is not a text")
    if not all(isinstance(one["axes"]["source"], str) and isinstance(one.get("image", {}), Mapping) for one in lesions):
        raise ValueError("the source of an axis or the image of a lesion is of another kind")
    counted = [one["lesion"] for one in lesions]
    if not all(type(one) is int and one > 0 for one in counted) or counted != sorted(set(counted)):
        raise ValueError("the numbers of its lesions do not rise")


def _described(result: _Result) -> dict[str, Any]:
    about = result.document["input"]
    return {
        "name": about["name"],
        "sha256": about["sha256"],
        "result_sha256": result.volume.result,
        **({"dicom": about["dicom"]} if "dicom" in about else {}),
        "model": result.document["model"]["name"],
    }


def _cautions(first: _Result, last: _Result, lying: Alignment, same: bool) -> list[str]:
    told = []
    if same:
        told.append("Both results are of the same scan.")
    elif lying.similarity is not None:
        told += _alignment_cautions(first, last, lying.similarity)
    dates = [str((one.document["input"].get("dicom") or {}).get("study_date")) for one in (first, last)]
    if all(re.fullmatch(r"[0-9]{8}", date) for date in dates) and dates[0] > dates[1]:
        told.append(f"The scan before is the later one by its study date: {dates[0]} and {dates[1]}.")
    if first.document["model"]["sha256"] != last.document["model"]["sha256"]:
        told.append("The results are of different weights.")
    thresholds = [one.document["settings"].get("score_threshold") for one in (first, last)]
    if thresholds[0] != thresholds[1]:
        told.append(f"The score thresholds differ: {thresholds[0]} and {thresholds[1]}.")
    told += [
        f"No slice of the scan {when} shows a body: nothing was examined there."
        for when, one in (("before", first), ("after", last))
        if one.document["settings"].get("examined_slices") == 0
    ]
    reviewed = ["review" in one.document["settings"] for one in (first, last)]
    if reviewed[0] != reviewed[1]:
        told.append(
            f"Only the lesions {'before' if reviewed[0] else 'after'} were reviewed: what a reader did not accept "
            f"there is {'new' if reviewed[0] else 'gone'} here."
        )
    return told


def _alignment_cautions(first: _Result, last: _Result, similarity: float) -> list[str]:
    told = []
    if similarity < _SURE:
        told.append(f"The alignment is doubtful: the scans agree by {similarity:.2f}. Look at the page.")
    if (mirrored := _mirrored(first, last, similarity)) > similarity + _CLEARLY:
        told.append(
            f"One of the scans seems to be mirrored: they agree by {similarity:.2f}, and by {mirrored:.2f} if "
            "left and right of the scan after are exchanged."
        )
    return told


def _mirrored(first: _Result, last: _Result, similarity: float) -> float:
    """How well the scans agree with left and right of the later one exchanged; 0 where they agree well as they are.

    A body is much like its mirror image, so that the agreement alone does not show a scan that is mirrored.
    """
    if similarity >= _SURELY_NOT_MIRRORED:
        return 0.0
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    before, after = (first.volume.hu, first.volume.affine), (last.volume.hu, mirror @ last.volume.affine)
    return align(before, after).similarity or 0.0


def _known_classes(result: _Result) -> list[str]:
    """The names of the classes that the weights of a result distinguish; none of weights of one class."""
    return [str(name) for name in result.document["model"].get("classes") or ()]


def _class_cautions(first: _Result, last: _Result, changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know of classes: of results that know others, and of lesions that are called otherwise."""
    known = [_known_classes(one) for one in (first, last)]
    told = []
    if known[0] != known[1]:
        names = [", ".join(one) or "one class" for one in known]
        told.append(f"The classes that the weights know differ: {names[0]} before, {names[1]} after.")
    if other := [one for one in changes if class_changed(one)]:
        pairs = ", ".join(
            f"{one['before']} ({one['class_before']}) is {one['after']} ({one['class_after']})" for one in other
        )
        told.append(f"Lesions of another class after than before, which may be an error of the network: {pairs}.")
    return told


def _source_cautions(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know where long axes of different sources meet."""
    sources = [sorted({one[f"axes_source_{when}"] for one in changes} - {None}) for when in ("before", "after")]
    mixed = sum(None not in (one["before"], one["after"]) and not _of_one_source(one) for one in changes)
    if not all(sources) or (sources[0] == sources[1] and not mixed):
        return []
    told = f"The long axes before are from {' and '.join(sources[0])}, those after from {' and '.join(sources[1])}"
    if set(sources[0]).isdisjoint(sources[1]):
        return [f"{told}: all sizes here are the longer sides of the boxes."]
    rest = f": pairs of different sources ({mixed}) are compared by the longer sides of their boxes" if mixed else ""
    return [f"{told}{rest}."]


def _of_one_source(change: Mapping[str, Any]) -> bool:
    return change["axes_source_before"] == change["axes_source_after"]


def _summary(sums: Mapping[str, Any], cautions: Sequence[str]) -> list[str]:
    counts = ", ".join(f"{sums['counts'][state]} {state}" for state in STATES if sums["counts"][state])
    lines = [f"Lesions: {counts or 'none in either scan'}."]
    for name, words in (("sum_of_long_axes_in_both", "found in both"), ("sum_of_long_axes_of_all", "covered by both")):
        one = sums[name]
        change = "" if one["change_percent"] is None else f" ({one['change_percent']:+g} %)"
        lines.append(
            f"Sum of long axes of lesions {words}: about {one['before_mm']:.0f} mm before, {one['after_mm']:.0f} mm "
            f"after{change}."
        )
    return [*lines, *cautions]


def _about(first: _Result, last: _Result, lying: Alignment, rule: ChangeRule) -> list[tuple[str, str]]:
    shift = ", ".join(f"{one:.1f}" for one in _shift(first, lying))
    classed = any(_known_classes(one) for one in (first, last))
    return [
        ("Before", f"{first.name}, SHA-256 {first.document['input']['sha256'][:12]}"),
        ("After", f"{last.name}, SHA-256 {last.document['input']['sha256'][:12]}"),
        (
            "Alignment",
            f"rigid, on a lattice of {LATTICE_MM:g} mm: turn of {lying.degrees:.1f} degrees, "
            f"shift of the middle {shift} mm to the left, back and head, "
            f"agreement {'not measured' if lying.similarity is None else f'{lying.similarity:.2f}'}",
        ),
        (
            "Same lesion",
            f"middles at most {rule.max_distance_mm:g} mm apart, or half of the longer long axis"
            + (f"; other classes count as {100 * OTHER_CLASS:g} % of that farther apart" if classed else ""),
        ),
        (
            "Grown, shrunk",
            f"the long axis changed by at least {100 * rule.share:g} % and {rule.least_mm:g} mm",
        ),
    ]


def _shift(first: _Result, lying: Alignment) -> list[float]:
    """Where the middle of the scan before goes, in mm."""
    middle = first.volume.affine @ [*((np.array(first.volume.hu.shape[::-1]) - 1) / 2), 1]
    return (lying.matrix @ middle - middle)[:3].round(2).tolist()


def _boxes(change: Mapping[str, Any], first: _Result, last: _Result, matrix: np.ndarray) -> dict[str, Any]:
    """Boxes of both lesions as edges in voxels of the scan before."""
    inverse = np.linalg.inv(first.volume.affine)
    return {
        "before_box": _box(first, change["before"], inverse),
        "after_box": _box(last, change["after"], inverse @ np.linalg.inv(matrix)),
    }


def _box(result: _Result, number: int | None, index_from_lps: np.ndarray) -> list[float] | None:
    if number is None:
        return None
    lesion = next(one for one in result.document["lesions"] if one["lesion"] == number)
    # The box itself, along the axes of its scan: what encloses it along those of the patient is larger where they turn.
    axes = result.volume.affine[:3, :3] / np.linalg.norm(result.volume.affine[:3, :3], axis=0)
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    corners = np.insert((signs * lesion["size_mm"]) @ axes.T + lesion["center_lps_mm"], 3, 1.0, axis=1)
    # Edges count from the lower face of voxel 0, indices from its middle.
    edges = (corners @ index_from_lps.T)[:, :3] + 0.5
    return [*edges.min(axis=0).tolist(), *edges.max(axis=0).tolist()]
