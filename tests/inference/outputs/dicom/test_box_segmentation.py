"""Masks of boxes: as few layers as it takes, put together without a bit out of place."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes

from scripts.inference.outputs.dicom.source_images import Outlined, Rectangle, SourceSlice, read_sources
from support.fake_dicom import write_ct

hd = pytest.importorskip("highdicom")
from highdicom import seg  # noqa: E402

from scripts.inference.outputs.dicom.box_segmentation import segment_boxes  # noqa: E402

EQUIPMENT = {
    "series_instance_uid": "1.2.9",
    "series_number": 1,
    "sop_instance_uid": "1.2.9.1",
    "instance_number": 1,
    "manufacturer": "m",
    "manufacturer_model_name": "n",
    "software_versions": "1",
    "device_serial_number": "0",
    "series_description": "boxes",
    "specific_character_set": "ISO_IR 192",
}
ALGORITHM = hd.AlgorithmIdentificationSequence("a", codes.cid7162.ArtificialIntelligence, "1")


def outlined(number: int, cuts: dict[int, tuple[float, float, float, float]]) -> Outlined:
    rectangles = [Rectangle(index, np.array(edges, float), np.zeros((5, 3))) for index, edges in cuts.items()]
    return Outlined({"lesion": number, "score": 0.5}, rectangles, f"1.2.7.{number}", 0)


# 8 x 8 pixels are whole bytes in one frame, 5 x 7 are not.
@pytest.fixture(scope="module", params=[(8, 8), (5, 7)])
def slices(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[SourceSlice]:
    folder = write_ct(tmp_path_factory.mktemp("series"), np.zeros((6, *request.param), dtype=np.int16))
    return read_sources(sorted(folder.iterdir())[::-1])


def masks(segmentation: Dataset, slices: list[SourceSlice]) -> np.ndarray:
    uids = [one.header.SOPInstanceUID for one in slices]
    return seg.Segmentation.from_dataset(segmentation).get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True
    )


def test_overlapping_boxes_are_whole(slices: list[SourceSlice]) -> None:
    cuts = [
        {1: (0, 0, 3, 3), 2: (0, 0, 3, 3)},
        {2: (2, 2, 5, 5), 3: (2, 2, 5, 5), 4: (2, 2, 5, 5)},
        {2: (1.4, 1.6, 4.4, 4.6)},
        {0: (3, 3, 5, 5)},
    ]
    lesions = [outlined(number, cut) for number, cut in enumerate(cuts, start=1)]
    found = masks(segment_boxes(slices, lesions, ALGORITHM, EQUIPMENT), slices)
    truth = np.zeros_like(found)
    for number, cut in enumerate(cuts):
        for index, edges in cut.items():
            c1, r1, c2, r2 = (round(edge) for edge in edges)
            truth[index, r1:r2, c1:c2, number] = 1
    truth[2, :, :, 2] = 0
    truth[2, 2:5, 1:4, 2] = 1
    np.testing.assert_array_equal(found, truth)


def test_boxes_side_by_side_need_one_layer(slices: list[SourceSlice]) -> None:
    segmentation = segment_boxes(
        slices, [outlined(1, {1: (0, 0, 2, 2)}), outlined(2, {1: (2, 0, 4, 2)})], ALGORITHM, EQUIPMENT
    )
    assert segmentation.SegmentsOverlap == "NO"
    assert masks(segmentation, slices)[1].sum() == 8


def test_box_around_no_pixel_centre_takes_the_pixel_in_its_middle(slices: list[SourceSlice]) -> None:
    found = masks(segment_boxes(slices, [outlined(1, {3: (2.6, 1.7, 2.9, 1.9)})], ALGORITHM, EQUIPMENT), slices)
    assert np.argwhere(found[..., 0]).tolist() == [[3, 1, 2]]


def test_box_over_the_border_ends_there(slices: list[SourceSlice]) -> None:
    rows, columns = slices[0].header.Rows, slices[0].header.Columns
    lesions = [outlined(1, {0: (-4, -4, 1, 1), 5: (columns - 1, rows - 1, columns + 5, rows + 5)})]
    found = masks(segment_boxes(slices, lesions, ALGORITHM, EQUIPMENT), slices)
    assert np.argwhere(found[..., 0]).tolist() == [[0, 0, 0], [5, rows - 1, columns - 1]]


def test_many_boxes_on_each_other_are_each_whole(slices: list[SourceSlice]) -> None:
    """Every segment has its own frames, however many share a slice."""
    lesions = [outlined(number, {index: (0, 0, 2 + number % 3, 3) for index in (1, 4)}) for number in range(1, 121)]
    segmentation = segment_boxes(slices, lesions, ALGORITHM, EQUIPMENT)
    assert (len(segmentation.SegmentSequence), segmentation.NumberOfFrames) == (120, 240)
    assert segmentation.SegmentsOverlap == "YES"
    found = masks(segmentation, slices)
    assert found.sum(axis=(0, 1, 2)).tolist() == [2 * 3 * (2 + number % 3) for number in range(1, 121)]
