"""Slabs in one batch: padding, order, and rejected input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from scripts.networks import batching
from scripts.networks.batching import (
    check_classes,
    check_finite,
    check_targets,
    detect_by_size,
    pad_slabs,
    split_regions,
)


def target(boxes: list[list[float]], labels: list[int]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


class TestPadSlabs:
    def test_right_and_bottom_are_padded_with_zeros_to_a_multiple_of_32(self) -> None:
        slabs = [torch.rand(3, 33, 40) + 1, torch.rand(3, 20, 65) + 1]
        batch = pad_slabs(slabs)
        assert batch.tensors.shape == (2, 3, 64, 96)
        assert batch.image_sizes == [(33, 40), (20, 65)]
        for row, slab in enumerate(slabs):
            height, width = slab.shape[1:]
            assert torch.equal(batch.tensors[row, :, :height, :width], slab)
            assert batch.tensors[row].sum().item() == pytest.approx(slab.sum().item(), rel=1e-5)

    @pytest.mark.parametrize("side", [448, 512, 576])
    def test_training_sizes_need_no_padding(self, side: int) -> None:
        slabs = torch.empty(2, 1, side, side)
        assert pad_slabs(slabs).tensors is slabs

    def test_a_tensor_and_a_list_give_the_same_batch(self) -> None:
        slabs = torch.rand(2, 3, 40, 70)
        assert torch.equal(pad_slabs(slabs).tensors, pad_slabs(list(slabs)).tensors)

    def test_metadata_stays_outside_the_network(self) -> None:
        for slabs in (MetaTensor(torch.rand(1, 3, 32, 32)), [MetaTensor(torch.rand(3, 20, 20))]):
            assert type(pad_slabs(slabs).tensors) is Tensor

    @pytest.mark.parametrize(
        ("slabs", "message"),
        [
            ([], "at least one slab"),
            ([torch.zeros(3, 8, 8), torch.zeros(5, 8, 8)], r"got \(5, 8, 8\) as slab 1"),
            (torch.zeros(3, 8, 8), r"Expected a batch \(B, D, H, W\) or a list .* got \(8, 8\) as slab 0\."),
            ([torch.zeros(8, 8)], r"got \(8, 8\) as slab 0"),
            ([torch.zeros(3, 0, 8)], r"got \(3, 0, 8\) as slab 0"),
            (torch.zeros(1, 1, 3, 8, 8), r"got \(1, 3, 8, 8\) as slab 0"),
            (torch.zeros(1, 3, 8, 8, dtype=torch.int16), "floating point, got torch.int16 as slab 0"),
        ],
    )
    def test_anything_else_is_rejected(self, slabs: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            pad_slabs(slabs)

    @pytest.mark.parametrize("slabs", [np.zeros((1, 3, 8, 8), np.float32), [torch.zeros(3, 8, 8), [[[0.0]]]]])
    def test_arrays_of_numpy_are_rejected(self, slabs: Any) -> None:
        kind = "list as slab 1" if len(slabs) == 2 else "ndarray as slab 0"
        for call in (pad_slabs, lambda each: detect_by_size(lambda _: [], each)):
            with pytest.raises(TypeError, match=f"Expected slabs as tensors, got {kind}: torch.from_numpy makes"):
                call(slabs)


class TestDetectBySize:
    def detect(self, images: ImageList) -> list[dict[str, Tensor]]:
        self.shapes.append(tuple(images.tensors.shape))
        return [{"scores": tensor.sum().reshape(1)} for tensor in images.tensors]

    @pytest.fixture(autouse=True)
    def shapes_seen(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def test_slabs_keep_their_own_padding_and_their_order(self) -> None:
        slabs = [torch.full((1, height, 32), float(index)) for index, height in enumerate((32, 64, 30, 64, 96))]
        found = detect_by_size(self.detect, slabs)
        assert [result["scores"].item() for result in found] == [slab.sum().item() for slab in slabs]
        assert self.shapes == [(2, 1, 32, 32), (2, 1, 64, 32), (1, 1, 96, 32)]

    def test_one_size_is_one_batch(self) -> None:
        detect_by_size(self.detect, [torch.zeros(1, 32, 32)] * 3)
        assert self.shapes == [(3, 1, 32, 32)]

    @pytest.mark.parametrize("heights", [(32,), (32, 32), (32, 64)])
    def test_slabs_are_looked_at_once(self, monkeypatch: pytest.MonkeyPatch, heights: tuple[int, ...]) -> None:
        calls = []
        monkeypatch.setattr(batching, "check_tensors", calls.append)
        detect_by_size(self.detect, [torch.zeros(1, height, 32) for height in heights])
        assert len(calls) == 1

    def test_bad_pixels_are_named(self) -> None:
        slabs = torch.zeros(3, 1, 32, 32)
        slabs[2, 0, 5, 5] = float("nan")
        with pytest.raises(ValueError, match="finite pixels in slab 2"):
            detect_by_size(self.detect, slabs)

    def test_bad_shapes_are_rejected(self) -> None:
        with pytest.raises(ValueError, match=r"got \(32, 32\) as slab 1"):
            detect_by_size(self.detect, [torch.zeros(1, 64, 64), torch.zeros(32, 32)])


@pytest.mark.parametrize("count", [0, -1])
def test_background_alone_cannot_be_detected(count: int) -> None:
    check_classes(1)
    with pytest.raises(ValueError, match=f"at least one class besides background, got num_classes={count}"):
        check_classes(count)


class TestCheckTargets:
    def test_empty_and_full_targets_pass(self) -> None:
        targets = [target([], []), target([[1, 2, 3, 4], [5, 6, 7, 9]], [1, 2])]
        for checked, given in zip(check_targets(targets, 2, 2), targets, strict=True):
            assert all(torch.equal(checked[key], given[key]) for key in given)

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            ({"boxes": torch.zeros(0, 4)}, "tensor 'labels' in the target of slab 1"),
            ({"box": torch.zeros(0, 4), "labels": torch.zeros(0)}, "tensor 'boxes' in the target of slab 1"),
            (target([[3, 2, 1, 4]], [1]), "x1 < x2.*slab 1"),
            (target([[1, 2, float("nan"), 4]], [1]), "finite.*slab 1"),
            (target([[1, 2, 3, 4]], [0]), r"labels in 1..1 .*got \[0\].*slab 1"),
            (target([[1, 2, 3, 4]], [2]), r"labels in 1..1 .*got \[2\].*slab 1"),
            (target([[1, 2, 3, 4]], [1, 1]), "one integer label per box.*slab 1"),
            ({"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([1.0])}, "integer label.*slab 1"),
            ({"boxes": torch.tensor([1.0, 2, 3, 4]), "labels": torch.tensor([1])}, r"\(N, 4\).*slab 1"),
        ],
    )
    def test_a_bad_target_is_named(self, second: dict[str, Tensor], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_targets([target([[1, 2, 3, 4]], [1]), second], 2, 1)

    @pytest.mark.parametrize("targets", [None, [target([], [])]])
    def test_every_slab_needs_a_target(self, targets: Any) -> None:
        with pytest.raises(ValueError, match="Expected 2 targets"):
            check_targets(targets, 2, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_are_rejected(value: float) -> None:
    check_finite(torch.tensor([0.0, 1e30]), "scores")
    with pytest.raises(ValueError, match="finite scores"):
        check_finite(torch.tensor([0.0, value]), "scores")


def test_fields_that_heads_read_are_checked_and_others_left_alone() -> None:
    full = {**target([[1, 2, 3, 4]], [1]), "age": torch.ones(1), "image_id": torch.ones(7), "name": "a"}
    (checked,) = check_targets([full], 1, 1, ["age"])  # type: ignore[list-item]
    assert sorted(checked) == ["age", "boxes", "image_id", "labels"]
    with pytest.raises(ValueError, match=r"tensor 'weight' in the target of slab 0, got keys \['age', 'boxes'"):
        check_targets([full], 1, 1, ["age", "weight"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"image_id as an array with one row for each of 1 boxes.*slab 0"):
        check_targets([full], 1, 1, ["image_id"])  # type: ignore[list-item]


def test_regions_to_ignore_are_no_lesions() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [2.0, 2, 9, 9]])
    marked = {"boxes": boxes, "labels": torch.tensor([1, 1]), "ignored": torch.tensor([False, True])}
    plain = {"boxes": boxes[:1], "labels": torch.tensor([1])}
    assert split_regions([plain]) == ([plain], None)
    lesions, regions = split_regions([marked, plain])
    assert [target["boxes"].tolist() for target in lesions] == [[[0, 0, 4, 4]]] * 2
    assert regions is not None
    assert [region.tolist() for region in regions] == [[[2, 2, 9, 9]], []]
