"""``report.html`` of a set: what is in it, pictures of every kind of truth, what was odd, and advice; one file."""

from __future__ import annotations

import base64
import html
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...boxes import Affine, move
from ...data.deeplesion.columns import LABELS
from ...data.importing.set_advice import Advice, advise
from ...data.importing.set_records import HISTOGRAM, IMAGES, read_records
from ...data.importing.set_tables import FOLDS, VOLUMES, read_set, volume_labels
from ...data.slabs.slab_reader import read_slice
from ...inference.outputs.lesions_document import NOTICE
from ...inference.outputs.pictures.box_drawing import TRUTH, draw_boxes, mark_sides
from ...storage.atomic_files import replacing

REPORT = "report.html"
_MOST_NAMES = 12
_SPLITS = {1: "train", 2: "validation", 3: "test"}
# Pictures of lesions and of slices without one, at most.
_LESIONS, _BACKGROUND = 48, 8
_VIEW = 380
# A close-up shows so many times the longer side of the lesion.
_CONTEXT = 2.5
_TO_SCORE = "Nothing in this set is for training: it is to score weights on."
_OUTLINE = (70, 190, 255)
_STYLE = (
    "body{background:#181818;color:#ddd;font-family:sans-serif;margin:2em auto;max-width:1240px;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #444;padding:.25em .7em;text-align:right}"
    "th:first-child,td:first-child{text-align:left}figure{margin:0 0 1.6em}figcaption{color:#bbb;margin:.3em 0}"
    "img{margin-right:6px}.odd{color:#ffaa78}code,pre{background:#262626;padding:.2em .4em;white-space:pre-wrap}"
    "svg{background:#222}a{color:#9cf}"
)


def write_set_report(folder: Path) -> tuple[Path, list[str]]:
    """Write the page of a set.

    Args:
        folder: The set.

    Returns:
        Path of the page, and the advice as lines for a terminal.

    Raises:
        OSError: If a slice cannot be read or the page not be written.
        ValueError: If it is not a set.
    """
    about = read_set(folder)
    if about is None:
        raise ValueError(f"Expected an imported set in {folder}, it has no set.json.")
    records = read_records(folder)
    to_train = "train" in about["splits"]
    advice = advise(records) if to_train else None
    command = _command(folder, advice) if to_train else _score_command(folder, about["splits"][-1])
    reasons = advice.reasons if advice else ("No lesion, no advice.",) if to_train else (_TO_SCORE,)
    parts = [
        f"<h1>{html.escape(folder.resolve().name)}</h1>",
        f'<p class="odd">{html.escape(NOTICE)}</p>',
        "<p>This page holds pictures of the scans. Look at it before a training: boxes that are shifted, mirrored or "
        "upside down show at once.</p>",
        _counts(records, about),
        _odd(records, about),
        "<h2>Advice</h2>",
        *(f"<p>{html.escape(reason)}</p>" for reason in reasons),
        f"<pre>{html.escape(command)}</pre>",
        _numbers(records),
        _scans(records, about),
        _gallery(folder, records, about),
    ]
    title = html.escape(f"Data set {folder.resolve().name}")
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )
    path = folder / REPORT
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")
    odd = sum(len(record["odd"]) for record in records.values())
    told = [f"{odd} thing(s) were odd; the page lists them."] if odd else []
    told += [names] if (names := _names(records, about)) else []
    if to_train:
        told += [text for _, text in _empty_classes(records, about)]
    return path, [*told, *(() if to_train and not advice else reasons), command]


