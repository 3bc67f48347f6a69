"""From records to samples: laws, randomness, and real sub-volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, PersistentDataset
from monai.data.utils import no_collation
from monai.transforms import Compose, Transform
from monai.utils import set_determinism

from scripts.data.deeplesion.splits import load_records
from scripts.data.slabs.slab_reader import SlabReader
from scripts.data.transforms import (
    ClipBoxesd,
    FlipSlabd,
    IntensityWindowd,
    LoadSlabd,
    RandFlipSlabd,
    RandResizeSlabd,
    ResizeSlabd,
    Sample,
)
from scripts.instances import select

HEIGHT, WIDTH = 24, 40


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """A record of seven slices with the lesion painted into the key slice."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "000001_01_01"
    folder.mkdir()
    for number in range(1, 8):
        hu = rng.integers(-100, 100, (HEIGHT, WIDTH))
        if number == 4:
            hu[6:15, 10:22] = 1000
        cv2.imwrite(str(folder / f"{number:03d}.png"), (hu + 32768).astype(np.uint16))
    return {
        "image": str(folder / "004.png"),
        "file_name": "000001_01_01_004.png",
        "series": "000001_01_01",
        "patient": "000001",
        "key_slice": 4,
        "source": "labels row 2",
        "slice_range": (1, 7),
        "slice_interval": 2.5,
        "spacing": (0.8, 0.8),
        "image_size": (HEIGHT, WIDTH),
        "window": (-175.0, 275.0),
        "instances": {
            "boxes": np.float32([[10, 6, 22, 15], [35, 20, 41.5, 23]]),
            "labels": np.ones(2, np.int64),
            "noisy": np.array([False, True]),
            "lesion_type": np.array([3, -1]),
        },
    }


def empty(record: dict) -> dict:
    """The record without boxes."""
    return {**record, "instances": select(record["instances"], slice(0))}


def training(num_slices: int = 3) -> Compose:
    """A training pipeline as in the configs, with small scales."""
    return Compose(
        [
            LoadSlabd(SlabReader(num_slices)),
            IntensityWindowd(),
            RandResizeSlabd((30, 40, 55)),
            RandFlipSlabd("horizontal"),
            RandFlipSlabd("vertical", prob=0.0),
            RandFlipSlabd("z"),
            ClipBoxesd(),
        ]
    )


def draws(samples: list[Sample]) -> list[tuple]:
    """The differences between the random choices for samples of one record."""
    return [(tuple(sample["image"].shape), sample["image"].sum(0).tolist()) for sample in samples]


class TestLoadSlabd:
    def test_sample(self, record: dict) -> None:
        sample = LoadSlabd(SlabReader(5))(record)
        assert (sample["image"].shape, sample["image"].dtype) == ((5, HEIGHT, WIDTH), torch.float32)
        assert type(sample["image"]) is torch.Tensor
        assert sample["scale_factor"].tolist() == [1, 1]
        np.testing.assert_array_equal(sample["instances"]["boxes"].numpy(), record["instances"]["boxes"])
        dtypes = {key: values.dtype for key, values in sample["instances"].items()}
        assert dtypes == {
            "boxes": torch.float32,
            "labels": torch.int64,
            "noisy": torch.bool,
            "lesion_type": torch.int64,
        }
        unchanged = set(record) - {"image", "instances"}
        assert {key: sample[key] for key in unchanged} == {key: record[key] for key in unchanged}

    def test_labels_of_another_image_size(self, record: dict) -> None:
        with pytest.raises(ValueError, match=r"\(512, 512\).*004\.png"):
            LoadSlabd(SlabReader(1))({**record, "image_size": (512, 512)})

    def test_size_named_in_the_other_order_is_put_right(self, record: dict) -> None:
        sample = LoadSlabd(SlabReader(1))({**record, "image_size": (WIDTH, HEIGHT)})
        assert sample["image_size"] == (HEIGHT, WIDTH)

    def test_whole_hu(self, record: dict) -> None:
        reader = SlabReader(5)
        other = {**record, "slice_interval": 2.0}
        exact, whole = LoadSlabd(reader)(other), LoadSlabd(reader, dtype="int16")(other)
        assert whole["image"].dtype == torch.int16
        assert 0 < (whole["image"] - exact["image"]).abs().max() <= 0.5
        with pytest.raises(ValueError, match="uint8"):
            LoadSlabd(reader, dtype="uint8")


