"""Laws of the training order: the parts of a pass are the whole, for any cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from monai.data import DistributedSampler

from scripts.data.transforms import SampleDataset
from scripts.training.resuming.sample_order import ResumableSampler


def dataset(count: int) -> SampleDataset:
    return SampleDataset([{"index": index} for index in range(count)])


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 9), st.booleans(), st.integers(0, 3), st.data())
def test_a_pass_cut_anywhere_is_the_whole_pass(
    count: int, processes: int, seed: int, shuffle: bool, epoch: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, processes - 1))
    arguments = {"num_replicas": processes, "rank": rank, "seed": seed, "shuffle": shuffle}
    whole = DistributedSampler(dataset(count), **arguments)
    own = ResumableSampler(dataset(count), **arguments)
    for sampler in (whole, own):
        sampler.set_epoch(epoch)
    expected = list(whole)
    cut = data.draw(st.integers(0, len(expected)))
    begun = [index for index, _ in zip(own, range(cut), strict=False)]
    own.start_at(cut)
    assert begun + list(own) == expected
    # The next pass is a whole one again.
    assert list(own) == expected


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 9))
def test_processes_see_every_sample_and_equally_many(count: int, processes: int, seed: int) -> None:
    shares = [
        list(ResumableSampler(dataset(count), num_replicas=processes, rank=rank, seed=seed))
        for rank in range(processes)
    ]
    assert {index for share in shares for index in share} == set(range(count))
    assert len({len(share) for share in shares}) == 1
