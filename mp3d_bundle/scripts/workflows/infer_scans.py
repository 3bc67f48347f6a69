"""The work behind ``python -m monai.bundle run inferring``: scan after scan, one failure stopping no other."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..data.scans.find_scans import ScanSource
from ..data.scans.scan import Scan
from ..data.scans.scan_shards import take_shard
from ..data.scans.volume_files.stored_image import log_text, shown
from ..engines.engine import EngineChoice
from ..inference.detections import FIRST_RESULT, Lesion, SliceBoxes, link_boxes
from ..inference.outputs.lesions_document import cautions
from ..inference.outputs.result_folder import are_finished, differs_from_others, lesion_count
from ..inference.outputs.result_writer import ResultWriter
from ..inference.volume_detector import VolumeDetector
from ..interrupts import Stopped, stopped_by_signals
from ..storage.printable import SHOW_TRACEBACK
from .delivery.remote_results import check_place, is_gone, local_results
from .delivery.reviewed_results import Reviews
from .delivery.send_results import Sender
from .scan_patient import PatientOptions, patient_text
from .scans_ahead import ScansAhead
from .trained_weights import Weights

logger = logging.getLogger(__name__)

# Settings in a record that are of its scan.
OF_SCAN = ("review", FIRST_RESULT, "patient")
# What the code raises on purpose, or the machine when memory runs out: the text says enough.
_TOLD = (OSError, ValueError, ArithmeticError, RuntimeError, MemoryError)


def reason_of(error: Exception, source: ScanSource) -> str:
    """Why a scan could not be done, in one line with its path."""
    path = shown(source.path)
    reason = shown(" ".join(str(error).replace(str(source.path), path).split()))
    if not isinstance(error, _TOLD):
        reason = f"{type(error).__name__}: {reason}"
    reason = reason or type(error).__name__
    return reason if path in reason else f"{path}: {reason}"


class _CannotStartError(Exception):
    """No scan can be done, for a reason."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class ScanOutcome:
    """How a scan ended that did not fail.

    Attributes:
        skipped: Whether its results were there already.
        lesions: Number of lesions in its results; None if these were there and do not hold them.
    """

    skipped: bool
    lesions: int | None = None


