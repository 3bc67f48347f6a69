"""The folder of an evaluation, and the numbers that evaluations of fakes have always had."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.evaluation_files import write_evaluation
from scripts.metrics.image.image_report import write_report
from scripts.metrics.volume.volume_report import write_volume_report
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
