"""The table of outputs: what inference can write about a scan, the file names, and the code that makes them.

A new output is a line here and a module in ``scripts.inference.outputs``. All else follows: which names
``--outputs`` takes, which files of an earlier run are replaced or removed, and which files a search for scans must
not take for a scan.
"""

from __future__ import annotations

from typing import NamedTuple


class Output(NamedTuple):
    """One kind of result.

    Attributes:
        files: Names in the folder of a scan, without pictures and other numbered files.
        maker: Module in ``scripts.inference.outputs`` and name in it: a function of a ``ScanResult`` that gives the
            content of each file by its name, or a class whose instances are such functions.
    """

    files: tuple[str, ...]
    maker: str


OUTPUTS = {
    "json": Output(("lesions.json", "detections.json"), "lesions_document.json_files"),
    "csv": Output(("lesions.csv",), "lesions_table.lesion_table"),
    "slicer": Output(("lesions.mrk.json",), "slicer_nodes.slicer_markups"),
    "report": Output(("report.html",), "html.report_page.ReportWriter"),
    "overlays": Output((), "pictures.finding_pictures.OverlayWriter"),
    "dicom": Output(("lesions_sr.dcm", "lesions_seg.dcm"), "dicom.structured_report.DicomWriter"),
    "gsps": Output(("lesions_pr.dcm",), "dicom.presentation_state.PresentationWriter"),
    "scene": Output(("lesions.mrml", "lesion_colours.ctbl", "lesion_table.tsv"), "slicer_scene.slicer_scene"),
    "labelmap": Output(("lesion_boxes.nii.gz",), "label_map.label_map"),
    "prompts": Output(("prompts.json",), "label_map.prompts"),
}

# Folders of numbered files next to these, and their names: pictures, and markups of a scene.
NUMBERED = (("overlays", "*.png"), ("overlays/slices", "*.png"), ("markups", "*.mrk.json"))
# Those that are sent to archives, and need the package highdicom.
DICOM_OUTPUTS = ("dicom", "gsps")


def file_names() -> tuple[str, ...]:
    """All result files without pictures and markups, which are numbered."""
    return tuple(name for output in OUTPUTS.values() for name in output.files)