@dataclass
class ScanRunner:
    """Read, detect, link and write one scan after the other; what is finished already is not done again.

    Attributes:
        dataset: The scans to do.
        inferer: Scan and network to slice boxes.
        weights: The network.
        writer: Writes the results of a scan.
        link: Slice boxes to lesions.
        overwrite: Do finished scans again, and replace results of other scans, weights or settings.
        engine: Runs the network; PyTorch without it.
        review: Of its scans only accepted lesions are written.
        send: Sends the DICOM results of each scan, also of those that are finished.
        shard: The share of the scans to do, see `scripts.data.scans.scan_shards`; None for all.
        read_ahead: Read the next scan while the network works on this one: two scans are in memory.
        patient: What the user says of the patients, for a network that reads it.
        failures: Filled by `run`: each scan that could not be done, and why.
    """

    dataset: Sequence[ScanSource]
    inferer: VolumeDetector
    weights: Weights
    writer: ResultWriter
    link: Callable[[SliceBoxes], list[Lesion]] = link_boxes
    overwrite: bool = False
    engine: EngineChoice | None = None
    review: Reviews | None = None
    send: Sender | None = None
    shard: str | None = None
    read_ahead: bool = True
    patient: PatientOptions = field(default_factory=PatientOptions)
    failures: list[tuple[Path, str]] = field(default_factory=list)
    _network: nn.Module | None = field(default=None, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)
    _done: int = field(default=0, init=False, repr=False)
    _compared: bool = field(default=False, init=False, repr=False)

    def run(self) -> list[tuple[Path, str]]:
        """Do all scans; one that fails is noted and the next one is done.

        Returns:
            ``failures``.

        Raises:
            OSError: If there are no weights, or nothing can be written into the output folder.
            ValueError: If the weights cannot be used, or not by the engine, or ``shard`` is not a share.
        """
        self.failures, self._done = [], 0
        scans = self.scans()
        self.check()
        with ScansAhead(scans, ahead=self.read_ahead) as ahead:
            self._all(scans, ahead)
        return self.failures

    def _all(self, scans: Sequence[ScanSource], ahead: ScansAhead[Scan]) -> None:
        """Do all scans; note those that fail."""
        output, total = Path(self.writer.output_dir), len(scans)
        for number, source in enumerate(scans):
            try:
                # A new one would hide that the results of earlier scans are lost.
                if self._done and is_gone(output):
                    raise FileNotFoundError(f"The output folder {output} has been removed.")
                self._one(source, partial(ahead.scan, number))
                self._done += 1
            except _CannotStartError as error:
                raise error.reason from None
            # Files of all kinds come from scanners and archives: one that is odd in a way nobody thought of stops no
            # other either.
            except Exception as error:
                reason = reason_of(error, source)
                if source.series and total > 1:
                    reason += f" (series {source.series})"
                if isinstance(error, FileNotFoundError) and total == 1:
                    reason += " Name the scan with --input PATH."
                self.failures.append((source.path, reason))
                told = logging.ERROR if os.environ.get(SHOW_TRACEBACK) else logging.DEBUG
                logger.log(told, "%s", shown(source.path), exc_info=True)
                if total > 1:
                    logger.error("Failed; the next scan follows: %s", reason)

    def scans(self) -> list[ScanSource]:
        """The scans to do: all of them, or those of the shard.

        Raises:
            ValueError: If ``shard`` is not a share.
        """
        return take_shard([self.dataset[number] for number in range(len(self.dataset))], self.shard)

    def check(self) -> None:
        """Check the output folder and all of the weights but their values, before the first scan.

        Whether a scan is finished, or cannot be read, is then known before the network is loaded.

        Raises:
            OSError: If there are no weights, or nothing can be written into the output folder.
            ValueError: If the weights cannot be used.
        """
        check_place(self.writer.output_dir)
        self.patient.check(self.weights.outline)
        self.weights.tell(self.inferer)
        if self.engine is not None and not self.engine.computes_as_asked:
            self._start()  # the number format of the results is not known before

    def start(self) -> None:
        """Load the weights and prepare the engine as well, once; the first scan that is not finished does it itself.

        Raises:
            OSError: As `check`.
            ValueError: If the weights cannot be used, or not by the engine.
        """
        self.check()
        self._start()

    def _start(self) -> None:
        try:
            self._started()
        except _CannotStartError as error:
            raise error.reason from None

    def _started(self) -> nn.Module:
        """The network, ready to run.

        Raises:
            _CannotStartError: Whatever went wrong is not about the scan.
        """
        if self._network is None:
            try:
                network = self.weights.load()
                if self.engine is not None:
                    use = self.engine.attach(network)._asdict()
                    self.writer = replace(self.writer, settings={**self.writer.settings, **use})
            except Exception as error:
                raise _CannotStartError(error) from error
            self._network = network
        return self._network

    def main(self) -> None:
        """What the config calls: `run`, then end the process with status 1 and a line per failure, if any."""
        if len(self.dataset) == 0:
            sys.exit(
                "Expected a scan, got none: give --input PATH (a file, DICOM folder or zip, a folder or list of them)."
            )
        try:
            total = len(self.scans())
            if self.shard is not None:
                logger.info("Share %s: %d of %d scans.", self.shard, total, len(self.dataset))
            with stopped_by_signals():
                failures = self.run()
        except Stopped as stop:
            logger.error(
                "Stopped by %s: %d of %d scans are done. Run the same command again to do the others; finished ones "
                "are skipped.",
                *(stop, self._done, total),
            )
            for _, reason in self.failures:
                logger.error("Failed: %s", reason)
            sys.exit(128 + stop.number)
        except (OSError, ValueError) as error:
            sys.exit(str(error))
        if failures:
            heading = [f"{len(failures)} of {total} scans failed:"] if total > 1 else []
            sys.exit("\n".join([*heading, *(reason for _, reason in failures)]))

    def one(self, source: ScanSource, scan: Scan | None = None) -> ScanOutcome:
        """Do one scan, after `start`.

        Args:
            source: The scan.
            scan: What was read of it already; None to read it now.

        Raises:
            OSError: If the scan cannot be read or the results cannot be written.
            ValueError: If the scan is not a CT that can be used, or its folder holds other results.
        """
        return self._one(source, source.open if scan is None else partial(nullcontext, scan))

    def _one(self, source: ScanSource, opened: Callable[[], AbstractContextManager[Scan]]) -> ScanOutcome:
        start = time.perf_counter()
        with opened() as scan:
            for note in scan.notes:
                self._tell(f"{shown(source.path)}: {shown(log_text(note))}")
            unsent: OSError | None = None
            with local_results(self.writer, source.name) as writer:
                outcome = self._find(source, scan, start, writer)
                if self.send is not None:
                    try:
                        self.send(writer.folder(source.name))
                    except OSError as error:  # results for an object store are kept all the same
                        unsent = error
            if unsent is not None:
                raise unsent
            return outcome

    def _tell(self, line: str) -> None:
        """Log a line once: several series in one folder share what was left out of it."""
        if line not in self._told:
            self._told.add(line)
            logger.warning("%s", line)

    def _find(self, source: ScanSource, scan: Scan, start: float, writer: ResultWriter) -> ScanOutcome:
        folder, place = writer.folder(source.name), shown(self.writer.folder(source.name))
        made = writer.made(scan, detector=self.inferer, linking=self.link)
        of_scan: dict[str, Any] = {}
        if self.review is not None:
            of_scan["review"] = self.review.describe(made["source"]["sha256"])
            of_scan[FIRST_RESULT] = self.review.first_result(made["source"]["sha256"])
        if (known := self.patient.patient_of(scan, self.weights.outline)) is not None:
            of_scan["patient"] = known[1]
        made["settings"] |= of_scan
        if not self.overwrite and are_finished(folder, made):
            logger.info("%s: skipped, its results are in %s.", shown(source.path), place)
            return ScanOutcome(skipped=True, lesions=lesion_count(folder))
        # The results of an only scan are in the output folder itself.
        if source.name and not self.overwrite and not self._compared:
            self._compared = True
            if difference := differs_from_others(folder, made, OF_SCAN):
                logger.warning("%s: %s. Are they meant to be in one folder?", place, difference)
        if self.review is not None:
            self.review.compare(made["source"]["sha256"], folder)
        read = time.perf_counter() - start
        network = self._started()
        settings = {**self.writer.settings, **of_scan}
        # Another process may write into the folder during the detection.
        writer = replace(self.writer, settings=settings, output_dir=writer.output_dir, overwrite=self.overwrite)
        ready = time.perf_counter()
        if known is not None:
            logger.info("%s: scores are refined with %s.", shown(source.path), patient_text(known[1]))
        found = self.inferer(scan, network, **({} if known is None else {"patient": known[0]}))
        detected = time.perf_counter()
        lesions = self.link(found)
        if self.review is not None:
            lesions = self.review.accepted(scan, made["source"]["sha256"], lesions)
        linked = time.perf_counter()
        for note in cautions(scan, found):
            logger.warning("%s: %s", shown(source.path), note)
        spent = {"read": read, "detect": detected - ready, "link": linked - detected}
        timing = {stage: round(seconds, 2) for stage, seconds in spent.items()}
        if self._done and is_gone(self.writer.output_dir):
            raise FileNotFoundError(f"The output folder {self.writer.output_dir} has been removed.")
        writer(scan, found, lesions, name=source.name, timing=timing, made=made)
        end = time.perf_counter()
        logger.info(
            "%s: %d lesions, linked from the boxes of %d slices out of %d examined, %.1f s, %.1f s of them to write "
            "the results; they are in %s",
            *(shown(source.path), len(lesions), len(set(found.slices.tolist())), int(found.examined.sum())),
            *(read + end - ready, end - linked, place),
        )
        return ScanOutcome(skipped=False, lesions=len(lesions))
