"""Lesions as DICOM: a structured report (TID 1500) and a segmentation, next to the source images.

Only for scans that were read from DICOM, whose patient, study and frame of reference they share. The report
holds the numbers; the segmentation shows boxes or masks in viewers that do not draw 3D coordinates of reports.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import highdicom as hd
from highdicom import sr
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ....storage.result_files import OUTPUTS
from ...detections import ScanResult
from ..lesions_document import bundle_version
from .box_segmentation import masked, segment_boxes
from .frame_references import name_frames
from .lesion_measurements import evaluations, lines, measurements, sites
from .own_series import MANUFACTURER, PRODUCT, OwnSeries, earlier_file, file_bytes, files_or_warning, outlined_lesions
from .reader_remarks import APPROXIMATE, comment, reader_measurements
from .source_images import Outlined, SourceSlice, read_sources

_NUMBER = CodedConcept("246206008", "SCT", "Number of lesions")
_LESIONS = CodedConcept("{lesions}", "UCUM", "lesions")
_REPORT, _SEGMENTS = OUTPUTS["dicom"].files
_SERIES_NUMBERS = {_REPORT: 9001, _SEGMENTS: 9002}


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
        return files_or_warning(result.scan, lambda: self._write(result))

    def _write(self, result: ScanResult) -> dict[str, bytes]:
        document = result.document
        slices = read_sources(result.scan.files, result.scan.headers, result.scan.frames)
        outlined = outlined_lesions(result, slices)
        shown = "outlines" if masked(outlined) else "boxes"
        series = {
            name: OwnSeries(number, shown, self.version, earlier_file(result.folder, name, slices[0].header))
            for name, number in _SERIES_NUMBERS.items()
        }
        with warnings.catch_warnings():
            # Names are written as in the images, even if highdicom would change them.
            warnings.filterwarnings("ignore", message=".*person name")
            report = self._report(slices, outlined, document, series[_REPORT])
            frames = [one.frame for one in slices]
            name_frames(report, frames)
            files = {_REPORT: file_bytes(report)}
            if outlined:
                algorithm = _algorithm(document, self.version)
                boxes = segment_boxes(slices, outlined, algorithm, series[_SEGMENTS].equipment())
                name_frames(boxes, frames)
                # Neither RLE nor JPEG-LS takes pixels of one bit.
                if len(boxes.PixelData) > self.deflate_above_megabytes * 1e6:
                    boxes.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
                files[_SEGMENTS] = file_bytes(boxes)
        return files

    def _report(
        self,
        slices: Sequence[SourceSlice],
        outlined: Sequence[Outlined],
        document: Mapping[str, Any],
        series: OwnSeries,
    ) -> sr.Comprehensive3DSR:
        """The structured report; one that it takes the place of is its predecessor."""
        algorithm = sr.AlgorithmIdentification(
            _algorithm_name(document), self.version, parameters=_parameters(document)
        )
        frame = str(slices[0].header.FrameOfReferenceUID)
        model = document["model"]
        # All report readers show the observer: the notices are added to its name.
        name = " ".join([f"{PRODUCT}.", *document["notices"]])
        device = sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name=name, manufacturer_name=MANUFACTURER, model_name=PRODUCT
        )
        observer = sr.ObserverContext(codes.DCM.Device, device)
        groups = [
            *(_group(one, slices, frame, algorithm, model) for one in outlined),
            *(_axes(one, measured, algorithm) for one in outlined if (measured := lines(one.entry, frame, algorithm))),
            *(_by_reader(one, said) for one in outlined if (said := reader_measurements(one.entry, frame))),
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
            previous_versions=None if series.earlier is None else [series.earlier],
            **series.equipment(),
        )
        # highdicom copies and searches all of its input, which takes longer than making it.
        report.update(content(groups)[0])
        return report


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
    model: Mapping[str, Any],
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """One lesion of the report: its rectangles or outlines on the images, its numbers, its class and its tags.

    Several are a volume's surface; a single one has to be a planar region.
    """
    key, tags = slices[one.key].header, model.get("tags", ())
    image = sr.SourceImageForMeasurement(key.SOPClassUID, key.SOPInstanceUID)
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(one.tracking, one.name),
        "finding_type": codes.SCT.Lesion,
        "algorithm_id": algorithm,
        "finding_sites": sites(one.entry),
        "measurements": measurements(one.entry, image, algorithm, tags),
        "qualitative_evaluations": evaluations(one.entry, tags, model.get("classes", ())),
    }
    group = _region(one, slices, frame, common)
    if text := one.entry.get("review", {}).get("comment"):
        group[0].ContentSequence.append(comment(text))
    return group


def _region(
    one: Outlined, slices: Sequence[SourceSlice], frame: str, common: Mapping[str, Any]
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """The group of a lesion with its place."""
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


def _by_reader(one: Outlined, measured: Sequence[sr.Measurement]) -> sr.MeasurementsAndQualitativeEvaluations:
    """What a reader measured of a lesion, under the tracking of the lesion and not as the work of the algorithm."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(one.tracking, one.name),
        finding_type=codes.SCT.Lesion,
        measurements=measured,
    )
    group[0].ContentSequence.append(comment(APPROXIMATE))
    return group


def _nothing(algorithm: sr.AlgorithmIdentification) -> sr.MeasurementsAndQualitativeEvaluations:
    """The only group of a report on a scan without lesions: their number is zero."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(hd.UID(), "Whole scan"),
        finding_type=codes.SCT.Lesion,
        algorithm_id=algorithm,
        measurements=[sr.Measurement(_NUMBER, 0, _LESIONS)],
    )
