"""Sampler: a pass that begins anywhere gives the rest of the whole pass, and the next one is whole again."""

from __future__ import annotations

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
