"""Import: find scans and truth, match them, write scan after scan, and the tables of the set last.

A scan whose record is there, of the same files, truth and options, is not read again: an import that was stopped
resumes by the same command.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...data.importing.lesion_classes import ClassRule
from ...data.importing.patient_splits import SplitRule, assign_splits, check_scans, make_folds, patient_key, read_pairs
from ...data.importing.pattern_stars import StarPattern, files_like
from ...data.importing.set_records import (
    IMAGES,
    RECORDS,
    KeyRule,
    check_copies,
    describe_scan,
    has_all_slices,
    read_records,
    remove_scan,
    write_record,
    write_scan_slices,
)
from ...data.importing.set_tables import write_set
from ...data.importing.true_lesions import ScanTruth
from ...data.importing.truth.slice_places import SlicePlaces, slice_ranks
from ...data.importing.truth.truth_files import KINDS, Truth, TruthRules, find_truth
from ...data.importing.truth_matching import RULES, WITHOUT_TRUTH, ImportScan, Matched, listed, match_truth
from ...data.scans.find_scans import VOLUME_SUFFIXES, find_scans
from ...data.scans.scan import Scan
from ...data.scans.volume_files.stored_image import DEFAULT_RULES, ReadingRules
from ...storage.output_folder import FolderLock, check_output_folder, has_other_content
from ..scan_patient import facts_of_header
from .fingerprints import fingerprint

logger = logging.getLogger(__name__)

PATIENTS = ("header", "folder")


@dataclass(frozen=True)
class Sources:
    """Where scans and truth are, and how they find each other.

    Attributes:
        images: Folder or file of the scans.
        truth: Folder or file of the truth; None where no scan has a lesion.
        image_pattern: Only files like this below the folder of the images, see `files_like`.
        truth_pattern: Likewise for the truth.
        kind: What the truth is, where its content does not say.
        match: Rule of `match_truth`.
        image_ending: What names of images end in that those of the truth do not have.
        truth_ending: The other way round.
        without_truth: What scans without any truth are: an error, scans without a lesion, or left out.
        lost_truth: Whether truth without a scan is left out, with a line; if not, it is an error.
    """

    images: Path
    truth: Path | None = None
    image_pattern: str | None = None
    truth_pattern: str | None = None
    kind: str | None = None
    match: str | None = None
    image_ending: str = ""
    truth_ending: str = ""
    without_truth: str = "reject"
    lost_truth: bool = False

    def __post_init__(self) -> None:
        """Check the words.

        Raises:
            ValueError: If one is not among those known.
        """
        for name, value, known in (
            ("kind", self.kind, (None, *KINDS)),
            ("match", self.match, (None, *RULES)),
            ("without_truth", self.without_truth, WITHOUT_TRUTH),
        ):
            if value not in known:
                words = ", ".join(word for word in known if word is not None)
                raise ValueError(f"Expected {words} as {name}, got {value!r}.")


@dataclass(frozen=True)
class ImportRules:
    """What becomes of scans and truth.

    Attributes:
        truth: How truth is read.
        classes: Which lesions belong to which class.
        keys: Which slices become key slices.
        splits: How patients are divided.
        patients: ``"header"``: the PatientID of DICOM, every other scan being a patient of its own; ``"folder"``: the
            first folder below that of the images; or a CSV with ``scan`` and ``patient``.
        reading: How strictly scans are read.
        spacing: ``(x, y, z)`` mm of PNG slices without labels.
    """

    truth: TruthRules = field(default_factory=TruthRules)
    classes: ClassRule = field(default_factory=ClassRule)
    keys: KeyRule = field(default_factory=KeyRule)
    splits: SplitRule = field(default_factory=SplitRule)
    patients: str = "header"
    reading: ReadingRules = DEFAULT_RULES
    spacing: tuple[float, ...] | None = None


def import_scans(sources: Sources, rules: ImportRules, output: Path, *, progress: bool = True) -> dict[str, Any]:
    """Import scans and their truth into a set.

    Args:
        sources: Where they are.
        rules: What becomes of them.
        output: Folder of the set: new, empty, or begun by the same import.
        progress: Show a progress bar.

    Returns:
        What ``set.json`` holds.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If scans and truth do not match, or one cannot be used; all of them are named. What was done stays,
            and the same command resumes.
    """
    check_output_folder(output)
    if has_other_content(output) and not (output / RECORDS).is_dir():
        raise FileExistsError(
            f"Expected a new or empty folder, or a set that was begun, got {output} with other files."
        )
    with FolderLock(output, "an import"):
        return _Import(sources, rules, output, progress).run()


class _Import:
    """One run of an import."""

    def __init__(self, sources: Sources, rules: ImportRules, output: Path, progress: bool) -> None:
        self.sources, self.rules, self.output, self.progress = sources, rules, output, progress
        self.used: set[int] = set()
        self.left: list[str] = []

    def run(self) -> dict[str, Any]:
        scans, matched = self._find()
        # Slices of a scan whose import was killed.
        for part in (self.output / IMAGES).glob(".*.partial-*"):
            shutil.rmtree(part, ignore_errors=True)
        done = {record["scan"]: (series, record) for series, record in read_records(self.output).items()}
        strange = sorted(set(done) - {scan.name for scan in scans})
        if strange:
            raise ValueError(
                f"Expected a set of the scans in {self.sources.images}, {self.output} holds others: {listed(strange)}. "
                "Use another folder."
            )
        namer = _SeriesNames(record for _, record in done.values())
        patients = self._patients(scans)
        self._check_splits(scans, patients)
        # What shows that a set was begun is there before the first slices are.
        (self.output / RECORDS).mkdir(exist_ok=True)
        records: dict[str, dict[str, Any]] = {}
        failed: list[str] = []
        pairs = list(zip(scans, matched.of_scan, strict=True))
        for scan, truths in tqdm(pairs, desc="scans", unit="scan", disable=not self.progress):
            try:
                records.update([self._one(scan, truths, matched, namer, patients, done)])
            except (OSError, ValueError) as error:
                failed.append(f"{scan.name}: {error}")
        self._check_lost(matched, failed, done=len(records))
        return self._finish(records)

    def _find(self) -> tuple[list[ImportScan], Matched]:
        """The scans, and the truth of each."""
        sources = self.sources
        root = sources.images if sources.images.is_dir() else sources.images.parent
        inputs: Any = sources.images
        if sources.image_pattern:
            inputs = files_like(sources.images, sources.image_pattern)
            if not inputs:
                raise FileNotFoundError(f"Expected scans like {sources.image_pattern} in {root}, got none.")
        found = find_scans(inputs, rules=self.rules.reading, spacing=self.rules.spacing)
        scans = [ImportScan.of(source, root, sources.image_ending) for source in found]
        names = [scan.name for scan in scans]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Expected every scan once, got several called {listed(twice)}.")
        if sources.truth is None:
            return self._without_truth(scans, Matched([[] for _ in scans]))
        truths, others = find_truth(sources.truth, self.rules.truth, pattern=sources.truth_pattern, kind=sources.kind)
        own = {scan.source.path.resolve() for scan in scans}
        truths = [truth for truth in truths if truth.path.resolve() not in own]
        self.left = [f"{path}: not a truth that is known." for path in others if path.resolve() not in own]
        for line in self.left:
            logger.warning("%s", line)
        patterns = StarPattern.pair(root, sources.image_pattern, sources.truth, sources.truth_pattern)
        matched = match_truth(scans, truths, sources.match, sources.truth_ending, patterns)
        return self._without_truth(scans, matched)

    def _without_truth(self, scans: list[ImportScan], matched: Matched) -> tuple[list[ImportScan], Matched]:
        """Reject, keep or leave out scans without truth, and truth without a scan."""
        rule = "negative" if self.sources.truth is None else self.sources.without_truth
        bare = [at for at, truths in enumerate(matched.of_scan) if not truths]
        problems = []
        if bare and rule == "reject" and not matched.by_slice:
            problems.append(f"{len(bare)} scan(s) without truth: {listed([scans[at].name for at in bare])}")
        if matched.lost and not self.sources.lost_truth:
            problems.append(f"{len(matched.lost)} truth(s) without a scan: {listed([t.shown for t in matched.lost])}")
        if problems:
            raise ValueError(
                f"Expected every scan to have its truth and every truth its scan, got {'; '.join(problems)}. "
                "(--match says how they find each other; --without_truth negative or leave_out and --lost_truth take "
                "them as they are.)"
            )
        for truth in matched.lost:
            self.left.append(f"{truth.shown}: belongs to no scan.")
            logger.warning("Left out: %s", self.left[-1])
        if rule == "leave_out" and not matched.by_slice:
            for at in bare:
                self.left.append(f"{scans[at].name}: a scan without truth.")
                logger.warning("Left out: %s", self.left[-1])
            kept = [at for at in range(len(scans)) if at not in set(bare)]
            scans, matched.of_scan = [scans[at] for at in kept], [matched.of_scan[at] for at in kept]
        if not scans:
            raise ValueError(f"Expected at least one scan with truth in {self.sources.images}, got none.")
        return scans, matched

    def _patients(self, scans: Sequence[ImportScan]) -> dict[str, str] | None:
        """The patient of every scan, None where the headers say it."""
        rule = self.rules.patients
        if rule == "header":
            return None
        if rule == "folder":
            bare = [scan.name for scan in scans if not scan.place]
            if bare:
                raise ValueError(f"Expected every scan in a folder of its patient, got {listed(bare)} in none.")
            return {scan.name: scan.place.split("/")[0] for scan in scans}
        path = Path(rule)
        if not path.is_file():
            raise ValueError(f"Expected {', '.join(PATIENTS)} or a CSV as patients, got {rule!r}.")
        found: dict[str, str] = {}
        for _, scan, patient, line in read_pairs(path, ("scan",), "patient"):
            if found.setdefault(scan, patient) != patient:
                raise ValueError(f"Expected one patient for every scan, got two for {scan} (line {line} of {path}).")
        missing = [scan.name for scan in scans if scan.name not in found]
        if missing:
            raise ValueError(f"Expected the patient of every scan in {path}, got none for {listed(missing)}.")
        return found

    def _check_splits(self, scans: Sequence[ImportScan], patients: Mapping[str, str] | None) -> None:
        """Reject splits that do not fit before any scan is read, as far as the patients are known by then."""
        rule = self.rules.splits
        check_scans([scan.name for scan in scans], rule)
        # Only DICOM says whose a scan is.
        if patients is None and all(str(scan.source.path).lower().endswith(VOLUME_SUFFIXES) for scan in scans):
            patients = {scan.name: _own_patient(scan) for scan in scans}
        if patients is not None:
            of_patient: dict[str, list[str]] = defaultdict(list)
            for scan, patient in patients.items():
                of_patient[patient_key(patient)].append(scan)
            make_folds(assign_splits(of_patient, rule), rule)

    def _one(
        self,
        scan: ImportScan,
        truths: Sequence[tuple[Truth, str]],
        matched: Matched,
        namer: _SeriesNames,
        patients: Mapping[str, str] | None,
        done: Mapping[str, tuple[str, dict[str, Any]]],
    ) -> tuple[str, dict[str, Any]]:
        """The series and record of a scan, from the disk where it is done."""
        slices = matched.by_slice
        said = None if patients is None else patients[scan.name]
        mark = fingerprint(scan, [*(truth for truth, _ in truths), *slices], asdict(self.rules), said)
        series, record = done.get(scan.name, ("", {}))
        if record.get("fingerprint") == mark and has_all_slices(self.output, series, record["shape"][0]):
            self.used |= {at for at, truth in enumerate(slices) if str(truth.path) in record["truth_by_uid"]}
            return series, record
        with scan.source.open() as opened:
            places = SlicePlaces.of(opened)
            parts = [truth.read(places, slice_name) for truth, slice_name in truths]
            own = matched.on_slices(places.uids, [truth for truth, _ in truths])
            parts += [truth.read(places, truth.slice_name) for _, truth in own]
            if not parts and self.sources.truth is not None and self.sources.without_truth != "negative":
                raise ValueError(
                    "no truth names a slice of it (--without_truth negative takes it for one without a lesion)"
                )
            named = ScanTruth.joined(parts, slice_ranks(opened))
            truth = self.rules.classes.apply(named)
            name = said if said is not None else places.patient or _own_patient(scan)
            content = {
                "scan": scan.name,
                "patient": patient_key(name),
                "patient_known": bool(patients is not None or places.patient),
                "fingerprint": mark,
                "kinds": sorted({truth.kind for truth in [*(one for one, _ in truths), *(one for _, one in own)]}),
                "truth_by_uid": [str(truth.path) for _, truth in own],
                "names": self.rules.classes.taken(named),
                **_facts(opened),
                **describe_scan(opened, truth, self.rules.keys),
            }
            if series and record["patient"] != content["patient"]:
                # Series are numbered by patient.
                remove_scan(self.output, series)
                series = ""
            series = series or namer.next(content["patient"])
            write_scan_slices(self.output, series, opened)
        write_record(self.output, series, content)
        self.used |= {at for at, _ in own}
        return series, {"series": series, **content}

    def _check_lost(self, matched: Matched, failed: list[str], *, done: int) -> None:
        """End with all that went wrong, each thing named."""
        lost = [truth.shown for at, truth in enumerate(matched.by_slice) if at not in self.used]
        if lost and not failed and self.sources.lost_truth:
            for name in lost:
                self.left.append(f"{name}: belongs to no scan.")
                logger.warning("Left out: %s", self.left[-1])
        elif lost and not failed:
            failed.append(f"{len(lost)} truth(s) name slices of no scan: {listed(lost)} (--lost_truth leaves them out)")
        if failed:
            raise ValueError(
                f"Expected every scan and its truth to be read, {len(failed)} could not be used; {done} scan(s) are "
                f"done, and the same command resumes. {' '.join(failed)}"
            )

    def _finish(self, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
        records = dict(sorted(records.items()))
        of_patient: dict[str, list[str]] = defaultdict(list)
        for record in records.values():
            of_patient[record["patient"]].append(record["scan"])
        unknown = sum(not record["patient_known"] for record in records.values())
        if unknown:
            logger.warning(
                "%d scan(s) name no patient: each was taken for a patient of its own (--patients says otherwise).",
                unknown,
            )
        splits = assign_splits(of_patient, self.rules.splits)
        divided = [splits, *make_folds(splits, self.rules.splits)]
        check_copies(records.values(), divided)
        about = {
            "classes": list(self.rules.classes.classes),
            "options": json.loads(json.dumps(asdict(self.rules), default=str)),
            "kinds": sorted({kind for record in records.values() for kind in record["kinds"]}),
            "folds": self.rules.splits.folds,
            "left_out": self.left,
            "scans_without_a_known_patient": unknown,
            "sources": {
                series: {"scan": record["scan"], "split": splits[record["patient"]]}
                for series, record in records.items()
            },
        }
        write_set(self.output, records, divided, about)
        return about


def _facts(scan: Scan) -> dict[str, Any]:
    """Sex and age of the patient, as far as the headers say them."""
    (sex, _), (age, _) = facts_of_header(scan)
    return {**({"sex": sex} if sex else {}), **({} if math.isnan(age) else {"age": round(age, 2)})}


def _own_patient(scan: ImportScan) -> str:
    """The patient of a scan that names none."""
    return f"scan {scan.name}"


class _SeriesNames:
    """Names of series in the order in which their scans come: patients by number, and their scans."""

    def __init__(self, records: Any) -> None:
        self.taken: dict[str, list[int]] = {}
        for record in records:
            patient, _, series = (int(part) for part in record["series"].split("_"))
            known = self.taken.setdefault(record["patient"], [patient, 0])
            known[1] = max(known[1], series)

    def next(self, patient: str) -> str:
        """The name of a further scan of a patient."""
        number = 1 + max((known for known, _ in self.taken.values()), default=0)
        known = self.taken.setdefault(patient, [number, 0])
        known[1] += 1
        return f"{known[0]:06d}_01_{known[1]:02d}"
