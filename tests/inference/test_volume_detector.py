"""The detector on a whole scan: a ball at a known place comes back at that place, however the scan is stored."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nibabel import orientations
from torch import nn

from scripts.data.border import body_box
from scripts.data.intensity import IntensityWindow
from scripts.data.scans.scan import read_scan
from scripts.data.scans.volume_files.stored_image import LPS_FROM_RAS
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import SliceBoxes, link_boxes
from scripts.inference.volume_detector import PlaneScale, SlabCutter, VolumeDetector
from scripts.networks import ResNet3d, TwoStageHead, mp3d_fpn
from support.fake_scans import BlobDetector, TwoClassDetector, ball_scan, scan_of, two_balls


def detector(num_slices: int = 9, scale: PlaneScale | None = None, **settings: object) -> VolumeDetector:
    cutter = SlabCutter(resample_z, num_slices, scale=scale or PlaneScale())
    return VolumeDetector(cutter, IntensityWindow(), **{"progress": False, **settings})  # type: ignore[arg-type]


def test_ball_is_found_where_it_lies_in_all_48_orientations(tmp_path: Path) -> None:
    spacing, origin = (0.8, 1.1, 2.5), np.array([-20.0, 35.0, -310.0])
    hu = ball_scan(spacing=spacing)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    values = hu.transpose(2, 1, 0)
    wanted = origin + np.array([30.0, 16.0, 15.0])
    results = []
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turn = np.column_stack([axes, flips]).astype(float)
            stored = orientations.apply_orientation(values, turn)
            stored_affine = affine @ orientations.inv_ornt_aff(turn, values.shape)
            nibabel.save(nibabel.Nifti1Image(stored, LPS_FROM_RAS @ stored_affine), tmp_path / "scan.nii")
            scan = read_scan(tmp_path / "scan.nii")
            (lesion,) = link_boxes(detector()(scan, BlobDetector()))
            box = scan.boxes_to_lps(lesion.box[None])[0]
            results.append(box)
            # The box in stored voxels holds all of the ball and little more.
            low, high = np.split(np.rint(scan.boxes_to_stored(lesion.box[None])[0]).astype(int), 2)
            inside = stored[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
            assert (inside == 400).sum() == (hu == 400).sum()
    np.testing.assert_allclose(results, np.repeat(results[:1], 48, axis=0), atol=1e-4)
    np.testing.assert_allclose((results[0][:3] + results[0][3:]) / 2, wanted, atol=0.6)
    np.testing.assert_allclose(results[0][3:] - results[0][:3], 12.0, atol=2.6)


@pytest.mark.parametrize("border", [None, lambda plane: (1, 0, 5, 4)])
@pytest.mark.parametrize("interval", [2.5, 1.25])
def test_a_scan_and_the_same_slices_in_the_order_of_a_set_give_the_same_slabs(
    interval: float, border: Callable[..., Any] | None
) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (13, 6, 7)).astype(np.int16)
    cutters = [SlabCutter(resample_z, 5, border=border, from_last=from_last) for from_last in (True, False)]
    scan, in_set = (cutter(each, (1, 1, interval)) for cutter, each in zip(cutters, (hu, hu[::-1]), strict=True))
    count = len(scan.positions)
    numbers, mirrored = list(range(count)), list(reversed(range(count)))
    slabs = scan.batch(numbers, scan.volume, torch.nn.Identity())
    for one, other in zip(slabs, in_set.batch(mirrored, in_set.volume, torch.nn.Identity()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    # The first slice of a slab is the nearest to the head: above the middle of a scan, before it in a set.
    if border is None and interval == 2.5:
        np.testing.assert_array_equal(slabs[6], hu[8:3:-1])


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((31, 40, 56), (1.0, 1.0, 1.0)),
        ((7, 40, 56), (1.0, 1.0, 5.0)),
        ((10, 40, 56), (1.0, 1.0, 3.27)),
        ((121, 40, 56), (1.0, 1.0, 0.25)),
        ((12, 80, 56), (1.0, 0.5, 2.5)),
    ],
    ids=["thin", "thick", "odd", "very thin", "anisotropic"],
)
def test_ball_is_found_whatever_the_voxels(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    scan = scan_of(ball_scan(shape=shape, spacing=spacing), spacing)
    found = detector()(scan, BlobDetector())
    (lesion,) = link_boxes(found)
    box = scan.boxes_to_lps(lesion.box[None])[0]
    np.testing.assert_allclose((box[:3] + box[3:]) / 2, (30.0, 16.0, 15.0), atol=1.3)
    np.testing.assert_allclose(box[3:] - box[:3], 12.0, atol=3.3)
    # The key slice is the one of the largest section, at the ball's centre.
    assert found.positions[lesion.key] * spacing[2] == pytest.approx(15.0, abs=2.5)


@pytest.mark.parametrize(
    ("scale", "size"),
    [
        (PlaneScale(image_size=28), (20, 28)),
        (PlaneScale(pixel_spacing=0.5), (80, 112)),
        (PlaneScale(pixel_spacing=2.0), (20, 28)),
    ],
)
def test_boxes_come_back_from_resized_slices(scale: PlaneScale, size: tuple[int, int]) -> None:
    scan = scan_of(ball_scan())
    network = BlobDetector()
    found = detector(scale=scale)(scan, network)
    assert {shape[2:] for shape in network.seen.batches} == {size}
    assert found.scale == (size[1] / 56, size[0] / 40)
    (lesion,) = link_boxes(found)
    np.testing.assert_allclose((lesion.box[:2] + lesion.box[3:5]) / 2, (30.5, 16.5), atol=1.1)
    np.testing.assert_allclose(lesion.box[3:5] - lesion.box[:2], 13, atol=3.1)


def test_result_does_not_depend_on_the_batch_size() -> None:
    scan = scan_of(ball_scan())
    reference = detector(batch_size=1)(scan, BlobDetector())
    for batch_size in (2, 5, 100):
        network = BlobDetector()
        found = detector(batch_size=batch_size)(scan, network)
        assert max(shape[0] for shape in network.seen.batches) == min(batch_size, 12)
        np.testing.assert_allclose(found.boxes, reference.boxes, atol=1e-4)
        np.testing.assert_allclose(found.scores, reference.scores, atol=1e-4)
        np.testing.assert_array_equal(found.slices, reference.slices)


class Narrow(nn.Module):
    """A small MP3D network with random weights: all that could let slabs of a batch see each other is in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        body = ResNet3d(layers=(1, 1, 1, 1), width=8, norm_groups=32)
        head = TwoStageHead(fc_channels=16, test_per_level=20, proposals=10)
        self.network = mp3d_fpn(num_slices=3, body=body, fpn_channels=32, head=head)

    def forward(self, slabs: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return self.network(slabs)


def textured_scan(slices: int = 22) -> np.ndarray:
    """A body in which every slice is another."""
    hu = ball_scan(shape=(slices, 64, 80), centre_mm=(40, 30, 25), radius_mm=14)
    grain = np.random.default_rng(0).integers(-200, 200, hu.shape).astype(np.int16)
    return np.where(hu > -500, hu + grain, hu)


@pytest.fixture(scope="module")
def narrow() -> Narrow:
    return Narrow().eval()


def rows_of(found: SliceBoxes, first_mm: float = 0.0) -> dict[float, np.ndarray]:
    """Boxes and scores of each slice by its place in mm, best first."""
    places = found.positions * 2.5 + first_mm
    table = np.column_stack([found.boxes, found.scores])
    return {round(places[at], 3): table[found.slices == at] for at in np.flatnonzero(found.examined)}


def test_result_does_not_depend_on_batch_order_or_how_the_scan_was_split(narrow: Narrow) -> None:
    hu = textured_scan()
    whole = rows_of(detector(3)(scan_of(hu), narrow))
    assert sum(map(len, whole.values())) > 20
    batched = rows_of(detector(3, batch_size=7)(scan_of(hu), narrow))
    # Parts that share two slices: each slice then has its neighbours in one of them.
    parts = [
        rows_of(detector(3, batch_size=4)(scan_of(hu[low:high]), narrow), first_mm=2.5 * low)
        for low, high in ((0, 12), (10, 22))
    ]
    split = {place: rows for place, rows in parts[0].items() if place < 27}
    split.update({place: rows for place, rows in parts[1].items() if place >= 27})
    slabs = SlabCutter(resample_z, 3)(hu, (1.0, 1.0, 2.5))
    order = np.random.default_rng(1).permutation(len(slabs.positions))
    with torch.inference_mode():
        outputs = narrow(slabs.batch(order.tolist(), slabs.volume, IntensityWindow()))
    shuffled = {
        round(slabs.positions[at] * 2.5, 3): torch.column_stack([output["boxes"], output["scores"]]).numpy()
        for at, output in zip(order, outputs, strict=True)
    }
    for other in (batched, split, shuffled):
        assert set(other) == set(whole)
        for place, rows in whole.items():
            assert len(other[place]) == len(rows), place
            np.testing.assert_allclose(other[place], rows, atol=1e-4, err_msg=str(place))


def test_slices_without_a_body_are_not_shown_to_the_network() -> None:
    hu = ball_scan()
    hu[:4] = -1000
    network = BlobDetector()
    found = detector()(scan_of(hu), network)
    assert sum(shape[0] for shape in network.seen.batches) == 8
    assert not found.examined[:4].any()
    assert found.slices.min() >= 4


def test_scan_of_air_gives_nothing() -> None:
    network = BlobDetector()
    found = detector()(scan_of(np.full((5, 20, 20), -1000, dtype=np.int16)), network)
    assert network.seen.batches == []
    assert found.boxes.shape == (0, 4)
    assert link_boxes(found) == []


def test_one_slice_scan() -> None:
    found = detector()(scan_of(ball_scan()[6:7]), BlobDetector())
    (lesion,) = link_boxes(found)
    np.testing.assert_allclose(lesion.box[[2, 5]], (0, 1))


@pytest.mark.parametrize("num_slices", [1, 3, 11])
def test_slabs_have_the_number_of_slices_asked_for(num_slices: int) -> None:
    network = BlobDetector()
    detector(num_slices)(scan_of(ball_scan()), network)
    assert {shape[1] for shape in network.seen.batches} == {num_slices}


def test_threshold_drops_lower_scores_only() -> None:
    scan = scan_of(ball_scan())
    everything = detector()(scan, BlobDetector())
    threshold = float(np.median(everything.scores))
    found = detector(score_threshold=threshold)(scan, BlobDetector())
    np.testing.assert_array_equal(found.scores, everything.scores[everything.scores >= threshold])


class Constant(nn.Module):
    """Gives the same boxes and scores for every slab."""

    def __init__(self, boxes: list[list[float]], scores: list[float], num_slices: int | None = None) -> None:
        super().__init__()
        self.output = {"boxes": torch.tensor(boxes).reshape(-1, 4), "scores": torch.tensor(scores)}
        self.half_seen: list[torch.dtype] = []
        self.weight = nn.Parameter(torch.ones(2, 2))
        if num_slices is not None:
            self.backbone = nn.Module()
            self.backbone.num_slices = num_slices  # type: ignore[assignment]

    def forward(self, slabs: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        self.half_seen.append((self.weight @ self.weight).dtype)
        return [self.output for _ in slabs]


def test_boxes_over_the_border_are_clipped_and_flat_ones_dropped() -> None:
    network = Constant([[-5.0, 30.0, 10.0, 99.0], [60.0, 1.0, 70.0, 9.0]], [0.9, 0.8])
    found = detector()(scan_of(ball_scan()), network)
    np.testing.assert_array_equal(found.boxes, np.repeat([[0.0, 30.0, 10.0, 40.0]], 12, axis=0))


@pytest.mark.parametrize(
    ("boxes", "score"), [([[1.0, 1.0, float("nan"), 3.0]], 0.5), ([[1.0, 1.0, 2.0, 2.0]], float("nan"))]
)
def test_nan_from_the_network_is_an_error(boxes: list, score: float) -> None:
    with pytest.raises(FloatingPointError, match="NaN or infinity for lattice slice 0"):
        detector()(scan_of(ball_scan()), Constant(boxes, [score]))


def test_network_for_another_number_of_slices_is_rejected() -> None:
    with pytest.raises(ValueError, match="num_slices 11 as in the network's weights, got 9"):
        detector()(scan_of(ball_scan()), Constant([], [], num_slices=11))


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (None, torch.float32),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
    ],
)
def test_precision_is_as_asked_on_the_cpu(asked: torch.dtype | None, seen: torch.dtype) -> None:
    network = Constant([[1.0, 1.0, 2.0, 2.0]], [0.5])
    found = detector(amp_dtype=asked)(scan_of(ball_scan()), network)
    assert set(network.half_seen) == {seen}
    assert len(found.boxes) == 12


