"""The seeded data set: random numbers by (seed, epoch, index), readable errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import DataLoader
from monai.data.utils import no_collation
from monai.transforms import RandScaleIntensityd

from scripts.data.transforms import SampleDataset


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
