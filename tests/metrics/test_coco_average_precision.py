"""COCO's figures: equal to pycocotools on the files themselves; crowds, sizes and empty images behave."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ignite.engine import Engine
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scripts.boxes import from_coco
from scripts.metrics.coco_average_precision import (
    COCO_METRIC_NAMES,
    CocoMetrics,
    check_coco_cases,
    coco_average_precision,
)

IDS = (3, 7, 90)


def case(number: int, truth: list[list[float]], *, crowd: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    """One image whose detections are its annotations, all of category 7."""
    bbox = np.array(truth, dtype=float).reshape(-1, 4)
    flags = np.isin(np.arange(len(bbox)), crowd)
    category = np.full(len(bbox), 7)
    return {
        "id": f"{number:03d}",
        "image_id": number,
        "boxes": from_coco(bbox),
        "scores": np.linspace(0.9, 0.5, len(bbox)),
        "category_ids": category,
        "truth": {"bbox": bbox, "category_id": category, "area": bbox[:, 2] * bbox[:, 3], "crowd": flags},
        **more,
    }


def random_labels(images: int = 12) -> dict[str, Any]:
    generator = np.random.default_rng(3)
    annotations = []
    for image in range(images):
        for _ in range(image % 5):
            corner, sides = generator.uniform(0, 200, 2), generator.uniform(8, 180, 2)
            entry = {"bbox": [*corner.tolist(), *sides.tolist()], "area": float(sides.prod() * 0.7)}
            category, crowd = int(generator.choice(IDS)), int(generator.random() < 0.2)
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": 100 + image, "category_id": category, "iscrowd": crowd, **entry}
            )
    return {
        "images": [{"id": 100 + image} for image in range(images)],
        "categories": [{"id": number} for number in IDS],
        "annotations": annotations,
    }


def detections(labels: dict[str, Any]) -> list[dict[str, Any]]:
    """Annotations moved about, some of another category, and some inventions."""
    generator = np.random.default_rng(4)
    found = []
    for entry in labels["annotations"]:
        for _ in range(3):
            bbox = np.array(entry["bbox"]) + generator.normal(0, 5, 4)
            bbox[2:] = bbox[2:].clip(2)
            category = entry["category_id"] if generator.random() < 0.8 else 3
            found.append({"image_id": entry["image_id"], "category_id": category, "bbox": bbox.tolist()})
    return [{**entry, "score": float(generator.random())} for entry in found]


def cases_of(labels: dict[str, Any], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    cases = []
    for image in labels["images"]:
        own = [entry for entry in labels["annotations"] if entry["image_id"] == image["id"]]
        boxes = [entry for entry in found if entry["image_id"] == image["id"]]
        truth = {
            "bbox": [entry["bbox"] for entry in own],
            "category_id": [entry["category_id"] for entry in own],
            "area": [entry["area"] for entry in own],
            "crowd": [entry["iscrowd"] for entry in own],
        }
        cases.append(
            {
                "id": f"{image['id']:012d}",
                "image_id": image["id"],
                "boxes": from_coco(np.array([entry["bbox"] for entry in boxes]).reshape(-1, 4)),
                "scores": [entry["score"] for entry in boxes],
                "category_ids": [entry["category_id"] for entry in boxes],
                "truth": truth,
            }
        )
    return cases


def test_the_figures_are_those_of_pycocotools_on_the_files(tmp_path: Path) -> None:
    labels = random_labels()
    found = detections(labels)
    (tmp_path / "labels.json").write_text(json.dumps({**labels, "info": {}}))
    (tmp_path / "found.json").write_text(json.dumps(found))
    official = COCO(str(tmp_path / "labels.json"))
    reference = COCOeval(official, official.loadRes(str(tmp_path / "found.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    figures, by_category = coco_average_precision(cases_of(labels, found))
    np.testing.assert_allclose(list(figures.values()), reference.stats[:6], rtol=0, atol=1e-12)
    assert 0.1 < figures["ap"] < 0.9
    assert np.mean(list(by_category.values())) == pytest.approx(figures["ap"])
    assert tuple(by_category) == IDS


def test_perfect_detections_score_one_in_every_size() -> None:
    figures, by_category = coco_average_precision([case(1, [[0, 0, 10, 10], [20, 20, 50, 50]]), case(2, [])])
    assert figures == pytest.approx(
        {"ap": 1, "ap50": 1, "ap75": 1, "ap_small": 1, "ap_medium": 1, "ap_large": math.nan}, nan_ok=True
    )
    assert by_category == pytest.approx({7: 1.0})


def test_the_category_must_be_right() -> None:
    wrong = case(1, [[0, 0, 10, 10]], category_ids=[3])
    assert coco_average_precision([wrong])[0]["ap"] == 0.0


def test_boxes_on_a_crowd_are_neither_right_nor_wrong() -> None:
    crowd = case(1, [[0, 0, 100, 100], [200, 200, 20, 20]], crowd=(0,))
    inside = from_coco(np.array([[10.0, 10, 20, 20], [60.0, 60, 30, 30], [200, 200, 20, 20]]))
    many = {**crowd, "boxes": inside, "scores": [0.9, 0.8, 0.7], "category_ids": [7, 7, 7]}
    assert coco_average_precision([many])[0]["ap"] == pytest.approx(1.0)
    plain = {**many, "truth": {**many["truth"], "crowd": [False, False]}}
    assert coco_average_precision([plain])[0]["ap"] < 0.5


def test_sizes_go_by_the_annotated_area() -> None:
    small = case(1, [[0, 0, 50, 50]])
    small["truth"]["area"] = np.array([500.0])
    figures, _ = coco_average_precision([small])
    assert figures["ap_small"] == pytest.approx(1.0)
    assert math.isnan(figures["ap_medium"])


def test_nothing_annotated_gives_nan_and_nothing_found_gives_zero() -> None:
    empty = case(1, [])
    assert all(math.isnan(value) for value in coco_average_precision([empty])[0].values())
    missed = {**case(1, [[0, 0, 10, 10]]), "boxes": [], "scores": [], "category_ids": []}
    assert coco_average_precision([missed])[0]["ap"] == 0.0
    invented = {**empty, "boxes": [[0, 0, 5, 5]], "scores": [0.5], "category_ids": [7]}
    assert math.isnan(coco_average_precision([invented])[0]["ap"])
    with pytest.raises(ValueError, match="at least one case"):
        coco_average_precision([])


def test_malformed_cases_are_named() -> None:
    good = case(4, [[0, 0, 10, 10]])
    with pytest.raises(ValueError, match="no truth in case 1"):
        check_coco_cases([good, {key: value for key, value in good.items() if key != "truth"}])
    with pytest.raises(ValueError, match="case 004, the lengths differ"):
        check_coco_cases([{**good, "scores": [0.1, 0.2]}])
    with pytest.raises(ValueError, match="finite boxes and scores in case 004"):
        check_coco_cases([{**good, "scores": [math.nan]}])
    with pytest.raises(
        ValueError, match=r"boxes as x1, y1, x2, y2 .*got \[30.0, 40.0, 10.0, 50.0\] in row 0 of case 004"
    ):
        check_coco_cases([{**good, "boxes": [[30, 40, 10, 50]]}])


def test_two_images_of_one_name_are_an_error() -> None:
    metric = CocoMetrics()
    metric.update([case(4, [[0, 0, 10, 10]])])
    metric.update([case(4, [[0, 0, 10, 10], [5, 5, 20, 20]])])
    with pytest.raises(ValueError, match="got two of 004 with 1 and 2 true boxes"):
        metric.compute()


def test_in_an_engine_batches_and_repetitions_do_not_matter() -> None:
    labels = random_labels()
    cases = cases_of(labels, detections(labels))
    wanted, _ = coco_average_precision(cases)
    for batches in ([cases], [cases[6:], cases[:6]], [cases, cases[:3]]):
        engine = Engine(lambda _, batch: batch)
        metric = CocoMetrics()
        metric.attach(engine, "ap")
        metrics = engine.run(batches).metrics
        assert tuple(metrics) == COCO_METRIC_NAMES
        assert metrics == pytest.approx(wanted)
        assert [each["image_id"] for each in metric.cases] == [image["id"] for image in labels["images"]]
    with pytest.raises(ValueError, match="'map'"):
        CocoMetrics().attach(Engine(lambda _, batch: batch), "map")
