"""Results on unevenly spaced series and on files without a preamble: positions and images are the series' own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset

from scripts.data.scans.scan import read_scan
from scripts.inference.detections import ScanResult
from support.fake_dicom import write_ct, write_stack
from support.fake_results import results_of

pytest.importorskip("highdicom")
from highdicom import seg, sr

from scripts.inference.outputs.dicom.lesion_measurements import SCORE
from scripts.inference.outputs.dicom.structured_report import DicomWriter

# mm of each slice; the one at 12 mm lies 7 mm above its neighbour.
HEIGHTS = (0.0, 5.0, 12.0, 17.0, 22.0)


def uids_by_height(results: ScanResult) -> dict[float, str]:
    headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in results.scan.files]
    return {float(header.ImagePositionPatient[2]): header.SOPInstanceUID for header in headers}


def segment_frames(content: bytes) -> list[tuple[float, str, int]]:
    """Height, source image and segment of each frame."""
    return [
        (
            float(frame.PlanePositionSequence[0].ImagePositionPatient[2]),
            frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID,
            frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
        )
        for frame in seg.segread(io.BytesIO(content)).PerFrameFunctionalGroupsSequence
    ]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    """Two lesions: over the slices at 5, 12 and 17 mm, and between the slices at 5 and 12 mm, near to 5 mm."""
    scan = read_scan(write_stack(tmp_path_factory.mktemp("series"), HEIGHTS))
    assert scan.places is not None
    step = scan.spacing[2]
    boxes = [(2.0, 2.0, 4.0 / step + 0.5, 6.0, 7.0, 18.0 / step + 0.5)]
    boxes.append((7.0, 1.0, 6.0 / step + 0.5, 9.0, 3.0, 8.0 / step + 0.5))
    return results_of(scan, boxes, (0.9, 0.6))


def test_frames_on_uneven_slices_lie_where_their_images_do(uneven: ScanResult) -> None:
    content = DicomWriter()(uneven)["lesions_seg.dcm"]
    uid_at = uids_by_height(uneven)
    wanted = [(-95.0, 1), (-88.0, 1), (-83.0, 1), (-95.0, 2)]
    found = segment_frames(content)
    assert sorted(found) == sorted((height, uid_at[height], number) for height, number in wanted)
    masks = seg.segread(io.BytesIO(content)).get_pixels_by_source_instance(
        [uid_at[height - 100.0] for height in HEIGHTS], assert_missing_frames_are_empty=True
    )
    truth = np.zeros((5, 10, 12, 2), dtype=np.uint8)
    truth[1:4, 2:7, 2:6, 0] = 1
    truth[1, 1:3, 7:9, 1] = 1
    np.testing.assert_array_equal(masks, truth)


def test_the_report_on_uneven_slices_names_their_images_and_millimetres(uneven: ScanResult) -> None:
    report = sr.srread(io.BytesIO(DicomWriter()(uneven)["lesions_sr.dcm"]))
    uid_at = uids_by_height(uneven)
    (volume,) = report.content.get_volumetric_roi_measurement_groups()
    points = np.array(volume.roi.graphic_data)
    np.testing.assert_allclose(points[:, :, 2], np.repeat([[-95.0], [-88.0], [-83.0]], 5, axis=1), atol=1e-4)
    named = [image.referenced_sop_instance_uid for image in volume.roi.source_images_for_segmentation]
    assert named == [uid_at[height] for height in (-95.0, -88.0, -83.0)]
    (plane,) = report.content.get_planar_roi_measurement_groups()
    np.testing.assert_allclose(plane.roi.value[:, 2], -95.0, atol=1e-4)
    # The slice that the score is said of is the one nearest to the best place of the lesion.
    for group, entry in ((volume, uneven.entries[0]), (plane, uneven.entries[1])):
        (image,) = group.get_measurements(name=SCORE)[0].referenced_images
        nearest = min(uid_at, key=lambda height, entry=entry: abs(height - entry["key_point_lps_mm"][2]))
        assert image.referenced_sop_instance_uid == uid_at[nearest]
        assert uid_at[HEIGHTS[entry["key_slice"]] - 100.0] == uid_at[nearest]


def bare(path: Path) -> bytes:
    """The data set of a file, without its preamble and meta group."""
    plain = pydicom.Dataset()
    plain.update({element.tag: element for element in pydicom.dcmread(path)})
    content = DicomFileLike(io.BytesIO())
    content.is_little_endian, content.is_implicit_VR = True, True
    write_dataset(content, plain)
    return content.parent.getvalue()


def test_results_on_files_without_a_preamble_are_those_of_whole_files(tmp_path: Path) -> None:
    whole = write_ct(tmp_path / "whole", np.full((5, 9, 11), 40, dtype=np.int16))
    (tmp_path / "bare").mkdir()
    for path in whole.iterdir():
        (tmp_path / "bare" / path.name).write_bytes(bare(path))
    boxes = [(2.0, 2.0, 1.0, 6.0, 7.0, 4.0), (4.0, 5.0, 2.0, 9.0, 8.0, 3.0)]
    frames, surfaces = [], []
    for folder in (whole, tmp_path / "bare"):
        results = results_of(read_scan(folder), boxes, (0.9, 0.6))
        files = DicomWriter()(results)
        frames.append(segment_frames(files["lesions_seg.dcm"]))
        report = sr.srread(io.BytesIO(files["lesions_sr.dcm"]))
        (volume,) = report.content.get_volumetric_roi_measurement_groups()
        images = [image.referenced_sop_instance_uid for image in volume.roi.source_images_for_segmentation]
        surfaces.append((np.array(volume.roi.graphic_data).tolist(), images))
        uid_at = uids_by_height(results)
        assert sorted(frames[-1]) == sorted(
            (height, uid_at[height], number) for height, number in ((-97.5, 1), (-95.0, 1), (-92.5, 1), (-95.0, 2))
        )
    assert frames[0] == frames[1]
    assert surfaces[0] == surfaces[1]