def test_network_is_left_in_the_mode_it_was_in() -> None:
    network = BlobDetector().train()
    detector()(scan_of(ball_scan()), network)
    assert network.training


def test_progress_bar_shows_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    detector(progress=True)(scan_of(ball_scan()), BlobDetector())
    shown = capsys.readouterr().err
    assert "slices" in shown
    assert "12/12" in shown
    assert "<" in shown


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"score_threshold": 1.5}, {"score_threshold": -0.1}])
def test_settings_are_checked(settings: dict) -> None:
    with pytest.raises(ValueError, match="Expected a"):
        detector(**settings)


class OpenDetector(nn.Module):
    """Two boxes in every slab, with further fields in half precision and in pixels of the slab."""

    def __init__(self, **spoilt: torch.Tensor) -> None:
        super().__init__()
        self.spoilt = spoilt

    def forward(self, slabs: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        boxes = torch.tensor([[4.0, 8.0, 20.0, 24.0], [-8.0, 0.0, 8.0, 16.0]])
        mask = torch.zeros(2, 8, 8)
        mask[:, :, 4:] = 1
        fields = {
            "age": torch.tensor([0.25, 0.5]).bfloat16(),
            "diameters": torch.tensor([[8.0, 4.0]] * 2),
            "masks": mask,
        }
        found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "labels": torch.ones(2).long(), **fields}
        return [{**found, **self.spoilt} for _ in slabs]


