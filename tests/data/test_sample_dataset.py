"""The seeded data set: random numbers by (seed, epoch, index), readable errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.data.utils import no_collation
from monai.transforms import RandScaleIntensityd, Transform

from scripts.data.slabs.slab_reader import SlabReader
from scripts.data.transforms import (
    ClipBoxesd,
    IntensityWindowd,
    LoadSlabd,
    RandFlipSlabd,
    RandResizeSlabd,
    SampleDataset,
)


def dataset(seed: int = 3, count: int = 4) -> SampleDataset:
    data = [{"image": torch.ones(1, 2, 3)} for _ in range(count)]
    return SampleDataset(data, RandScaleIntensityd(keys="image", factors=0.5, prob=1.0), seed=seed)


def draws(data: SampleDataset, epoch: int, workers: int = 0) -> list[float]:
    data.set_epoch(epoch)
    loader = DataLoader(data, num_workers=workers, batch_size=1, collate_fn=no_collation)
    return [float(batch[0]["image"].mean()) for batch in loader]


def test_an_epoch_can_be_repeated_and_differs_from_others() -> None:
    data = dataset()
    first, second = draws(data, 1), draws(data, 2)
    assert len(set(first + second)) == 8
    assert draws(data, 1) == first
    assert draws(dataset(seed=4), 1) != first


def test_workers_draw_what_one_process_draws() -> None:
    data = dataset()
    assert draws(data, 5, workers=2) == draws(data, 5)


def test_workers_that_stay_alive_follow_the_epoch() -> None:
    data = dataset()
    loader = DataLoader(data, num_workers=1, batch_size=1, collate_fn=no_collation, persistent_workers=True)
    seen = []
    for epoch in (1, 2):
        data.set_epoch(epoch)
        seen.append([float(batch[0]["image"].mean()) for batch in loader])
    assert seen == [draws(data, 1), draws(data, 2)]


def test_the_random_choice_of_boxes_has_a_seed_of_its_own_by_run_epoch_and_sample() -> None:
    def seeds(data: SampleDataset, epoch: int) -> list[int]:
        data.set_epoch(epoch)
        samples: list[Any] = [data[index] for index in range(len(data))]
        return [sample["seed"] for sample in samples]

    first = seeds(dataset(), 1)
    assert seeds(dataset(count=6), 1)[:4] == first
    assert len({*first, *seeds(dataset(), 2), *seeds(dataset(seed=4), 1)}) == 12


def test_the_untouched_record_travels_along() -> None:
    sample: Any = dataset()[0]
    assert torch.equal(sample["record"]["image"], torch.ones(1, 2, 3))
    assert not torch.equal(sample["image"], sample["record"]["image"])


def fail(record: dict[str, Any]) -> dict[str, Any]:
    raise ValueError(f"Expected a slice, got nothing in {record['file_name']}.")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_transform_is_its_own(workers: int) -> None:
    data = SampleDataset([{"file_name": "a.png"}], fail)
    loader = DataLoader(data, num_workers=workers, collate_fn=no_collation)
    with pytest.raises(ValueError, match=r"Expected a slice") as caught:
        list(loader)
    assert str(caught.value).strip().splitlines()[-1].endswith("Expected a slice, got nothing in a.png.")


class Brightened(Transform):
    """Computes on the CPU alone, so that nothing in front of it may wait for the device."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "image": torch.from_numpy(sample["image"].numpy() + np.float32(1))}


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """A key slice of 24 x 24 pixels in a series at 1.7 mm, so that the lattice blends."""
    slices = np.random.default_rng(0).integers(-2000, 3000, (9, 24, 24))
    for number, pixels in enumerate(slices):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), (pixels + 32768).astype(np.uint16))
    boxes, labels = np.array([[3.0, 4, 12, 15], [23.5, 2, 24.2, 9]]), np.array([1, 1])
    place = {"image": str(tmp_path / "004.png"), "file_name": "a_004.png", "key_slice": 4, "slice_range": (0, 8)}
    instances = {"boxes": boxes, "labels": labels}
    return {**place, "slice_interval": 1.7, "image_size": (24, 24), "instances": instances}


@pytest.mark.parametrize("brightened", [False, True])
def test_samples_finished_on_the_device_are_the_same(record: dict[str, Any], brightened: bool) -> None:
    def steps() -> list[Any]:
        more = [Brightened()] if brightened else []
        ends = [RandFlipSlabd("horizontal"), RandFlipSlabd("z"), ClipBoxesd()]
        return [LoadSlabd(SlabReader(5)), *more, IntensityWindowd(), RandResizeSlabd((20, 24, 31)), *ends]

    plain = SampleDataset([record] * 8, steps(), seed=4)
    waiting = SampleDataset([record] * 8, steps(), seed=4, deferred=True)
    for data in (plain, waiting):
        data.set_epoch(3)
    shapes = set()
    loader = DataLoader(waiting, num_workers=1, batch_size=2, collate_fn=no_collation)
    for index, raw in enumerate(sample for batch in loader for sample in batch):
        assert raw["image"].dtype is (torch.float32 if brightened else torch.int16)
        sample, wanted = waiting.finish(raw, "cpu"), plain[index]
        assert sample.keys() == wanted.keys()
        assert torch.equal(sample["image"], wanted["image"])
        for name, values in wanted["instances"].items():
            assert torch.equal(sample["instances"][name], values)
        assert torch.equal(sample["scale_factor"], wanted["scale_factor"])
        assert waiting.finish(sample, "cpu") is sample
        shapes.add(tuple(sample["image"].shape))
    assert len(shapes) > 1


def test_a_deferred_reader_names_the_file_that_is_damaged(record: dict[str, Any]) -> None:
    Path(record["image"]).write_bytes(b"nothing")
    data = SampleDataset([record], [LoadSlabd(SlabReader(3)), IntensityWindowd()], deferred=True)
    with pytest.raises(ValueError, match=r"Expected a complete PNG, got 7 bytes .*004\.png"):
        data[0]
