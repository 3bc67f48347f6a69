"""Figures by class: laws of names and of wrong classes, and nothing new where there is one class."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.image.image_evaluation import evaluate
from scripts.metrics.image.image_report import write_report
from scripts.metrics.image.image_tables import format_table
from support.fake_evaluations import image_cases, with_classes

FEW = Bootstrap(resamples=20)
NAMES = ("tumour", "node")


def pooled(metrics: Any) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "classes"}


@pytest.fixture(scope="module")
def metrics() -> Any:
    return evaluate(with_classes(image_cases(), NAMES), bootstrap=FEW)


def test_a_class_is_scored_as_a_set_of_its_own(metrics: Any) -> None:
    for name in NAMES:
        alone = []
        for case in with_classes(image_cases(), NAMES):
            rows, lesions = case["classes"] == name, case["true_classes"] == name
            kinds = {"boxes": rows, "scores": rows, "true_boxes": lesions, "lesion_type": lesions}
            plain = {key: value for key, value in case.items() if "class" not in key}
            alone.append(plain | {key: case[key][which] for key, which in kinds.items()})
        wanted, found = evaluate(alone, bootstrap=FEW), metrics["classes"][name]
        assert found["lesions"] == wanted["counts"]["lesions"]
        assert found["detections"] == wanted["counts"]["detections"]
        shared = set(found) - {"lesions", "detections"}
        assert {"sensitivity", "ap50", "ap50_interval"} <= shared
        assert {key: found[key] for key in shared} == {key: wanted[key] for key in shared}


def test_other_names_name_the_same_figures(metrics: Any) -> None:
    other = evaluate(with_classes(image_cases(), ("b", "a")), bootstrap=FEW)
    assert other["classes"] == {"b": metrics["classes"]["tumour"], "a": metrics["classes"]["node"]}
    assert pooled(other) == pooled(metrics)


def test_the_order_of_the_classes_changes_no_figure(metrics: Any) -> None:
    cases = [{**case, "class_names": NAMES[::-1]} for case in with_classes(image_cases(), NAMES)]
    other = evaluate(cases, bootstrap=FEW)
    assert other["classes"] == metrics["classes"]
    assert list(other["classes"]) == ["node", "tumour"]


def test_a_detector_that_swaps_the_classes_finds_none_of_either(metrics: Any) -> None:
    cases = with_classes(image_cases(), NAMES)
    # Nothing but the lesions, each found.
    exact = [{**case, "boxes": case["true_boxes"], "scores": np.linspace(0.9, 0.5, len(case["true_boxes"])),
              "classes": case["true_classes"]} for case in cases]  # fmt: skip
    swap = dict(zip(NAMES, NAMES[::-1], strict=True))
    wrong = [{**case, "classes": [swap[name] for name in case["classes"]]} for case in exact]
    right, swapped = (evaluate(each, bootstrap=FEW) for each in (exact, wrong))
    assert pooled(right) == pooled(swapped)
    assert right["mean_sensitivity"] == 1
    for name in NAMES:
        assert (right["classes"][name]["mean_sensitivity"], right["classes"][name]["ap50"]) == (1, 1)
        assert (swapped["classes"][name]["mean_sensitivity"], swapped["classes"][name]["ap50"]) == (0, 0)


def test_pooled_figures_do_not_see_classes(metrics: Any) -> None:
    assert pooled(metrics) == evaluate(image_cases(), bootstrap=FEW)
    assert "classes" not in evaluate(with_classes(image_cases(), NAMES[:1]), bootstrap=FEW)


def test_a_class_without_a_lesion_has_no_sensitivity() -> None:
    cases = [{**case, "class_names": (*NAMES, "cyst")} for case in with_classes(image_cases(), NAMES)]
    cyst = evaluate(cases, bootstrap=FEW)["classes"]["cyst"]
    assert (cyst["lesions"], cyst["mean_sensitivity"], cyst["ap50"]) == (0, None, None)


def test_files_and_table_have_every_class(tmp_path: Path) -> None:
    names = ("tumour", "lymph node with a long name")
    cases = with_classes(image_cases(), names)
    metrics = write_report(cases, tmp_path / "two", bootstrap=FEW)
    text = format_table(metrics)
    assert all(len(line) <= 110 for line in text.splitlines())
    assert "by class" in text
    assert "lymph node wit (8)" in text
    rows = {name: list(csv.DictReader((tmp_path / "two" / f"{name}.csv").open(newline=""))) for name in
            ("sensitivity", "detections", "true_lesions")}  # fmt: skip
    groups = {row["group"] for row in rows["sensitivity"]}
    assert {f"class: {name}" for name in names} <= groups
    at_one = [row for row in rows["sensitivity"] if row["group"] == "class: tumour" and row["fps_per_image"] == "1"]
    assert float(at_one[0]["sensitivity"]) == metrics["classes"]["tumour"]["sensitivity"]["1"]
    assert {row["class"] for row in rows["detections"]} == set(names)
    assert [row["class"] for row in rows["true_lesions"]] == [name for case in cases for name in case["true_classes"]]


def test_files_of_one_class_are_as_if_classes_were_unknown(tmp_path: Path) -> None:
    write_report(image_cases(), tmp_path / "plain", bootstrap=FEW)
    write_report(with_classes(image_cases(), ["lesion"]), tmp_path / "one", bootstrap=FEW)
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes(), path.name
