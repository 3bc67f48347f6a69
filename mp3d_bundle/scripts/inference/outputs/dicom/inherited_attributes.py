"""Attributes that results inherit from the images: patient and study, if they are valid.

Headers come from scanners, archives and anonymisers, and highdicom copies their patient and study attributes
unchanged. A result must be valid for any images: this module leaves out all other attributes of the patient, and
values that are invalid for their type.
"""

from __future__ import annotations

from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import keyword_for_tag
from pydicom.valuerep import DA, TM, validate_value

from ....storage.dicom_errors import ODD_CONTENT

# Groups of attributes on the patient, the clinical trial, the request, the visit and the procedure.
_GROUPS = (0x0010, 0x0012, 0x0032, 0x0038, 0x0040)
_TRIAL = (
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSubjectID",
)
_TRIAL_NEEDS = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialSubjectID")
_REMOVED = "PatientIdentityRemoved"
_METHODS = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
_KEPT = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight", _REMOVED, *_METHODS),
)
_STUDY = ("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber")
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
# An image with a de-identified patient must name the method; many do not.
UNKNOWN_METHOD = "Not stated in the source images"


def drop_damaged(header: Dataset) -> list[str]:
    """Remove the attributes of a header that cannot be read, which pydicom notices when they are asked for.

    Args:
        header: Changed in place.

    Returns:
        The attributes, such as "StudyDate, which is damaged", in the order of the header.
    """
    damaged = []
    for tag in list(header.keys()):
        try:
            _ = header[tag]
        except ODD_CONTENT:
            del header[tag]
            damaged.append(f"{keyword_for_tag(tag) or tag}, which is damaged")
    return damaged


def keep_valid(header: Dataset) -> list[str]:
    """Reduce a header to the attributes that a valid result can inherit.

    Required attributes stay, empty if their value is invalid. If a header declares the patient's identity removed
    without naming the method, the method becomes `UNKNOWN_METHOD`.

    Args:
        header: Changed in place.

    Returns:
        The attributes left out for their value, such as "StudyDate, which is UNKNOWN", in the order of the header.
    """
    trial = _TRIAL if all(header.get(name) for name in _TRIAL_NEEDS) else ()
    left_out = []
    for tag in list(header.keys()):
        element = header[tag]
        name = element.keyword
        ours = tag.group in _GROUPS or name in _STUDY
        if element.VR == "SQ" or ours:
            if name in (*_KEPT, *_STUDY, *trial) and (name == _METHODS[1] or element.VR != "SQ"):
                if _is_valid(element):
                    continue
                left_out.append(f"{name}, which is {element.value}")
            if element.VR == "SQ" or name not in _KEPT[:5] + _STUDY:
                del header[tag]
            else:
                header[tag] = DataElement(tag, element.VR, "")
    if header.get(_REMOVED) == "YES" and not any(header.get(name) for name in _METHODS):
        for name in _METHODS:
            if name in header:
                del header[name]
        header.DeidentificationMethod = UNKNOWN_METHOD
    return left_out


def _is_valid(element: DataElement) -> bool:
    """Whether a value is valid for its attribute; empty values are valid for all attributes here."""
    if element.keyword == _REMOVED:
        return element.value in ("YES", "NO")
    if element.VR == "SQ":
        items = element.value or []
        return len(items) > 0 and all(all(item.get(name) for name in _CODE) for item in items)
    # Names are copied unchanged: strict rules, which readers do not follow, would remove the patient's name.
    if element.VR == "PN" or element.value in (None, ""):
        return True
    try:
        for value in element.value if element.VM > 1 else [element.value]:
            {"DA": DA, "TM": TM}.get(element.VR, str)(str(value))
            validate_value(element.VR, str(value), RAISE)
    except ODD_CONTENT:
        return False
    return element.VM == 1 or element.keyword == _METHODS[0]
