"""Sampler: a pass that begins anywhere gives the rest of the whole pass, and the next one is whole again."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from monai.data import DataLoader, DistributedSampler

from scripts.data.transforms import SampleDataset
from scripts.training.resuming.sample_order import ResumableSampler, training_data
from support.two_processes import in_two_processes

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

    def sampler(self, fraction: float | None, **options: Any) -> ResumableSampler:
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

    def test_more_than_there_are_come_again(self, caplog: pytest.LogCaptureFixture) -> None:
        self.epochs(1 / 3, 1)
        assert "more than once" not in caplog.text
        (epoch,) = self.epochs(0.5, 1)
        assert "more than once" in caplog.text
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

    def hard(self, folder: Path, marked: dict[int, float], fraction: float = 1 / 3) -> ResumableSampler:
        """A sampler with the detections of an evaluation, of which the best of some slices scores so much."""
        path = folder / "detections.csv"
        rows = [f"{index}.png,1,2,8,9,{score}" for index, score in marked.items()]
        path.write_text("\n".join(["id,x1,y1,x2,y2,score", "3.png,1,2,8,9,0.99", *rows]))
        known = {"image_size": (64, 64)}
        records = [{**record, "file_name": f"{index}.png", **known} for index, record in enumerate(self.DATA.data)]
        return ResumableSampler(
            SampleDataset(records), background_fraction=fraction, hard_negatives=path, num_replicas=1, rank=0
        )

    def test_half_of_the_others_are_those_that_an_evaluation_marks(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            own = self.hard(tmp_path, {11: 0.9, 12: 0.5, 13: 0.8, 14: 0.49})
        assert "are in 3 of the 7 slices without a lesion: an epoch has 2 of these" in caplog.text
        assert len(own) == 15
        taken = np.zeros(17, dtype=int)
        for number in range(12):
            own.set_epoch(number)
            epoch = np.bincount(list(own), minlength=17)
            assert epoch[:10].tolist() == [1] * 10
            assert (epoch[[11, 12, 13]].sum(), epoch[[10, 14, 15, 16]].sum()) == (2, 3)
            assert epoch.max() == 1
            taken += epoch
        assert set(taken[[11, 12, 13]]) == {8}
        assert set(taken[[10, 14, 15, 16]]) == {9}

    @pytest.mark.parametrize(("marked", "hard"), [((), 0), ((12,), 1), (range(10, 17), 5)])
    def test_few_or_all_of_the_others_are_hard(self, tmp_path: Path, marked: Sequence[int], hard: int) -> None:
        own = self.hard(tmp_path, dict.fromkeys(marked, 0.7))
        own.set_epoch(1)
        epoch = list(own)
        assert len(epoch) == len(set(epoch)) == 15
        assert len(set(epoch) & set(marked)) == hard

    def test_files_that_do_not_fit(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="Expected a background_fraction"):
            ResumableSampler(self.DATA, hard_negatives=tmp_path / "a.csv", num_replicas=1, rank=0)
        own = tmp_path / "detections.csv"
        own.write_text("id,x1,y1,x2,y2,score\nelsewhere.png,1,2,8,9,0.5\n")
        records = [{**record, "file_name": "a.png", "image_size": (64, 64)} for record in self.DATA.data]
        with pytest.raises(ValueError, match=r"key slices of this data set, got none of them in .*detections\.csv"):
            ResumableSampler(
                SampleDataset(records), background_fraction=0.5, hard_negatives=own, num_replicas=1, rank=0
            )

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


def loader_of(names: Sequence[str], box: float = 1.0) -> Any:
    instances = {"boxes": np.array([[0, 0, 2, box]]), "labels": np.array([1])}
    return SimpleNamespace(dataset=SampleDataset([{"file_name": name, "instances": instances} for name in names]))


def tell_data(rank: int, folder: Path) -> None:
    """Two processes with their own copies of a data set, of which one is another."""
    same = training_data(loader_of(["a", "b"]))
    try:
        training_data(loader_of(["a", "b"], box=1.0 + rank))
    except ValueError as error:
        (folder / f"{rank}.txt").write_text(f"{same['training_data'][:9]} {error}")


def test_training_data_are_known_by_names_boxes_and_order(tmp_path: Path) -> None:
    own = training_data(loader_of(["a", "b"]))["training_data"]
    others = [loader_of(["a", "c"]), loader_of(["b", "a"]), loader_of(["a", "b"], box=2.0)]
    regions = loader_of(["a", "b"])
    for record in regions.dataset.data:
        record["instances"]["ignored"] = np.array([True])
    others.append(regions)
    assert training_data(loader_of(["a", "b"])) == {"training_data": own}
    assert len({own, *(training_data(other)["training_data"] for other in others)}) == 5
    assert training_data(None) == training_data(SimpleNamespace(dataset=SampleDataset([1, 2]))) == {}
    in_two_processes(tell_data, tmp_path)
    for rank in (0, 1):
        assert re.fullmatch(
            r"2 images, Expected the same training images and labels in every process, got 2 images, \w+; 2 images, "
            r"\w+ by process: does every machine see the same data set\?",
            (tmp_path / f"{rank}.txt").read_text(),
        )
