"""A CT with one ball in it, stored in any way, and the truth about the ball in every form that can be imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
from highdicom.seg import SegmentDescription
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from scripts.data.scans.scan import Scan, read_scan
from support.fake_dicom import SERIES, write_ct

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (14, 48, 60)
"""(Z, H, W) of the CT."""
SPACING = (1.0, 1.25, 2.5)
ORIGIN = (-31.0, 12.0, -140.0)


@dataclass(frozen=True)
class Ball:
    """A ball in LPS mm."""

    centre: tuple[float, float, float] = (-8.2, 40.3, -122.0)
    radius: float = 9.0

    def inside(self, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Which voxels ``(I, J, K)`` of a grid (index to LPS mm) have their centre in it."""
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        points = index @ affine[:3, :3].T + affine[:3, 3]
        return np.linalg.norm(points - self.centre, axis=-1) <= self.radius

    def circle(self, scan: Scan, z: int) -> tuple[np.ndarray, float] | None:
        """Centre (canonical x, y, edges) and radius in mm of what it is on a canonical slice."""
        linear, origin = scan.affine[:3, :3], scan.affine[:3, 3]
        target = np.array(self.centre) - origin - linear[:, 2] * z
        place, *_ = np.linalg.lstsq(linear[:, :2], target, rcond=None)
        away = np.linalg.norm(linear[:, :2] @ place - target)
        if away >= self.radius:
            return None
        return place + 0.5, float(np.sqrt(self.radius**2 - away**2))

    def box(self, scan: Scan, z: int) -> np.ndarray:
        """Its slab-frame box ``(4,)`` on a canonical slice."""
        found = self.circle(scan, z)
        assert found is not None
        reach = found[1] / np.array(scan.spacing[:2])
        return np.concatenate([found[0] - reach, found[0] + reach])


BALL = Ball()


