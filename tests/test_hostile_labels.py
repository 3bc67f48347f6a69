"""Label files damaged at random: every reader ends in a result or in one line. ``MP3D_FUZZ=20000`` tries more."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import pickle
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.coco.coco_instances import load_instances
from scripts.data.deeplesion.coco_labels import read_coco
from scripts.data.deeplesion.dl_info import COLUMNS, read_csv
from scripts.data.deeplesion.subvolume_labels import read_volume_labels
from scripts.data.scans.markup_boxes import read_markups
from scripts.metrics.cases import check_cases
from scripts.metrics.volume.volume_matching import check_volumes
from scripts.workflows.volume_predictions import read_predictions

CASES = int(os.environ.get("MP3D_FUZZ", "1400"))
NAME = "000001_01_01_103-115"
PHOTOGRAPHS = {
    "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
    "categories": [{"id": 5, "name": "cat"}],
}
KEY_SLICE = {"id": 1, "file_name": "000001_01_01/109.png", "height": 512, "width": 512, "spacing": 0.8}
SLICES = {
    "images": [{**KEY_SLICE, "slice_intv": 5.0, "windows": [-175, 275], "slice_no": 109}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 30, 30], "area": 900, "noisy": 0}],
    "categories": [{"id": 1, "name": "Lesion"}],
}
BOX = {"type": "ROI", "center": [1.0, 2.0, 3.0], "size": [9.0, 9.0, 9.0], "orientation": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
LESION = {"box": [10.0, 10.0, 30.0, 30.0], "slices": [104, 106]}
VOLUME = {"series": "000001_01_01", "slice_range": [103, 115], "spacing": [0.8, 0.8, 5.0], "lesions": [LESION]}
ROW = [10.0, 20.0, 104.0, 30.0, 40.0, 106.0]
CASE = {
    "id": "a",
    "boxes": [[1.0, 1, 9, 9]],
    "scores": [0.5],
    "true_boxes": [[1.0, 1, 9, 9]],
    "width": 20,
    "height": 20,
}
CELLS = dict(
    zip(
        COLUMNS,
        [
            *("000001_01_01_109.png", "1", "1", "1", "109", "1, 2, 3, 4, 5, 6, 7, 8", "10, 10, 40, 40", "9, 8"),
            *("0.5, 0.5, 0.5", "3", "0", "103, 115", "0.8, 0.8, 5", "512, 512", "-175, 275", "M", "62", "1"),
        ],
        strict=True,
    )
)
# Reader and good content; what is read from memory has no ending.
READERS: dict[str, tuple[str, Any, Callable[[Any], object]]] = {
    "photographs": (
        ".json",
        PHOTOGRAPHS,
        lambda path: load_instances(
            path.parent, annotations=path.name, images=".", num_classes=1, missing_images="ignore"
        ),
    ),
    "key slices": (".json", SLICES, lambda path: read_coco(path, path.parent)),
    "table": (".csv", CELLS, lambda path: read_csv(path, path.parent)),
    "markups": (".json", {"markups": [{**BOX, "coordinateSystem": "LPS", "roiType": "Box"}]}, read_markups),
    "manual": (".json", {"val": {NAME: [ROW]}}, read_volume_labels),
    "manual pickle": (".pkl", {"val": {NAME: np.array([ROW])}}, read_volume_labels),
    "harvester": (".json", {f"{NAME}.annot": {"5": [[10.0, 10, 40, 40, 5, 5]]}}, read_volume_labels),
    "harvester pickle": (".pkl", {NAME: [[10.0, 10, 40, 40, 4.5, 6.5]]}, read_volume_labels),
    "synthetic": (".json", {"volumes": [VOLUME]}, read_volume_labels),
    "rows": (".json", {NAME: [[*ROW, 0.5]]}, lambda path: read_predictions(path, [NAME])),
    "scores": (
        ".pkl",
        {NAME: {"boxes": np.array([ROW]), "scores": [0.5]}},
        lambda path: read_predictions(path, [NAME]),
    ),
    "tracklets": (".pkl", {NAME: [[(1, [1.0, 1, 9, 9, 0.5])]]}, lambda path: read_predictions(path, [NAME])),
    "cases": ("", [CASE], check_cases),
    "volume cases": ("", [{"id": NAME, "boxes": [ROW], "scores": [0.5], "true_boxes": [ROW]}], check_volumes),
}
ODD: list[Any] = [
    *(None, True, 0, -1, 1 << 62, 1 << 64, 10**400, -(10**400), 0.5, 1e-300, 1e308, -1e308, float("nan"), float("inf")),
    *("", "x", "1", "9" * 5000, "../x.png", "/etc/passwd", "a\0b", "a\nb", "\x1b[2J", "x" * 9999, "..", "\ud800", "é"),
    *(
        [],
        {},
        [[]],
        [1],
        ["x"] * 7,
        [[1, 2], [3]],
        {"a": 1},
        [None] * 4,
        [float("nan")] * 6,
        [10**400] * 6,
        [1e308] * 6,
    ),
]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def places(content: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """All containers in a value with a key or index in each."""
    keys = (
        list(content) if isinstance(content, dict) else list(range(len(content))) if isinstance(content, list) else []
    )
    below = [place for key in keys for place in places(content[key], depth + 1)] if depth < 9 else []
    return [(content, key) for key in keys] + below


def spoil(content: Any, drawn: random.Random) -> Any:
    """Replace, remove, double or rename a few values."""
    content = copy.deepcopy(content)
    for _ in range(drawn.choice([1, 1, 1, 2, 4])):
        found = places(content)
        if not found:
            return content
        container, key = drawn.choice(found)
        kind = drawn.random()
        if kind < 0.7:
            container[key] = copy.deepcopy(drawn.choice([*ODD, deep(drawn.choice([5, 30, 70, 300]))]))
        elif kind < 0.8:
            del container[key]
        elif isinstance(container, list):
            container += [container[key]] * drawn.choice([1, 50])
        else:
            container[drawn.choice(["", "x", "../x_1-2", f"{NAME}.nii", "000009_01_01_1-99999999999"])] = container[key]
    return content


def stored(content: Any, suffix: str, drawn: random.Random) -> bytes:
    """The bytes of a file, one file in three damaged."""
    if suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text)
        cells = content if isinstance(content, dict) else {"x": content}
        writer.writerows([list(cells), ["" if cell is None else str(cell)[:9999] for cell in cells.values()]])
        data = text.getvalue().encode("utf-8", "replace")
    elif suffix == ".pkl":
        data = pickle.dumps(content, protocol=drawn.randrange(6))
    else:
        data = json.dumps(content).encode(drawn.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    if drawn.random() < 1 / 3 and data:
        spoilt = bytearray(data)
        for _ in range(drawn.choice([1, 2, 8])):
            at = drawn.randrange(len(spoilt))
            spoilt[at : at + drawn.choice([0, 1, 4])] = drawn.randbytes(drawn.choice([0, 1, 2]))
            if not spoilt:
                break
        data = bytes(spoilt[: drawn.choice([len(spoilt), drawn.randrange(len(spoilt) + 1)])])
    return data


def end_of(read: Callable[[Any], object], given: Any) -> str:
    """How a reader ends."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            read(given)
    except (ValueError, OSError) as error:
        message = str(error)
        assert 0 < len(message) < 3000, message[:300]
        assert "\n" not in message
        assert "\0" not in message
        assert re.search("Expected|add --label_format", message), message[:300]
        return "rejected"
    return "read"


