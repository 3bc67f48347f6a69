"""Cases: detections back in original pixels, lesions as annotated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.data.coco.coco_instances import Categories
from scripts.workflows.to_cases import cases_of, name_detections, to_case


def data(boxes: torch.Tensor, **fields: torch.Tensor) -> dict:
    record = {
        "file_name": "000001_01_01_109.png",
        "patient": "000001",
        "image": "/data/109.png",
        "image_size": (512, 512),  # as labelled; what was read counts
        "instances": {
            "boxes": np.array([[-1.0, 2.0, 30.5, 40.0]], dtype=np.float32),
            "labels": np.ones(1, dtype=np.int64),
            "noisy": np.array([False]),
            "diameters": np.array([[9.0, 5.0]]),
        },
    }
    return {
        "record": record,
        "image": torch.zeros(3, 400, 400),
        "instances": {"boxes": torch.zeros(0, 4)},
        "scale_factor": torch.tensor([2.0, 4.0]),
        "pred": {"boxes": boxes, "scores": torch.ones(len(boxes)), "labels": torch.ones(len(boxes)), **fields},
    }


def test_each_axis_is_scaled_back_by_its_own_factor() -> None:
    case = to_case(data(torch.tensor([[2.0, 4.0, 20.0, 40.0]])))["case"]
    assert case["boxes"].tolist() == [[1.0, 1.0, 10.0, 10.0]]
    assert (case["width"], case["height"]) == (200, 100)


def test_lesions_are_those_of_the_record_not_of_the_transforms() -> None:
    case = to_case(data(torch.zeros(0, 4)))["case"]
    assert case["true_boxes"].tolist() == [[-1.0, 2.0, 30.5, 40.0]]
    assert case["boxes"].shape == (0, 4)
    assert case["scores"].shape == (0,)
    assert (case["id"], case["patient"], case["image"]) == ("000001_01_01_109.png", "000001", "/data/109.png")


def test_further_fields_go_along_in_original_pixels() -> None:
    boxes = torch.tensor([[2.0, 4.0, 20.0, 40.0], [0.0, 0.0, 4.0, 8.0]])
    tags = torch.tensor([[0.5, 0.25], [1.0, 0.0]], dtype=torch.bfloat16)
    case = to_case(data(boxes, tags=tags, diameters=torch.tensor([[8.0, 4.0], [2.0, 1.0]])))["case"]
    assert case["fields"].keys() == {"tags", "diameters"}
    assert case["fields"]["tags"].tolist() == tags.tolist()
    # The geometric mean of 2 and 4 pixels for an original one.
    np.testing.assert_allclose(case["fields"]["diameters"], np.array([[8.0, 4.0], [2.0, 1.0]]) / 8**0.5)
    assert case["true_fields"]["diameters"].tolist() == [[9.0, 5.0]]
    assert case["noisy"].tolist() == [False]


def test_masks_become_the_lengths_of_their_axes() -> None:
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [4.0, 4.0, 44.0, 84.0]])
    masks = torch.stack([torch.ones(28, 28), torch.zeros(28, 28)])
    content = data(boxes, masks=masks, tag_scores=torch.rand(2, 3))
    content["record"]["spacing"] = (0.5, 1.0)
    fields = to_case(content)["case"]["fields"]
    assert fields.keys() == {"tag_scores", "long_axis_mm", "short_axis_mm"}
    # 20 x 10 original pixels, 10 x 10 mm: the diagonal, and what is across it. The other mask is empty.
    np.testing.assert_allclose(fields["long_axis_mm"], [200**0.5, np.nan], atol=0.4)
    np.testing.assert_allclose(fields["short_axis_mm"], [200**0.5, np.nan], atol=0.4)


def test_what_the_record_does_not_know_stays_out() -> None:
    content = data(torch.zeros(0, 4))
    assert not {"spacing", "box_padding"} & set(to_case(content)["case"])
    content["record"]["box_padding"] = 0.0
    assert to_case(content)["case"].get("box_padding") == 0


def test_the_metric_gets_the_cases_alone() -> None:
    output = [to_case(data(torch.zeros(0, 4)))]
    assert cases_of(output)[0]["id"] == "000001_01_01_109.png"


def test_regions_to_ignore_are_no_lesions() -> None:
    one = data(torch.zeros(0, 4))
    instances = one["record"]["instances"]
    two = {name: np.concatenate([values, values]) for name, values in instances.items()}
    one["record"]["instances"] = {**two, "ignored": np.array([True, False])}
    case = to_case(one)["case"]
    assert case["ignored_boxes"].tolist() == case["true_boxes"].tolist() == [[-1.0, 2.0, 30.5, 40.0]]
    assert case["noisy"].tolist() == [False]
    assert "ignored" not in case["true_fields"]
    assert "ignored_boxes" not in to_case(data(torch.zeros(0, 4)))["case"]


def classed(*labels: int) -> dict:
    """Data of a set of two classes; a detection of each label."""
    sample = data(torch.tensor([[2.0, 4.0, 20.0, 40.0]] * len(labels)))
    sample["record"]["categories"] = Categories((1, 2), ("tumour", "node"))
    sample["record"]["instances"]["labels"] = np.array([2])
    sample["pred"]["labels"] = torch.tensor(labels)
    return sample


def test_classes_of_a_set_go_along_and_those_of_the_network_by_their_names(caplog: pytest.LogCaptureFixture) -> None:
    case = to_case(classed(1, 2, 2))["case"]
    assert (case["class_names"], case["true_classes"].tolist()) == (("tumour", "node"), ["node"])
    (by_name,) = name_detections([case], ("node", "tumour"), "a.pt")
    assert by_name["classes"].tolist() == ["node", "tumour", "tumour"]
    (more,) = name_detections([case], ("node", "cyst", "tumour"), "a.pt")
    assert more["classes"].tolist() == ["node", "cyst", "cyst"]
    caplog.clear()
    (by_number,) = name_detections([case], ("class 1", "class 2"), "a.pt")
    assert by_number["classes"].tolist() == ["tumour", "node", "node"]
    assert "are taken for ('tumour', 'node') of the data set" in caplog.text


def test_a_network_of_one_class_names_none(caplog: pytest.LogCaptureFixture) -> None:
    case = to_case(classed(1, 1))["case"]
    (same,) = name_detections([case], ("lesion",), "a.pt")
    assert "classes" not in same
    assert "a.pt: no figures by class" in caplog.text
    plain = to_case(data(torch.zeros(0, 4)))["case"]
    assert not {"labels", "class_names", "true_classes"} & set(plain)
    assert name_detections([plain], ("tumour", "node"), "a.pt") == [plain]
    assert name_detections([], ("tumour", "node"), "a.pt") == []
