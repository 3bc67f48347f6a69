"""Truth in COCO style: which boxes are lesions, which are regions to ignore, and which cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.importing.lesion_classes import ClassRule
from scripts.data.importing.truth.slice_labels import read_coco_slices
from scripts.data.importing.truth.slice_places import SlicePlaces, SliceRule
from scripts.metrics.matching import match_detections
from scripts.workflows.outside_detections import OutsideDetections, flat_cases
from scripts.workflows.scoring.coco_truth import coco_tables, coco_truth
from support.fake_scans import scan_of

PLACES = SlicePlaces(scan_of(np.zeros((1, 40, 60), np.int16)), {}, {})
TRUTH: dict[str, Any] = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40, "patient": "p"} for n in (0, 1)],
    "annotations": [
        {"image_id": 0, "category_id": 5, "bbox": [3, 4, 6, 8]},
        {"image_id": 1, "category_id": 6, "bbox": [0, 0, 5, 5]},
        {"image_id": 1, "category_id": 5, "bbox": [0, 0, 50, 5], "iscrowd": 1},
    ],
    "categories": [{"id": 5, "name": "node"}, {"id": 6, "name": "cyst"}],
}


def write(path: Path, **change: Any) -> Path:
    path.write_text(json.dumps({**TRUTH, **change}))
    return path


def lesions(path: Path, category: str | None = None) -> list[tuple[list, list]]:
    cases, _ = coco_truth(path, coco_tables(path), category)
    regions = [case.get("ignored_boxes", np.zeros((0, 4))).tolist() for case in cases.values()]
    return list(zip([case["true_boxes"].tolist() for case in cases.values()], regions, strict=True))


@pytest.mark.parametrize("name", ["ignore", "Ignored", "ignore "])
def test_a_category_called_ignore_is_a_region_as_in_an_import(tmp_path: Path, name: str) -> None:
    truth = write(tmp_path / "truth.json", categories=[{"id": 5, "name": "node"}, {"id": 6, "name": name}])
    (tmp_path / "results.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 5, "bbox": [1, 1, 3, 3], "score": 0.5}])
    )
    rules = ClassRule()
    imported = [rules.apply(one.lesions_in(PLACES, "0", SliceRule("from_feet", 0))) for one in read_coco_slices(truth)]
    for category in (None, "node"):
        cases = flat_cases(truth, OutsideDetections.read(tmp_path / "results.json"), None, category)
        for case, known in zip(cases, imported, strict=True):
            boxes, regions = ([one.boxes[0].tolist() for one in part] for part in (known.lesions, known.regions))
            assert case["true_boxes"].tolist() == boxes
            assert sorted(case["ignored_boxes"].tolist()) == sorted(regions)
        assert match_detections(cases).outcomes.tolist() == ["ignored"]


@pytest.mark.parametrize("category", [None, "node"])
def test_ids_of_categories_may_be_texts_in_one_list_and_numbers_in_another(
    tmp_path: Path, category: str | None
) -> None:
    categories = [{"id": 5, "name": "node"}, {"id": 6, "name": "ignore"}]
    texts = [{**entry, "category_id": str(entry["category_id"])} for entry in TRUTH["annotations"]]
    same = lesions(write(tmp_path / "numbers.json", categories=categories), category)
    assert [len(boxes) for boxes, _ in same] == [1, 0]
    assert lesions(write(tmp_path / "texts.json", categories=categories, annotations=texts), category) == same


@pytest.mark.parametrize("box", [[60, 0, 5, 5], [0, -5, 5, 5], [500, 500, 20, 20], [3, 4, 0, 8], [3, 4, 6, -1]])
@pytest.mark.parametrize("crowd", [0, 1])
def test_a_lesion_without_area_in_its_image_is_named(tmp_path: Path, box: list[int], crowd: int) -> None:
    annotations = [*TRUTH["annotations"], {"image_id": 1, "category_id": 5, "bbox": box, "iscrowd": crowd}]
    with pytest.raises(ValueError, match=r"in their image of 60 x 40 pixels, got .* in '?1\.png'?, .*t\.json"):
        lesions(write(tmp_path / "t.json", annotations=annotations))


@pytest.mark.parametrize("nameless", [0, 1, 2])
def test_images_without_a_patient_are_counted(tmp_path: Path, nameless: int, caplog: pytest.LogCaptureFixture) -> None:
    images = [dict(image) for image in TRUTH["images"]]
    for image in images[:nameless]:
        del image["patient"]
    lesions(write(tmp_path / "truth.json", images=images))
    assert (f"{nameless} of 2 images name no patient" in caplog.text) == bool(nameless)
    assert ("name no patient" in caplog.text) == bool(nameless)