class TestPipeline:
    def test_sample_is_normalised_and_the_lesion_is_found_again(self, record: dict) -> None:
        pipeline = training()
        pipeline.set_random_state(0)
        sizes = set()
        for _ in range(20):
            sample = pipeline(record)
            sizes.add(max(sample["image"].shape))
            assert sample["image"].dtype == torch.float32
            assert type(sample["image"]) is torch.Tensor
            assert sample["image"].min() > -2.2
            assert sample["image"].max() < 2.3
            rows, columns = torch.nonzero(sample["image"][1] > 1, as_tuple=True)
            pixels = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(pixels, sample["instances"]["boxes"][0].numpy(), atol=1.0)
            # The second box reached out of the image.
            height, width = sample["image"].shape[1:]
            assert (sample["instances"]["boxes"] >= 0).all()
            assert (sample["instances"]["boxes"][:, 2] <= width).all()
            assert (sample["instances"]["boxes"][:, 3] <= height).all()
            assert sample["instances"]["noisy"].tolist() == [False, True]
        assert sizes == {30, 40, 55}

    def test_no_boxes(self, record: dict) -> None:
        sample = training()(empty(record))
        assert sample["instances"]["boxes"].shape == (0, 4)
        assert sample["instances"]["labels"].shape == (0,)

    def test_one_slice(self, record: dict) -> None:
        assert training(1)(record)["image"].shape[0] == 1

    def test_evaluation_keeps_boxes_as_labelled(self, record: dict) -> None:
        sample = Compose([LoadSlabd(SlabReader(3)), IntensityWindowd(), ResizeSlabd(64)])(record)
        back = sample["instances"]["boxes"] / sample["scale_factor"].repeat(2)
        np.testing.assert_allclose(back.numpy(), record["instances"]["boxes"], rtol=1e-6)

    def test_flip_commutes_with_clipping(self, record: dict) -> None:
        loaded = LoadSlabd(SlabReader(1))(record)
        for axis in ("horizontal", "vertical"):
            one = FlipSlabd(axis)(ClipBoxesd()(loaded))
            other = ClipBoxesd()(FlipSlabd(axis)(loaded))
            assert torch.equal(one["instances"]["boxes"], other["instances"]["boxes"])

    def test_window_comes_before_resizing(self, record: dict) -> None:
        # Padding of -3024 next to soft tissue must not weigh more than air.
        image = torch.tensor([[-3024.0, 0.0]]).expand(1, 2, 2)
        sample = {**LoadSlabd(SlabReader(1))(record), "image": image}
        windowed = ResizeSlabd(4)(IntensityWindowd()(sample))["image"]
        air = ResizeSlabd(4)(IntensityWindowd()({**sample, "image": image.clamp(min=-1024)}))["image"]
        assert torch.equal(windowed, air)