def test_fields_come_in_pixels_of_the_scan_a_row_for_each_box() -> None:
    scan = scan_of(ball_scan(), spacing=(1.0, 1.0, 2.5))
    found = detector(scale=PlaneScale(0.5))(scan, OpenDetector())
    assert found.scale == (2.0, 2.0)
    assert found.fields.keys() == {"age", "diameters", "masks"}
    each = len(found.scores) // 2
    assert found.fields["age"].tolist() == [0.25, 0.5] * each
    np.testing.assert_allclose(found.fields["diameters"], [[4.0, 2.0]] * 2 * each)
    np.testing.assert_allclose(found.boxes[:2], [[2, 4, 10, 12], [0, 0, 4, 8]])
    # The second box loses its left half at the border, and with it the empty half of its mask.
    assert found.fields["masks"][0, :, :4].max() == 0
    assert found.fields["masks"][1, :, 1:].min() == 1
    scores = detector(scale=PlaneScale(0.5), score_threshold=0.85)(scan, OpenDetector())
    assert scores.fields["age"].tolist() == [0.25] * each


def test_a_field_that_is_not_finite_is_rejected_by_name() -> None:
    network = OpenDetector(age=torch.tensor([0.5, float("nan")]))
    with pytest.raises(FloatingPointError, match=r"finite age, .* for lattice slice 0"):
        detector()(scan_of(ball_scan()), network)


