"""Splits of a data set by patient: from a file, or at random; and folds of the rest without the test split."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..deeplesion.columns import SPLITS
from .set_tables import read_table
from .split_shares import ALL_TEST, check_folds, check_shares

# Words of other programs for the same.
_WORDS = {
    "train": 1,
    "training": 1,
    "val": 2,
    "valid": 2,
    "validation": 2,
    "dev": 2,
    "test": 3,
    "testing": 3,
    "1": 1,
    "2": 2,
    "3": 3,
}


@dataclass(frozen=True)
class SplitRule:
    """How patients are divided.

    Attributes:
        shares: Of train, validation and test, adding up to 1; some to train on, or all to test.
        seed: Of the draw.
        file: CSV with ``patient`` (or ``scan``) and ``split``; None for a random split.
        folds: How many folds of the patients that are not for testing; 0 for none.
    """

    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0
    file: Path | None = None
    folds: int = 0

    def __post_init__(self) -> None:
        """Check the numbers, and the file as far as it can be without the scans.

        Raises:
            ValueError: If they cannot be.
            OSError: If the file cannot be read.
        """
        check_shares(self.shares)
        check_folds(self.folds)
        if self.file is not None:
            _named_splits(self.file)


def patient_key(name: str) -> str:
    """Pseudonym of a patient's name or number in a set: the same for the same name."""
    return hashlib.sha256(f"patient:{name}".encode()).hexdigest()[:16]


def assign_splits(patients: Mapping[str, Sequence[str]], rule: SplitRule) -> dict[str, int]:
    """The split of every patient: 1, 2 or 3 for train, validation or test.

    Args:
        patients: Names of the scans of each, by `patient_key`.
        rule: How to divide them.

    Returns:
        By patient. A drawn split has at least one patient to train on, unless all are for testing; which ones depends
        on their names and the seed alone, not on their order.

    Raises:
        ValueError: If the file leaves out a patient, names an unknown one, or puts one into two splits.
    """
    if rule.file is not None:
        return _from_file(patients, rule.file)
    order = _drawn(patients, rule.seed)
    if tuple(rule.shares) == ALL_TEST:
        return dict.fromkeys(order, SPLITS["test"])
    _, validation, test = rule.shares
    counts = [int(np.floor(share * len(order) + 0.5)) for share in (validation, test)]
    while sum(counts) >= len(order) and sum(counts):
        counts[int(np.argmax(counts))] -= 1
    numbers = [2] * counts[0] + [3] * counts[1] + [1] * (len(order) - sum(counts))
    return dict(zip(order, numbers, strict=True))


def _drawn(patients: Mapping[str, Sequence[str]], seed: int) -> list[str]:
    return sorted(patients, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def make_folds(splits: Mapping[str, int], rule: SplitRule) -> list[dict[str, int]]:
    """The splits of each fold: patients for testing stay, of the others each is for validation once.

    Raises:
        ValueError: If there are fewer patients than folds.
    """
    if not rule.folds:
        return []
    others = [name for name in _drawn({name: () for name in splits}, rule.seed) if splits[name] != SPLITS["test"]]
    if len(others) < rule.folds:
        raise ValueError(f"Expected at least {rule.folds} patients to train on for as many folds, got {len(others)}.")
    return [
        {
            name: 3 if number == 3 else 2 if others.index(name) % rule.folds == fold else 1
            for name, number in splits.items()
        }
        for fold in range(rule.folds)
    ]


def read_pairs(path: Path, first: Sequence[str], second: str) -> list[tuple[str, str, str, int]]:
    """Column name, value, value of the second column, and line of each row of a CSV.

    Args:
        path: The file.
        first: Names that the first column may have.
        second: Name of the second.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a column is not there, or a cell is empty.
    """
    columns, rows = read_table(path)
    key = next((name for name in first if name in columns), None)
    if key is None or second not in columns:
        raise ValueError(f"Expected the columns {' or '.join(first)} and {second}, got {', '.join(columns)} in {path}.")
    found = []
    for line, row in rows:
        one, other = (str(row.get(columns[name]) or "").strip() for name in (key, second))
        if not one or not other:
            raise ValueError(
                f"Expected a {key} and a {second} in every row, got {one!r} and {other!r} in line {line} of {path}."
            )
        found.append((key, one, other, line))
    return found


def _named_splits(path: Path) -> list[tuple[str, str, int, int]]:
    """What is named (``"patient"`` or ``"scan"``), its name, its split, and the line, of each row of a CSV."""
    found = []
    for key, name, word, line in read_pairs(path, ("patient", "scan"), "split"):
        number = _WORDS.get(word.lower())
        if number is None:
            raise ValueError(f"Expected train, validation or test, got {word!r} in line {line} of {path}.")
        found.append((key, name, number, line))
    return found


def check_scans(names: Collection[str], rule: SplitRule) -> None:
    """Check that a file of splits names scans of the import, before they are read and show their patients.

    Raises:
        ValueError: If it names another scan.
    """
    for key, name, _, line in [] if rule.file is None else _named_splits(rule.file):
        if key == "scan" and name not in names:
            raise ValueError(f"Expected a scan of the import, got {name!r} in line {line} of {rule.file}.")


def _from_file(patients: Mapping[str, Sequence[str]], path: Path) -> dict[str, int]:
    patient_of = {scan: patient for patient, scans in patients.items() for scan in scans}
    splits: dict[str, int] = {}
    first_said: dict[str, str] = {}
    for key, name, number, line in _named_splits(path):
        patient = patient_key(name) if key == "patient" else patient_of.get(name, "")
        if patient not in patients:
            raise ValueError(f"Expected a {key} of the import, got {name!r} in line {line} of {path}.")
        first_said.setdefault(patient, f"{name!r} (line {line})")
        if splits.setdefault(patient, number) != number:
            raise ValueError(
                f"Expected every patient in one split, got {first_said[patient]} in {_name(splits[patient])} and "
                f"{name!r} (line {line}), of the same patient, in {_name(number)} in {path}."
            )
    missing = sorted(set(patients) - set(splits))
    if missing:
        first = next(iter(patients[missing[0]]))
        raise ValueError(
            f"Expected a split for every patient, {path} has none for {len(missing)}, that of scan {first} the first."
        )
    return splits


def _name(number: int) -> str:
    return next(name for name, value in SPLITS.items() if value == number)
