"""Sampler: a pass that begins anywhere gives the rest of the whole pass, and the next one is whole again."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from monai.data import DataLoader, DistributedSampler

from scripts.data.transforms import SampleDataset
from scripts.training.resuming.sample_order import ResumableSampler

DATA = SampleDataset([{"index": index} for index in range(11)])


def sampler(kind: type[DistributedSampler] = ResumableSampler, rank: int = 0) -> DistributedSampler:
    return kind(DATA, num_replicas=2, rank=rank, seed=3)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pass_resumes_where_it_was_left(rank: int) -> None:
    whole, own = sampler(DistributedSampler, rank), sampler(rank=rank)
    assert isinstance(own, ResumableSampler)
    for epoch in (1, 2):
        whole.set_epoch(epoch)
        own.set_epoch(epoch)
        own.start_at(4)
        assert list(own) == list(whole)[4:]
        assert list(own) == list(whole)
    assert len(own) == len(whole) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_only_the_batches_that_are_left(workers: int) -> None:
    own = sampler()
    assert isinstance(own, ResumableSampler)
    loader = DataLoader(DATA, num_workers=workers, sampler=own, batch_size=2, collate_fn=indices)
    whole = list(loader)
    own.start_at(4)
    assert list(loader) == whole[2:]
    assert len(loader) == 3


def indices(samples: list[dict]) -> list[int]:
    return [sample["index"] for sample in samples]


class TestBackground:
    LESION, NONE = {"boxes": np.zeros((1, 4))}, {"boxes": np.zeros((0, 4))}
    REGION: ClassVar = {"boxes": np.zeros((1, 4)), "ignored": np.array([True])}
    # Ten with lesions, seven without; in one of these is a region to ignore.
    DATA = SampleDataset([{"instances": kind} for kind in [LESION] * 10 + [NONE] * 6 + [REGION]])

    def sampler(self, fraction: float | None, **options: int) -> ResumableSampler:
        return ResumableSampler(self.DATA, background_fraction=fraction, **{"num_replicas": 1, "rank": 0, **options})

    def epochs(self, fraction: float | None, count: int, **options: int) -> list[list[int]]:
        found, own = [], self.sampler(fraction, **options)
        for number in range(1, count + 1):
            own.set_epoch(number)
            found.append(list(own))
        return found

    def test_an_epoch_has_every_lesion_once_and_the_share_of_others(self) -> None:
        assert len(self.sampler(1 / 3)) == 15
        for epoch in self.epochs(1 / 3, 3):
            assert sorted(index for index in epoch if index < 10) == list(range(10))
            assert len({index for index in epoch if index >= 10}) == 5

    def test_over_epochs_all_others_are_taken_equally_often(self) -> None:
        taken = [index for epoch in self.epochs(1 / 3, 7) for index in epoch if index >= 10]
        counts = np.bincount(taken, minlength=17)[10:]
        assert counts.tolist() == [5] * 7

    def test_more_than_there_are_come_again(self) -> None:
        (epoch,) = self.epochs(0.5, 1)
        assert sorted(np.bincount(epoch, minlength=17)[10:].tolist()) == [1, 1, 1, 1, 2, 2, 2]

    def test_a_pass_resumes_and_processes_share_it(self) -> None:
        own = self.sampler(0.25)
        own.set_epoch(4)
        whole = list(own)
        own.start_at(6)
        assert list(own) == whole[6:]
        parts = []
        for rank in (0, 1):
            part = self.sampler(0.25, num_replicas=2, rank=rank)
            part.set_epoch(4)
            parts.append(list(part))
        assert set(whole) == {*parts[0], *parts[1]}

    def test_none_takes_all_as_they_are(self) -> None:
        plain = DistributedSampler(self.DATA, num_replicas=1, rank=0)
        plain.set_epoch(1)
        assert self.epochs(None, 1) == [list(plain)]

    def test_shares_that_cannot_be(self) -> None:
        with pytest.raises(ValueError, match="from 0 to below 1, got 1"):
            self.sampler(1)
        for kind, missing in ((self.LESION, "without"), (self.NONE, "with")):
            with pytest.raises(ValueError, match=f"slices {missing} a lesion .* got none in the 3"):
                ResumableSampler(
                    SampleDataset([{"instances": kind}] * 3), background_fraction=0.5, num_replicas=1, rank=0
                )