def straight_affine() -> np.ndarray:
    """Affine of the canonical grid, index (x, y, z) to LPS mm."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    return affine


def ball_hu(affine: np.ndarray, shape: tuple[int, int, int], ball: Ball = BALL) -> np.ndarray:
    """HU ``(I, J, K)`` of a body in air with a ball in it."""
    hu = np.full(shape, 40, dtype=np.int16)
    hu[:2] = hu[-2:] = -1000
    return np.where(ball.inside(affine, shape), 120, hu).astype(np.int16)


def stored_grid(turn: str) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine (index to LPS mm) and shape ``(I, J, K)`` of a file, plain, flipped, sagittal or tilted."""
    affine, (z, y, x) = straight_affine(), SHAPE
    shape = (x, y, z)
    if turn == "flipped":
        for axis in (0, 2):
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    elif turn == "sagittal":
        affine = affine[:, [1, 2, 0, 3]]
        shape = (y, z, x)
    elif turn == "tilted":
        affine[:3, 2] = (0.0, np.sin(np.radians(15)) * 2.5, np.cos(np.radians(15)) * 2.5)
    return affine, shape


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    """Write ``(I, J, K)`` with its affine to LPS mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, RAS @ affine), path)
    return path


def write_nifti_case(folder: Path, name: str = "case", turn: str = "plain", ball: Ball | None = BALL) -> Path:
    """Write ``images/NAME.nii.gz`` and ``masks/NAME.nii.gz``; without a ball the mask is empty."""
    affine, shape = stored_grid(turn)
    hu = ball_hu(affine, shape, ball or Ball((0.0, 0.0, 1e4)))
    mask = ball.inside(affine, shape) if ball else np.zeros(shape)
    save_nifti(folder / "masks" / f"{name}.nii.gz", mask.astype(np.uint8), affine)
    return save_nifti(folder / "images" / f"{name}.nii.gz", hu, affine)


def write_dicom_case(folder: Path, *, added_hu: int = 0, **tags: object) -> Path:
    """Write the plain grid as a DICOM series, so many HU brighter."""
    affine, shape = stored_grid("plain")
    hu = ball_hu(affine, shape).transpose(2, 1, 0) + np.int16(added_hu)
    return write_ct(folder, hu, origin=ORIGIN, spacing=SPACING, **tags)


def slice_headers(folder: Path) -> list[Dataset]:
    """Headers of a series by height, feet first."""
    headers = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    return sorted(headers, key=lambda header: float(header.ImagePositionPatient[2]))


def write_seg(
    path: Path, series: Path, ball: Ball = BALL, *, mask: np.ndarray | None = None, kind: str = "BINARY", **options: Any
) -> Path:
    """Write the ball, or a mask ``(z, y, x)``, as a DICOM segmentation of a series; empty frames are left out."""
    headers = slice_headers(series)
    affine, shape = stored_grid("plain")
    if mask is None:
        mask = ball.inside(affine, shape).transpose(2, 1, 0).astype(np.uint8)
    code = codes.SCT
    describe = SegmentDescription(
        1, "Lesion 1", code.MorphologicallyAbnormalStructure, code.Lesion, "MANUAL",
    )  # fmt: skip
    found = highdicom.seg.Segmentation(
        *(headers, mask, kind, [describe], generate_uid(), 9, generate_uid(), 1, "maker", "model", "1", "1"), **options
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path)
    return path


def circle_points(centre: np.ndarray, radius: np.ndarray, count: int = 90) -> np.ndarray:
    """Points ``(N, 2)`` on an ellipse."""
    angle = np.arange(count) / count * 2 * np.pi
    return centre + np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius


def write_rtstruct(path: Path, series: Path, name: str = "GTV 1", ball: Ball = BALL, every: int = 1) -> Path:
    """Write the ball's circles on each slice, or each of so many, as an RTSTRUCT."""
    scan = read_scan(series)
    contours = []
    for z in range(0, len(scan.hu), every):
        found = ball.circle(scan, z)
        if found is None:
            continue
        points = circle_points(found[0], found[1] / np.array(scan.spacing[:2]))
        lps = scan.points_to_lps(np.column_stack([points, np.full(len(points), z + 0.5)]))
        item = Dataset()
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.NumberOfContourPoints = len(points)
        item.ContourData = [f"{value:.4f}" for value in lps.ravel()]
        contours.append(item)
    roi, structure = Dataset(), Dataset()
    roi.ReferencedROINumber = structure.ROINumber = 4
    roi.ContourSequence = contours
    structure.ROIName = name
    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = SERIES
    study.RTReferencedSeriesSequence = [referenced]
    frame.RTReferencedStudySequence = [study]
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = RTStructureSetStorage, generate_uid(), "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid()
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [structure], [roi]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def name_slices_alone(path: Path, series: Path) -> Path:
    """Let an RTSTRUCT name the slice of each outline, and no series."""
    dataset = pydicom.dcmread(path)
    del dataset.ReferencedFrameOfReferenceSequence
    headers = slice_headers(series)
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        height = float(contour.ContourData[2])
        nearest = min(headers, key=lambda header: abs(float(header.ImagePositionPatient[2]) - height))
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = nearest.SOPClassUID, nearest.SOPInstanceUID
        contour.ContourImageSequence = [image]
    dataset.save_as(path)
    return path


def pixel_boxes(series: Path, ball: Ball = BALL) -> dict[int, np.ndarray]:
    """Of each slice that the ball is on, from the feet, the bounds ``(4,)`` of its pixels, half-open edges."""
    affine, shape = stored_grid("plain")
    mask = ball.inside(affine, shape).transpose(2, 1, 0)
    found = {}
    for z in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        rows, columns = np.flatnonzero(mask[z].any(axis=1)), np.flatnonzero(mask[z].any(axis=0))
        found[z] = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)
    return found