@pytest.mark.parametrize("name", READERS)
def test_every_end_is_a_result_or_one_line(name: str, tmp_path: Path) -> None:
    suffix, content, read = READERS[name]
    drawn = random.Random(f"{name} 2026")
    path = tmp_path / f"labels{suffix}"
    ends: Counter[str] = Counter()
    for number in range(CASES // len(READERS) + 1):
        spoilt = spoil(content, drawn) if number else content
        if suffix:
            try:
                path.write_bytes(stored(spoilt, suffix, drawn) if number else stored(spoilt, suffix, random.Random(3)))
            except (RecursionError, ValueError):  # not even Python can write it
                continue
        try:
            ends[end_of(read, path if suffix else spoilt)] += 1
        except Exception as error:
            held = repr(spoilt) if not suffix else str(path.read_bytes())
            raise AssertionError(f"{name}, case {number}: {type(error).__name__} from {held[:500]}") from error
    assert ends["rejected"] > 0
    print(f"{name}: {dict(ends)}")


@pytest.mark.parametrize("name", READERS)
def test_the_good_ones_are_read(name: str, tmp_path: Path) -> None:
    suffix, content, read = READERS[name]
    path = tmp_path / f"labels{suffix}"
    if suffix == ".csv":
        path.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in (CELLS, CELLS.values())))
    elif suffix:
        path.write_bytes(pickle.dumps(content) if suffix == ".pkl" else json.dumps(content).encode())
    assert end_of(read, path if suffix else content) == "read"