@pytest.mark.parametrize("scale", [PlaneScale(), PlaneScale(0.7, longest_side=70), PlaneScale(None, 90, 1)])
def test_a_ball_is_found_where_it_lies_in_slices_cut_to_the_body(scale: PlaneScale) -> None:
    scan = scan_of(ball_scan())
    whole, cut = detector(scale=PlaneScale()), detector(scale=scale)
    object.__setattr__(cut.cutter, "border", body_box)
    (wanted,), (found,) = (link_boxes(one(scan, BlobDetector())) for one in (whole, cut))
    np.testing.assert_allclose(found.box, wanted.box, atol=1.2)


def test_a_network_that_reads_it_is_told_the_distance_of_slices() -> None:
    told = []

    class Told(BlobDetector):
        reads_thickness = True

        def forward(self, slabs: Any, targets: None = None, thickness: float = 0.0) -> list[dict[str, torch.Tensor]]:
            told.append(thickness)
            return super().forward(slabs)

    detector()(scan_of(ball_scan()), Told())
    cutter = SlabCutter(resample_z, 9, 2.0, native=True)
    VolumeDetector(cutter, IntensityWindow(), progress=False)(scan_of(ball_scan(), (1.0, 1.0, 5.0)), Told())
    assert set(told) == {2.5, 5.0}


def test_overlapping_balls_of_two_classes_are_two_lesions() -> None:
    scan = scan_of(two_balls())
    # Of one class they are one lesion.
    (_,) = link_boxes(detector()(scan, BlobDetector()))
    found = detector()(scan, TwoClassDetector())
    lesions = link_boxes(found)
    assert sorted(lesion.label or 0 for lesion in lesions) == [1, 2]
    for lesion in lesions:
        assert set(found.fields["labels"][list(lesion.members)].tolist()) == {lesion.label}
    first, second = (one.box for one in sorted(lesions, key=lambda lesion: lesion.label or 0))
    assert first[2] < second[2] < first[5] < second[5]


def test_classes_are_told_where_the_network_distinguishes_several_and_only_there() -> None:
    assert "labels" not in detector()(scan_of(ball_scan()), BlobDetector()).fields
    for hu in (np.full((4, 40, 56), 40, dtype=np.int16), np.full((4, 40, 56), -1000, dtype=np.int16)):
        found = detector()(scan_of(hu), TwoClassDetector())
        assert found.fields["labels"].shape == (0,)
        assert link_boxes(found) == []