def write_voc(folder: Path, series: Path, ball: Ball = BALL) -> Path:
    """Write Pascal VOC files named by the UIDs of the slices, pixels from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    headers = slice_headers(series)
    for z, (x1, y1, x2, y2) in pixel_boxes(series, ball).items():
        text = (
            f"<annotation><size><width>{SHAPE[2]}</width><height>{SHAPE[1]}</height><depth>1</depth></size>"
            f"<object><name>A</name><bndbox><xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax>"
            f"<ymax>{y2:g}</ymax></bndbox></object></annotation>"
        )
        (folder / f"{headers[z].SOPInstanceUID}.xml").write_text(text)
    return folder


def write_coco(path: Path, series: Path, ball: Ball = BALL, **image: Any) -> Path:
    """Write a COCO file whose images are named by the files of the slices."""
    names = {
        round(float(header.ImagePositionPatient[2]), 3): Path(str(header.filename)).stem
        for header in slice_headers(series)
    }
    heights = sorted(names)
    images, annotations = [], []
    for number, (z, (x1, y1, x2, y2)) in enumerate(pixel_boxes(series, ball).items()):
        size = {"width": SHAPE[2], "height": SHAPE[1], **image}
        images.append({"id": number, "file_name": f"{series.name}/{names[heights[z]]}.png", **size})
        annotations.append({"id": number, "image_id": number, "category_id": 7, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "tumour"}]}
    path.write_text(json.dumps(content))
    return path


def write_yolo(folder: Path, ball: Ball = BALL, stem: str = "case") -> Path:
    """Write YOLO files ``STEM_NN.txt``, slices counted from 1 at the head, as axial slices are looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for z, (x1, y1, x2, y2) in pixel_boxes(folder, ball).items():
        shares = [(x1 + x2) / 2 / SHAPE[2], (y1 + y2) / 2 / SHAPE[1], (x2 - x1) / SHAPE[2], (y2 - y1) / SHAPE[1]]
        text = f"0 {' '.join(f'{share:.6f}' for share in shares)}\n"
        (folder / f"{stem}_{SHAPE[0] - z:02d}.txt").write_text(text)
    return folder


def write_lidc(path: Path, series: Path, readers: int = 4, ball: Ball = BALL) -> Path:
    """Write an LIDC reading: outlines through the first pixels outside of the ball.

    Every reader outlines the same, each from another point on.
    """
    headers = slice_headers(series)
    sessions = ""
    for reader in range(readers):
        rois = ""
        for z, (x1, y1, x2, y2) in pixel_boxes(series, ball).items():
            rois += lidc_outline(headers[z].SOPInstanceUID, (int(x1), int(y1), int(x2), int(y2)), reader)
        nodule = f"<unblindedReadNodule><noduleID>1</noduleID>{rois}</unblindedReadNodule>"
        sessions += f"<readingSession>{nodule}</readingSession>"
    head = f"<ResponseHeader><SeriesInstanceUid>{SERIES}</SeriesInstanceUid></ResponseHeader>"
    path.write_text(f'<LidcReadMessage xmlns="http://www.nih.gov">{head}{sessions}</LidcReadMessage>')
    return path


def lidc_outline(uid: str, box: tuple[int, int, int, int], reader: int, inclusion: str = "TRUE") -> str:
    """An outline through the first pixels outside of a box, from another point on for each of four readers."""
    x1, y1, x2, y2 = box
    points = [(x1 - 1, y1 - 1), (x2, y1 - 1), (x2, y2), (x1 - 1, y2)]
    first = reader % len(points)
    edges = "".join(
        f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in (*points[first:], *points[:first])
    )
    return f"<roi><imageSOP_UID>{uid}</imageSOP_UID><inclusion>{inclusion}</inclusion>{edges}</roi>"


def ball_bounds(ball: Ball = BALL) -> list[float]:
    """Corners of the ball's box in LPS mm."""
    centre = np.array(ball.centre)
    return [*(centre - ball.radius).tolist(), *(centre + ball.radius).tolist()]
