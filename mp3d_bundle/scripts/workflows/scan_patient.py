"""What is known of a scan's patient, for a network whose scores depend on it: options first, then DICOM headers.

Only sex and age leave this module, no name, number or date.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from torch import nn

from ..inference.outputs.source_names import read_header
from ..inference.scan_protocol import ScanLike
from ..networks import Patient

# Years of an age string (PS3.5, AS): days, weeks, months or years.
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_OLDEST = 130.0
_TAGS = {"sex": "PatientSex", "age": "PatientAge", "birth": "PatientBirthDate", "study": "StudyDate"}


@dataclass(frozen=True)
class PatientOptions:
    """What the user says of the patient of all scans.

    Attributes:
        age: Years; None for that of the header.
        sex: ``"M"`` or ``"F"``; None likewise.
    """

    age: float | None = None
    sex: str | None = None

    def check(self, network: nn.Module) -> None:
        """Reject an option that the network would not read.

        Raises:
            ValueError: If an option is given and the network reads neither age nor sex.
        """
        given = [f"patient_{name}" for name in ("age", "sex") if getattr(self, name) is not None]
        if given and "patient" not in facts_read(network):
            raise ValueError(f"Expected no --{given[0]}: the network of these weights does not read it.")

    def patient_of(self, scan: ScanLike, network: nn.Module) -> tuple[Patient, dict[str, Any]] | None:
        """What the network gets to know of a scan's patient, and how the results say so.

        Args:
            scan: The scan.
            network: The network.

        Returns:
            None for a network that reads nothing of patients. The plain values hold ``age_years`` and ``sex`` with
            their sources, and ``position``, as far as the network reads them, None where unknown; the position along
            the body is never known of a scan.
        """
        facts = facts_read(network)
        if not facts:
            return None
        said: dict[str, Any] = {}
        age, sex = math.nan, None
        if "patient" in facts:
            (sex, sex_from), (age, age_from) = facts_of_header(scan)
            age, age_from = (age, age_from) if self.age is None else (float(self.age), "option")
            sex, sex_from = (sex, sex_from) if self.sex is None else (self.sex, "option")
            said = {"age_years": None if math.isnan(age) else round(age, 2), "age_from": age_from}
            said |= {"sex": sex, "sex_from": sex_from}
        if "position" in facts:
            said["position"] = None
        return Patient(male={"M": 1.0, "F": 0.0}.get(sex or "", math.nan), age=age), said


def facts_of_header(scan: ScanLike) -> tuple[tuple[str | None, str], tuple[float, str]]:
    """Sex and age in the header of a scan, each with the attribute that it is from.

    Returns:
        ``"M"``, ``"F"`` or None; and years, NaN where unknown. The attribute is ``"unknown"`` then.
    """
    header = read_header(scan, 0, _TAGS) or {}
    return _sex(header), _age(header)


def patient_text(said: Mapping[str, Any]) -> str:
    """What the network was told of the patient, for the log."""
    words = []
    if "sex" in said:
        words.append(f"sex {said['sex']} ({said['sex_from']})" if said["sex"] else "sex unknown")
        age = said["age_years"]
        words.append("age unknown" if age is None else f"age {age:g} ({said['age_from']})")
    if "position" in said:
        words.append("position along the body unknown")
    return ", ".join(words)


def facts_read(network: nn.Module) -> tuple[str, ...]:
    """``"patient"`` (sex and age) and ``"position"``, as far as a network reads them."""
    return tuple(getattr(network, "patient_facts", ()))


def _sex(header: dict[str, str | None]) -> tuple[str | None, str]:
    sex = (header.get("sex") or "").strip().upper()
    return (sex, "PatientSex") if sex in ("M", "F") else (None, "unknown")


def _age(header: dict[str, str | None]) -> tuple[float, str]:
    """Years and the attribute that they are from; NaN if no attribute has a valid age."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", (header.get("age") or "").strip().upper())
    if found and 0 < (years := int(found[1]) * _YEARS[found[2]]) <= _OLDEST:
        return years, "PatientAge"
    birth, study = (_date(header.get(name)) for name in ("birth", "study"))
    if birth and study and 0 < (years := (study - birth).days / 365.25) <= _OLDEST:
        return float(int(years)) or years, "PatientBirthDate"
    return math.nan, "unknown"


def _date(text: str | None) -> date | None:
    found = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", (text or "").strip())
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None
