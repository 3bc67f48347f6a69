"""Patient facts of a lesion from ``DL_info.csv``, and the height of its slice in the body.

MULAN (Yan et al., MICCAI 2019) refines scores by sex, age and position; MVP-Net (Li et al., MICCAI 2019) learns the
position.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...instances import Instances
from ...storage.printable import shown
from ...storage.safe_json import text_number
from .dl_info import read_cells

SEX, AGE, LOCATION = "Patient_gender", "Patient_age", "Normalized_lesion_location"
FIELDS = ("male", "age", "position")
_SEXES = {"M": 1.0, "F": 0.0, "": math.nan}
_OLDEST = 150.0


@dataclass(frozen=True)
class PatientFacts:
    """Reads the patient of a row of ``DL_info.csv``.

    The fields of a lesion are ``male``, 1 or 0, ``age`` in years and ``position``, 0 to 1 from head to feet, float32
    each; NaN where the cell is empty.
    """

    @property
    def empty(self) -> Instances[np.ndarray]:
        """The fields of no lesion."""
        return {name: np.zeros(0, np.float32) for name in FIELDS}

    def __call__(self, cells: Mapping[str, str], row: int, box: np.ndarray, source: str) -> Instances[np.ndarray]:
        """The fields of one lesion.

        Args:
            cells: The row by column.
            row: Its number in the file; not used.
            box: Its box; not used.
            source: File and row, for messages.

        Raises:
            ValueError: If a sex is neither M nor F, or an age or a place is not a number in its bounds.
        """
        del row, box
        sex = cells[SEX].upper()
        if sex not in _SEXES:
            raise ValueError(f"Expected M or F as {SEX}, got {shown(cells[SEX])} in {source}.")
        age = _number(cells[AGE], _OLDEST, AGE, cells[AGE], source)
        places = cells[LOCATION].split(",") if cells[LOCATION] else ["", "", ""]
        if len(places) != 3:
            raise ValueError(f"Expected 3 numbers as {LOCATION}, got {shown(cells[LOCATION])} in {source}.")
        position = _number(places[2].strip(), 1.0, LOCATION, cells[LOCATION], source)
        values = (_SEXES[sex], age, position)
        return {name: np.array(value, np.float32) for name, value in zip(FIELDS, values, strict=True)}


def facts_of_series(path: Path) -> dict[str, tuple[float, float]]:
    """Sex and age of the patient of each series in ``DL_info.csv``, of its first row that says them.

    Returns:
        By series, such as ``000001_01_01``: 1 for male, 0 for female, and years; NaN where no row says it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not such a file, or a cell is invalid.
    """
    read, found = PatientFacts(), {}
    for number, (source, cells) in enumerate(read_cells(path)):
        facts = read(cells, number, np.zeros(4), source)
        # In some copies a slash comes before the slice number.
        series = re.sub(r"[/\\]", "_", cells["File_name"]).rpartition("_")[0]
        before = found.get(series, (math.nan, math.nan))
        new = (float(facts["male"]), float(facts["age"]))
        found[series] = tuple(new[at] if math.isnan(before[at]) else before[at] for at in (0, 1))
    return found


def _number(text: str, largest: float, column: str, cell: str, source: str) -> float:
    """A number from 0 to ``largest``; NaN for no text, or the word."""
    try:
        value = text_number(text) if text else math.nan
    except ValueError:
        value = -1.0
    if not (math.isnan(value) or 0 <= value <= largest):
        raise ValueError(f"Expected a number from 0 to {largest:g} in {column}, got {shown(cell)} in {source}.")
    return value