class TestRandomness:
    def test_seed_repeats_and_other_seed_differs(self, record: dict) -> None:
        def run(seed: int) -> list[tuple]:
            pipeline = training()
            pipeline.set_random_state(seed)
            return draws([pipeline(record) for _ in range(12)])

        first = run(1)
        assert run(1) == first
        assert run(2) != first
        # Two flips and three scales: the draws are independent of each other.
        assert len({str(draw) for draw in first}) > 4

    def test_last_draw_can_be_replayed(self, record: dict) -> None:
        sample = IntensityWindowd()(LoadSlabd(SlabReader(3))(record))
        for transform in (RandFlipSlabd("horizontal"), RandResizeSlabd((30, 40, 55))):
            transform.set_random_state(3)
            for _ in range(8):
                drawn = transform(sample)
                again = transform(sample, randomize=False)
                assert torch.equal(drawn["image"], again["image"])
                assert torch.equal(drawn["instances"]["boxes"], again["instances"]["boxes"])

    @pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
    def test_frequency_of_flips(self, prob: float) -> None:
        transform = RandFlipSlabd("z", prob)
        transform.set_random_state(0)
        flips = []
        for _ in range(1000):
            transform.randomize(None)
            flips.append(transform.flips)
        assert np.mean(flips) == pytest.approx(prob, abs=0.05 if 0 < prob < 1 else 0)

    def test_scales_are_equally_likely(self) -> None:
        transform = RandResizeSlabd()
        transform.set_random_state(0)
        drawn = []
        for _ in range(3000):
            transform.randomize()
            drawn.append(transform.scale)
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == [448, 512, 576]
        np.testing.assert_allclose(counts / 3000, 1 / 3, atol=0.03)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_loader_repeats_under_set_determinism_and_varies_by_epoch_and_worker(
        self, record: dict, workers: int
    ) -> None:
        def run() -> list[list[tuple]]:
            set_determinism(7)
            dataset = Dataset([record] * 12, training())
            loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=no_collation)
            return [draws([sample for batch in loader for sample in batch]) for _ in range(2)]

        try:
            first, second = run()
            assert run() == [first, second]
        finally:
            set_determinism(None)
        assert first != second
        if workers:
            # Batches alternate between the two workers.
            assert first[0:2] + first[4:6] + first[8:10] != first[2:4] + first[6:8] + first[10:12]

    def test_persistent_cache_holds_the_deterministic_part(
        self, record: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = training().transforms
        plain = Compose([LoadSlabd(SlabReader(3), dtype="int16"), *steps[1:]])
        dataset = PersistentDataset([record], plain, cache_dir=tmp_path / "cache")
        first = dataset[0]
        calls = []
        monkeypatch.setattr(SlabReader, "__call__", lambda *arguments: calls.append(arguments))
        again = [dataset[0] for _ in range(8)]
        assert not calls
        assert len(list((tmp_path / "cache").glob("*.pt"))) == 1
        assert {key: type(value) for key, value in again[0].items()} == {k: type(v) for k, v in first.items()}
        assert len({tuple(sample["image"].shape) for sample in again}) > 1

    @pytest.mark.parametrize("build", [LoadSlabd, IntensityWindowd, ResizeSlabd, FlipSlabd, ClipBoxesd])
    def test_deterministic_transforms_are_known_as_such(self, build: type) -> None:
        # PersistentDataset caches up to the first transform that is random or no `Transform`.
        assert issubclass(build, Transform)


class TestClipBoxesd:
    @staticmethod
    def sample(box: list[list[float]]) -> Sample:
        return {
            "image": torch.zeros(1, 20, 30),
            "file_name": "000001_01_01_004.png",
            "instances": {
                "boxes": torch.tensor(box).reshape(-1, 4),
                "labels": torch.ones(len(box), dtype=torch.int64),
                "noisy": torch.zeros(len(box), dtype=torch.bool),
                "lesion_type": torch.arange(len(box)),
            },
            "scale_factor": torch.ones(2),
            "record": {},
        }

    def test_small_and_outside_boxes_are_dropped_and_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        boxes = [
            [1.0, 1.0, 9.0, 9.0],
            [1.0, 1.0, 1.9, 9.0],
            [1.0, 1.0, 9.0, 1.9],
            [29.5, 1.0, 50.0, 9.0],
            [-9.0, -9.0, -1.0, -1.0],
            [28.0, 18.0, 33.0, 33.0],
            [4.0, 4.0, 5.0, 5.0],
        ]
        transform = ClipBoxesd()
        with caplog.at_level(logging.WARNING):
            sample = transform(self.sample(boxes))
            transform(self.sample(boxes))
        assert sample["instances"]["boxes"].tolist() == [[1, 1, 9, 9], [28, 18, 30, 20], [4, 4, 5, 5]]
        assert sample["instances"]["lesion_type"].tolist() == [0, 5, 6]
        assert len(sample["instances"]["labels"]) == len(sample["instances"]["noisy"]) == 3
        assert len(caplog.records) == 1
        assert "000001_01_01_004.png: 4 of 7 boxes" in caplog.text

    def test_nothing_is_logged_when_nothing_is_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        ClipBoxesd()(self.sample([[1.0, 1.0, 9.0, 99.0]]))
        ClipBoxesd()(self.sample([]))
        assert not caplog.records

    def test_argument_stays(self) -> None:
        sample = self.sample([[1.0, 1.0, 99.0, 9.0]])
        ClipBoxesd()(sample)
        assert sample["instances"]["boxes"].tolist() == [[1, 1, 99, 9]]


@pytest.mark.parametrize(
    "build",
    [
        lambda: RandFlipSlabd("sideways"),
        lambda: FlipSlabd(""),
        lambda: RandFlipSlabd("z", prob=1.5),
        lambda: ResizeSlabd(0),
        lambda: RandResizeSlabd(()),
        lambda: RandResizeSlabd((448, 0)),
        lambda: RandResizeSlabd((448.5,)),
    ],
)
def test_invalid_arguments(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"Expected .* got"):
        build()


def test_real_sub_volumes(shared: Path) -> None:
    folder = shared / "data/deeplesion"
    records = load_records(folder, "test", annotations="DL_info_patient1.csv")
    pipeline = Compose(
        [LoadSlabd(SlabReader(9)), IntensityWindowd(), RandResizeSlabd(), RandFlipSlabd("horizontal"), ClipBoxesd()]
    )
    pipeline.set_random_state(0)
    for record in records:
        sample = pipeline(record)
        side = sample["image"].shape[-1]
        assert sample["image"].shape == (9, side, side)
        x1, y1, x2, y2 = sample["instances"]["boxes"][0].round().int().tolist()
        lesion = sample["image"][4, y1:y2, x1:x2]
        # Soft tissue, not air: -100 HU is about -0.2.
        assert lesion.median() > -0.2
