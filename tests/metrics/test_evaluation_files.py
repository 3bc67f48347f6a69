"""The folder of an evaluation, and the numbers that evaluations of fakes have always had."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from matplotlib.figure import Figure

from scripts.data.coco.coco_instances import Categories
from scripts.inference.outputs.html.gallery import write_gallery
from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.coco_average_precision import check_coco_cases
from scripts.metrics.evaluation_files import forget_evaluation, write_evaluation
from scripts.metrics.image.image_report import write_report
from scripts.metrics.volume.volume_report import write_volume_report
from scripts.workflows.coco_report import CocoReport
from support.fake_evaluations import image_cases, volume_cases

GOLDEN = Path(__file__).parent / "evaluation_numbers.json"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a nested dictionary with its path, lists too."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, f"{path}/{key}")
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from leaves(below, f"{path}/{index}")
    else:
        yield path, value


@pytest.mark.parametrize(
    ("name", "write", "cases"), [("image", write_report, image_cases), ("volume", write_volume_report, volume_cases)]
)
def test_evaluations_of_fakes_keep_their_numbers_names_and_columns(
    tmp_path: Path, name: str, write: Callable[..., Any], cases: Callable[[], Any]
) -> None:
    write(cases(), tmp_path, bootstrap=Bootstrap(resamples=20))
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    found = dict(leaves(json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))))
    assert list(found) == list(golden["metrics"])
    for path, value in golden["metrics"].items():
        assert found[path] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), path
    headers = {path.name: path.read_text().splitlines()[0] for path in tmp_path.glob("*.csv")}
    assert headers == golden["headers"]


def test_files_have_the_names_of_their_tables_and_older_ones_are_replaced(tmp_path: Path) -> None:
    for number in (1, 2):
        tables = {"a": (("x", "y"), [(number, None)]), "b": (("z",), [])}
        write_evaluation(tmp_path / "new", {"number": number}, tables, Figure())
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.csv", "b.csv", "froc.png", "metrics.json"}
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {"number": 2}
    with (tmp_path / "new" / "a.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["x", "y"], ["2", ""]]


def test_metrics_are_written_last(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[int]]:
        yield (1,)
        raise ValueError("no more rows")

    write_evaluation(tmp_path / "earlier", {}, {"a": (("x",), [])}, Figure())
    for folder, left in ((tmp_path / "new", set()), (tmp_path / "earlier", {"a.csv", "froc.png"})):
        with pytest.raises(ValueError, match="no more rows"):
            write_evaluation(folder, {}, {"a": (("x",), broken())}, Figure())
        # The metrics of an earlier evaluation do not stay with files of a later one.
        assert {path.name for path in folder.glob("*")} == left


def write_images(folder: Path) -> None:
    write_report(image_cases(), folder, bootstrap=Bootstrap(resamples=0))
    write_gallery([], folder / "gallery")


def write_volumes(folder: Path) -> None:
    forget_evaluation(folder)
    (folder / "predictions.json").write_text("{}")
    write_volume_report(volume_cases(), folder, bootstrap=Bootstrap(resamples=0), keep=[folder / "predictions.json"])


def write_photographs(folder: Path) -> None:
    none = {"bbox": [], "category_id": [], "area": [], "crowd": []}
    case = {"id": "1", "image_id": 1, "boxes": [], "scores": [], "category_ids": [], "truth": none}
    metric = cast(Any, SimpleNamespace(cases=check_coco_cases([case])))
    CocoReport(folder, metric, categories=Categories((1,), ("person",)), pictures=0).write()
    (folder / "detections.png").touch()


WRITERS = (write_images, write_volumes, write_photographs)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize(("earlier", "later"), itertools.product(WRITERS, repeat=2))
def test_an_evaluation_leaves_nothing_of_an_earlier_one_of_any_kind(
    tmp_path: Path, earlier: Callable[[Path], None], later: Callable[[Path], None]
) -> None:
    for folder, writers in ((tmp_path / "one", [later]), (tmp_path / "both", [earlier, later])):
        folder.mkdir()
        for write in writers:
            write(folder)
    assert content(tmp_path / "both").keys() == content(tmp_path / "one").keys()


def test_all_of_an_evaluation_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    tables = dict.fromkeys(("sensitivity", "thresholds", "tags"), (("x",), []))
    others = {name: b"{}" for name in ("lesions.csv", "hits_01.png", "detections.json", "gallery/hits_notes.png")}
    for folder, kept in ((tmp_path / "bare", {}), (tmp_path / "shared", others)):
        (folder / "gallery").mkdir(parents=True)
        for name, text in kept.items():
            (folder / name).write_bytes(text)
        write_evaluation(folder, {}, tables, Figure())
        for name in ("index.html", "misses_01.png", "hits_100.png"):
            (folder / "gallery" / name).touch()
        forget_evaluation(folder)
        assert content(folder) == kept
        assert (folder / "gallery").exists() == bool(kept)
    forget_evaluation(tmp_path / "none")


def test_what_an_evaluation_reads_stays_under_any_name(tmp_path: Path) -> None:
    for name in ("predictions.json", "detections.json"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "link").symlink_to(tmp_path)
    # Without metrics the lists may be another program's.
    forget_evaluation(tmp_path)
    assert content(tmp_path).keys() == {"predictions.json", "detections.json"}
    (tmp_path / "metrics.json").touch()
    forget_evaluation(tmp_path, [tmp_path / "link" / "detections.json"])
    assert content(tmp_path).keys() == {"detections.json"}