def _empty_classes(records: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line for each class without a lesion: a pattern of ``--classes`` that is like no name, perhaps."""
    found = {lesion["class"] for record in records.values() for lesion in record["lesions"]}
    return [
        ("classes", f"No lesion of the set is of class {name!r}.") for name in about["classes"] if name not in found
    ]


def _score_command(folder: Path, split: str) -> str:
    words = f"python -m scripts evaluate {shlex.quote(str(folder))} --checkpoint RUN/model.pt --output_dir EVAL"
    return words if split == "test" else f"{words} --split {split}"


def _command(folder: Path, advice: Advice | None) -> str:
    if advice is None:
        return ""
    files = ["configs/train.json", *(f"configs/variants/{name}.yaml" for name in advice.overlays)]
    # Some shells read [ and # in a word as patterns.
    options = " ".join(f'"{word}"' if set(word) & {"[", "#"} else word for word in advice.options())
    listed = ",".join(f"'{name}'" for name in files)
    about = read_set(folder) or {}
    count = len(about.get("classes", ()))
    options += f' "--network_def#num_classes" {count}' if count > 1 else ""
    return (
        f'python -m monai.bundle run training --config_file "[{listed}]" --dataset_dir {shlex.quote(str(folder))} '
        f"--output_dir RUN --num_slices {advice.num_slices} {options}"
    )


def _names(records: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """What is called in several ways and was taken for lesions of one class: organs may be among it."""
    counts: Counter[str] = Counter()
    for record in records.values():
        counts.update(record.get("names", {}))
    if len(about["classes"]) > 1 or len(counts) < 2:
        return ""
    known = ", ".join(f"{name} ({count})" for name, count in counts.most_common(_MOST_NAMES))
    more = f" and {len(counts) - _MOST_NAMES} more" if len(counts) > _MOST_NAMES else ""
    return f"Names in the truth that were all taken for lesions: {known}{more}. --classes chooses among them."


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    def line(tag: str, cells: Sequence[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line("th", header) + "".join(line("td", row) for row in rows) + "</table>"


def _counts(records: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """Scans, patients, lesions and key slices of each split."""
    rows = []
    for number, name in [*_SPLITS.items(), (0, "all")]:
        own = [r for s, r in records.items() if number in (0, about["sources"][s]["split"])]
        keys = [key for record in own for key in record["keys"]]
        classes = Counter(lesion["class"] for record in own for lesion in record["lesions"])
        cells = [len({record["patient"] for record in own}), len(own), sum(not record["lesions"] for record in own)]
        cells += [sum(classes.values()), len(keys), sum(not key["boxes"] for key in keys)]
        cells += [sum(len(key["boxes"]) for key in keys)]
        rows.append([name, *cells, *(classes[name] for name in about["classes"])])
    header = [
        "split",
        "patients",
        "scans",
        "scans without a lesion",
        "lesions",
        "key slices",
        "without a lesion",
        "boxes",
    ]
    text = [_table([*header, *about["classes"]], rows)]
    kinds = ", ".join(about["kinds"]) or "none"
    in_3d = f", in 3D in <code>{VOLUMES}</code>" if volume_labels(records) else ""
    text.append(
        f"<p>Truth: {html.escape(kinds)}. Labels in <code>{LABELS}</code>{in_3d}"
        + (f", {about['folds']} folds in <code>{FOLDS}/1</code> and so on" if about["folds"] else "")
        + ".</p>"
    )
    if names := _names(records, about):
        text.append(f'<p class="odd">{html.escape(names)}</p>')
    regions = sum(len(record.get("regions", ())) for record in records.values())
    if regions:
        text.append(f"<p>{regions} region(s) to ignore: nothing is known there.</p>")
    if not any(about["sources"][series]["split"] == 2 for series in records):
        text.append('<p class="odd">No patient is for validation: the weights of the last epoch are taken.</p>')
    return "".join(text)


def _odd(records: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """What a person should look at."""
    lines = [(records[series]["scan"], text) for series, record in records.items() for text in record["odd"]]
    lines += [(record["scan"], f"Note: {text}") for record in records.values() for text in record["notes"]]
    lines += [("left out", text) for text in about["left_out"]]
    lines += _empty_classes(records, about)
    if about["scans_without_a_known_patient"]:
        count = about["scans_without_a_known_patient"]
        lines.append(("patients", f"{count} scan(s) name no patient: each was taken for a patient of its own."))
    spacings = {tuple(record["spacing"][:2]) for record in records.values()}
    lines += [
        ("pixels", f"Pixels are not square: {x:g} x {y:g} mm.") for x, y in sorted(spacings) if not 0.98 < x / y < 1.02
    ]
    if not lines:
        return "<h2>What was odd</h2><p>Nothing.</p>"
    items = "".join(f"<li><b>{html.escape(scan)}</b>: {html.escape(text)}</li>" for scan, text in lines)
    return f'<h2>What was odd</h2><ul class="odd">{items}</ul>'


def _numbers(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Percentiles of sizes and spacings, and the histogram of the values."""
    lesions = [(record, lesion) for record in records.values() for lesion in record["lesions"]]
    rows: list[tuple[str, list[float]]] = []
    if lesions:
        boxes = [np.array(lesion["widest_box"]) for _, lesion in lesions]
        rows += [("width, pixels", [float(box[2] - box[0]) for box in boxes])]
        rows += [("height, pixels", [float(box[3] - box[1]) for box in boxes])]
        rows += [
            (f"{name}, mm", [lesion["size_mm"][axis] for _, lesion in lesions])
            for axis, name in enumerate(("width", "height", "along z"))
        ]
    rows += [("pixel, mm", [record["spacing"][0] for record in records.values()])]
    rows += [("slice interval, mm", [record["spacing"][2] for record in records.values()])]
    rows += [("slices of a scan", [record["shape"][0] for record in records.values()])]
    rows += [("longer side of a slice, pixels", [max(record["shape"][1:]) for record in records.values()])]
    shares = (0, 5, 25, 50, 75, 95, 100)
    table = _table(
        ["percentile", *(f"{share} %" for share in shares)],
        ([name, *(f"{value:.3g}" for value in np.percentile(values, shares))] for name, values in rows),
    )
    orientations = Counter(record["orientation"] for record in records.values())
    turned = ", ".join(f"{name} ({count})" for name, count in orientations.most_common())
    sides = [
        float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
        for box in (np.array(le["widest_box"]) for _, le in lesions)
    ]
    low, high, width = HISTOGRAM
    counts = np.sum([record["hu"] for record in records.values()], axis=0)
    pictures = [_bars(np.sqrt(counts), f"HU, {low} to {high} ({width} a bar; square roots of counts)")]
    if sides:
        pictures.append(
            _bars(np.histogram(sides, 30)[0], f"Sides of lesions, {min(sides):.0f} to {max(sides):.0f} pixels")
        )
    return (
        "<h2>Sizes and spacings</h2>"
        + table
        + f"<p>Axes of the files point to: {html.escape(turned)}. Slices are shown "
        "as axial ones, the patient's right at the left edge.</p>" + "".join(pictures)
    )


def _bars(values: np.ndarray, title: str) -> str:
    """A bar chart as SVG."""
    top = max(float(values.max()), 1.0)
    step = 560 / len(values)
    bars = "".join(
        f'<rect x="{10 + at * step:.1f}" y="{110 - 100 * value / top:.1f}" width="{step * 0.9:.1f}" '
        f'height="{100 * value / top:.1f}" fill="#8ac"/>'
        for at, value in enumerate(values.tolist())
    )
    name = html.escape(title)
    picture = f'<svg width="580" height="120" role="img" aria-label="{name}">{bars}</svg>'
    return f"<figure>{picture}<figcaption>{name}</figcaption></figure>"


def _scans(records: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    rows = []
    for series, record in records.items():
        voxels = " x ".join(str(count) for count in record["shape"][::-1])
        spacing = " x ".join(f"{edge:.3g}" for edge in record["spacing"])
        split = _SPLITS[about["sources"][series]["split"]]
        counts = len(record["lesions"]), len(record["keys"])
        rows.append([series, record["scan"], split, voxels, spacing, record["orientation"], *counts])
    header = ["series", "scan", "split", "voxels", "mm", "axes", "lesions", "key slices"]
    return "<details><summary>Scans</summary>" + _table(header, rows) + "</details>"


def _gallery(folder: Path, records: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """Pictures: of each scan its largest lesion, then others, the smallest first; and slices without a lesion."""
    ranked: list[tuple[int, float, str, int]] = []
    for series, record in records.items():
        by_size = sorted(
            range(len(record["lesions"])), key=lambda at, r=record: -float(np.prod(r["lesions"][at]["size_mm"][:2]))
        )
        for rank, at in enumerate([by_size[0], *by_size[:0:-1]] if by_size else []):
            odd = -1 if record["odd"] and rank == 0 else rank
            ranked.append((odd, rank, series, at))
    ranked.sort()
    figures = [_lesion_figure(folder, series, records[series], at, about) for _, _, series, at in ranked[:_LESIONS]]
    clear = [(series, key) for series, record in records.items() for key in record["keys"] if not key["boxes"]]
    spread = (
        [
            clear[at]
            for at in np.unique(np.linspace(0, len(clear) - 1, min(_BACKGROUND, len(clear))).round().astype(int))
        ]
        if clear
        else []
    )
    figures_clear = [_clear_figure(folder, series, records[series], key) for series, key in spread]
    text = "<h2>Lesions</h2><p>The whole slice, the lesion, and the scan from the front; "
    text += f"{len(figures)} of {len(ranked)} shown. Dashed: the box; blue: the outline it was made of, or a region to "
    text += "ignore.</p>"
    text += "".join(figures)
    if figures_clear:
        text += f"<h2>Slices without a lesion</h2><p>{len(figures_clear)} of {len(clear)} shown.</p>" + "".join(
            figures_clear
        )
    return text


def _lesion_figure(folder: Path, series: str, record: Mapping[str, Any], at: int, about: Mapping[str, Any]) -> str:
    lesion = record["lesions"][at]
    number = lesion["widest"]
    hu = read_slice(folder / IMAGES / series / f"{number:03d}.png")
    boxes = np.array(
        [one["widest_box"] for one in record["lesions"] if one["widest"] == number], dtype=np.float64
    ).reshape(-1, 4)
    window = next((tuple(key["window"]) for key in record["keys"] if key["slice"] == number), (-175.0, 275.0))
    lines = [np.array(line) for line in lesion["outline"]]
    lines += [line for key in record["keys"] if key["slice"] == number for line in _regions(key)]
    pictures = [
        mark_sides(_with_lines(hu, boxes, lines, window)),
        _close_up(hu, np.array(lesion["widest_box"]), boxes, lines, window),
    ]
    width, height, depth = lesion["size_mm"]
    split = _SPLITS[about["sources"][series]["split"]]
    words = [
        f"{record['scan']} ({series}, {split}), slice {number} of {record['shape'][0]} from the head",
        f"{lesion['class']}, {width:.0f} x {height:.0f} x {depth:.0f} mm",
        f"slices {lesion['slices'][0]} to {lesion['slices'][1]}",
        f"truth: {', '.join(record['kinds'])}",
        f"window {window[0]:g} to {window[1]:g} HU",
    ]
    images = "".join(_image(picture) for picture in pictures) + _front(record, lesion)
    odd = f'<br><span class="odd">{html.escape(" ".join(record["odd"]))}</span>' if record["odd"] else ""
    return f"<figure>{images}<figcaption>{html.escape('; '.join(words))}{odd}</figcaption></figure>"


def _regions(key: Mapping[str, Any]) -> list[np.ndarray]:
    """Outlines of the regions to ignore of a key slice."""
    return [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) for x1, y1, x2, y2 in key.get("ignored", ())]


def _with_lines(
    hu: np.ndarray, boxes: np.ndarray, lines: Sequence[np.ndarray], window: tuple[float, float]
) -> np.ndarray:
    """A slice with boxes and outlines, its longer side `_VIEW` pixels."""
    picture = np.array(draw_boxes(hu, None, boxes, window=window, longer_side=_VIEW))
    factors = np.array([picture.shape[1] / hu.shape[1], picture.shape[0] / hu.shape[0]])
    for line in lines:
        points = np.round((line * factors - 0.5) * 16).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(picture, [points], True, _OUTLINE, 1, cv2.LINE_AA, 4)
    return picture


def _close_up(
    hu: np.ndarray, box: np.ndarray, boxes: np.ndarray, lines: Sequence[np.ndarray], window: tuple[float, float]
) -> np.ndarray:
    height, width = hu.shape
    side = round(float(np.clip(_CONTEXT * max(box[2] - box[0], box[3] - box[1]), 24, min(height, width))))
    x = round(float(np.clip((box[0] + box[2] - side) / 2, 0, width - side)))
    y = round(float(np.clip((box[1] + box[3] - side) / 2, 0, height - side)))
    shift = Affine(shift_x=-x, shift_y=-y)
    shown = move(boxes, shift)
    inside = (shown[:, 2:] > 0).all(axis=1) & (shown[:, :2] < side).all(axis=1)
    return _with_lines(hu[y : y + side, x : x + side], shown[inside], [line - (x, y) for line in lines], window)


def _clear_figure(folder: Path, series: str, record: Mapping[str, Any], key: Mapping[str, Any]) -> str:
    hu = read_slice(folder / IMAGES / series / f"{key['slice']:03d}.png")
    picture = mark_sides(_with_lines(hu, np.zeros((0, 4)), _regions(key), tuple(key["window"])))
    words = f"{record['scan']} ({series}), slice {key['slice']} of {record['shape'][0]} from the head"
    return f"<figure>{_image(picture)}<figcaption>{html.escape(words)}</figcaption></figure>"


def _front(record: Mapping[str, Any], lesion: Mapping[str, Any]) -> str:
    """The scan from the front, head up, with the lesion as a box: shows a truth that is upside down."""
    if not record.get("front"):
        return ""
    slices, _, columns = record["shape"]
    stored = cv2.imdecode(np.frombuffer(base64.b64decode(record["front"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    if stored is None:
        return ""
    picture = np.repeat(stored[..., None], 3, axis=2)
    across, down = picture.shape[1] / columns, picture.shape[0] / slices
    low = round(lesion["box"][0] * across), round((lesion["slices"][0] - 1) * down)
    high = round(lesion["box"][2] * across), round(lesion["slices"][1] * down)
    return _image(np.asarray(cv2.rectangle(picture, low, high, TRUTH, 1)))


def _image(picture: np.ndarray) -> str:
    done, content = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise OSError(f"Could not encode a picture of shape {picture.shape} as JPEG.")
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}">'
