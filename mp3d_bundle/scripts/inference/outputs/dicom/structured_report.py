"""Lesions as DICOM: a structured report (TID 1500) and a segmentation, next to the source images.

Only for scans that were read from DICOM, whose patient, study and frame of reference they share. The report
holds the numbers; the segmentation shows boxes or masks in viewers that do not draw 3D coordinates of reports.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highdicom as hd
from highdicom import sr
from highdicom.sr import CodedConcept
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ....storage.result_files import OUTPUTS
from ...detections import Lesion, ScanResult
from ..lesions_document import bundle_version
from .box_segmentation import masked, segment_boxes
from .lesion_measurements import evaluations, lines, measurements, sites
from .mask_regions import outlines_on
from .source_images import Outlined, Rectangle, SourceSlice, cut, nearest, read_sources

logger = logging.getLogger(__name__)
# It logs every module of attributes that it copies.
logging.getLogger("highdicom").setLevel(logging.WARNING)

MANUFACTURER = "MP3D bundle"
PRODUCT = "MP3D lesion detector"
_NUMBER = CodedConcept("246206008", "SCT", "Number of lesions")
_LESIONS = CodedConcept("{lesions}", "UCUM", "lesions")
# Texts of this kind have at most 64 characters.
_SERIES = "Lesion {}. Not a medical device; research use only"
_REPORT_SERIES, _BOXES_SERIES = 9001, 9002
_REPORT, _SEGMENTS = OUTPUTS["dicom"].files


@dataclass(frozen=True)
class DicomWriter:
    """Write ``lesions_sr.dcm`` and ``lesions_seg.dcm``.

    Attributes:
        version: Of the software, as written to the files.
        deflate_above_megabytes: A segmentation with more millions of bytes of pixels is written deflated. The masks of
            hundreds of boxes are nearly all zeros. Some viewers cannot read deflated files, so small ones stay plain.
    """

    version: str = field(default_factory=bundle_version)
    deflate_above_megabytes: float = 8.0

    def __call__(self, result: ScanResult) -> dict[str, bytes]:
        """Write the results of one scan.

        Args:
            result: The results of the scan.

        Returns:
            ``lesions_sr.dcm``, and ``lesions_seg.dcm`` unless no lesion was found; nothing for a scan that was
            not read from DICOM, or (with a warning) whose headers lack required references.
        """
        scan = result.scan
        if scan.series is None:
            return {}
        try:
            return self._write(result)
        # Headers of all kinds come from scanners and archives: a bad header must not cost a lesion.
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            logger.warning("%s: no DICOM results are written. %s", scan.path, error)
            logger.debug("%s", scan.path, exc_info=True)
            return {}

    def _write(self, result: ScanResult) -> dict[str, bytes]:
        document = result.document
        slices = read_sources(result.scan.files, result.scan.headers)
        earlier = {name: _earlier(result.folder, name, slices[0].header) for name in (_REPORT, _SEGMENTS)}
        outlined = [
            Outlined(
                entry, _on_images(result, lesion, entry, slices), hd.UID(), nearest(slices, entry["key_point_lps_mm"])
            )
            for lesion, entry in zip(result.lesions, result.entries, strict=True)
        ]
        shown = "outlines" if masked(outlined) else "boxes"
        with warnings.catch_warnings():
            # Names are written as in the images, even if highdicom would change them.
            warnings.filterwarnings("ignore", message=".*person name")
            files = {_REPORT: _bytes(self._report(slices, outlined, document, earlier[_REPORT]))}
            if outlined:
                equipment = self._equipment(_BOXES_SERIES, shown, earlier[_SEGMENTS])
                boxes = segment_boxes(slices, outlined, _algorithm(document, self.version), equipment)
                # Neither RLE nor JPEG-LS takes pixels of one bit.
                if len(boxes.PixelData) > self.deflate_above_megabytes * 1e6:
                    boxes.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
                files[_SEGMENTS] = _bytes(boxes)
        return files

    def _equipment(self, number: int, shown: str, earlier: Dataset | None) -> dict[str, Any]:
        """What both files say about themselves, and about what they show.

        A file joins the series of the one before it, if all that a series has in common is the same.
        """
        described = _SERIES.format(shown)
        joins = earlier is not None and (earlier.get("SeriesDescription"), earlier.get("SoftwareVersions")) == (
            described,
            self.version,
        )
        return {
            "series_instance_uid": earlier.SeriesInstanceUID if earlier is not None and joins else hd.UID(),
            "series_number": number,
            "sop_instance_uid": hd.UID(),
            "instance_number": int(earlier.InstanceNumber) + 1 if earlier is not None and joins else 1,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": PRODUCT,
            "software_versions": self.version,
            "device_serial_number": "0",
            "series_description": described,
            "content_qualification": hd.ContentQualificationValues.RESEARCH,
            "specific_character_set": "ISO_IR 192",
        }

    def _report(
        self,
        slices: Sequence[SourceSlice],
        outlined: Sequence[Outlined],
        document: Mapping[str, Any],
        earlier: Dataset | None,
    ) -> sr.Comprehensive3DSR:
        """The structured report; one that it takes the place of is its predecessor."""
        algorithm = sr.AlgorithmIdentification(
            _algorithm_name(document), self.version, parameters=_parameters(document)
        )
        frame = str(slices[0].header.FrameOfReferenceUID)
        names = document["model"].get("tags", ())
        # All report readers show the observer: the notices are added to its name.
        name = " ".join([f"{PRODUCT}.", *document["notices"]])
        device = sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name=name, manufacturer_name=MANUFACTURER, model_name=PRODUCT
        )
        observer = sr.ObserverContext(codes.DCM.Device, device)
        groups = [
            *(_group(one, slices, frame, algorithm, names) for one in outlined),
            *(_axes(one, measured, algorithm) for one in outlined if (measured := lines(one.entry, frame, algorithm))),
            *([] if outlined else [_nothing(algorithm)]),
        ]

        def content(measured: Sequence[Any]) -> sr.MeasurementReport:
            return sr.MeasurementReport(
                observation_context=sr.ObservationContext(observer_device_context=observer),
                procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
                imaging_measurements=measured,
                title=codes.DCM.ImagingMeasurementReport,
            )

        report = sr.Comprehensive3DSR(
            evidence=[one.header for one in slices],
            content=content(groups[:1]),
            is_complete=True,
            previous_versions=None if earlier is None else [earlier],
            **self._equipment(_REPORT_SERIES, "outlines" if masked(outlined) else "boxes", earlier),
        )
        # highdicom copies and searches all of its input, which takes longer than making it.
        report.update(content(groups)[0])
        return report


def _on_images(
    result: ScanResult, lesion: Lesion, entry: Mapping[str, Any], slices: Sequence[SourceSlice]
) -> list[Rectangle]:
    """Position of a lesion on the images: its masks, or its box."""
    rectangles = cut(result.scan, lesion.box, slices)
    return outlines_on(result.scan, result.found, lesion, rectangles, slices) if "outline" in entry else rectangles


def _algorithm_name(document: Mapping[str, Any]) -> str:
    """Name of the network as the weights give it, and of their file: at most 64 characters, as DICOM demands."""
    model = document["model"]
    return f"{model['name'] or 'unnamed detector'}, weights {model['weights'] or 'unnamed'}"[:64]


def _algorithm(document: Mapping[str, Any], version: str) -> hd.AlgorithmIdentificationSequence:
    return hd.AlgorithmIdentificationSequence(
        _algorithm_name(document), codes.cid7162.ArtificialIntelligence, version, source=MANUFACTURER
    )


def _parameters(document: Mapping[str, Any]) -> list[str]:
    """The settings of the run and the hash of the weights, one text each."""
    settings = {**document["settings"], "weights_sha256": document["model"]["sha256"]}
    return [f"{name}={value}" for name, value in settings.items() if value is not None]


def _group(
    one: Outlined,
    slices: Sequence[SourceSlice],
    frame: str,
    algorithm: sr.AlgorithmIdentification,
    tags: Sequence[str],
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """One lesion of the report: its rectangles or outlines on the images, its numbers and its tags.

    Several are a volume's surface; a single one has to be a planar region.
    """
    key = slices[one.key].header
    image = sr.SourceImageForMeasurement(key.SOPClassUID, key.SOPInstanceUID)
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(one.tracking, one.name),
        "finding_type": codes.SCT.Lesion,
        "algorithm_id": algorithm,
        "finding_sites": sites(one.entry),
        "measurements": measurements(one.entry, image, algorithm, tags),
        "qualitative_evaluations": evaluations(one.entry, tags),
    }
    polygon = sr.GraphicTypeValues3D.POLYGON
    corners = [rectangle.corners for rectangle in one.rectangles]
    if len(corners) == 1:
        region = sr.ImageRegion3D(polygon, corners[0], frame)
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **common)
    headers = [slices[rectangle.index].header for rectangle in one.rectangles]
    images = [sr.SourceImageForSegmentation(header.SOPClassUID, header.SOPInstanceUID) for header in headers]
    surface = sr.VolumeSurface(polygon, corners, frame, source_images=images)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_volume_surface=surface, **common)


def _axes(
    one: Outlined, measured: Sequence[sr.Measurement], algorithm: sr.AlgorithmIdentification
) -> sr.MeasurementsAndQualitativeEvaluations:
    """The axes of a lesion again, as lines in the patient, under the tracking of the lesion."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(one.tracking, one.name),
        finding_type=codes.SCT.Lesion,
        algorithm_id=algorithm,
        measurements=measured,
    )


def _nothing(algorithm: sr.AlgorithmIdentification) -> sr.MeasurementsAndQualitativeEvaluations:
    """The only group of a report on a scan without lesions: their number is zero."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(hd.UID(), "Whole scan"),
        finding_type=codes.SCT.Lesion,
        algorithm_id=algorithm,
        measurements=[sr.Measurement(_NUMBER, 0, _LESIONS)],
    )


def _earlier(folder: Path | None, name: str, header: Dataset) -> Dataset | None:
    """The file of an earlier run in the folder, if it is ours and of the same study."""
    if folder is None or not (folder / name).is_file():
        return None
    try:
        earlier = dcmread(folder / name, stop_before_pixels=True)
        same = (earlier.Manufacturer, earlier.StudyInstanceUID) == (MANUFACTURER, header.StudyInstanceUID)
        return earlier if same and int(earlier.InstanceNumber) > 0 and earlier.SeriesInstanceUID else None
    except (AttributeError, InvalidDicomError, OSError, TypeError, ValueError):
        logger.warning("%s: an earlier file that cannot be read is replaced.", folder / name)
        return None


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
