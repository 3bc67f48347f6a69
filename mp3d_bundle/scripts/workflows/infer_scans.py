"""The work behind ``python -m monai.bundle run inferring``: scan after scan, one failure stopping no other."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.intensity import IntensityWindow
from ..data.scans.find_scans import ScanSource
from ..data.scans.scan import Scan
from ..data.scans.scan_shards import take_shard
from ..data.scans.volume_files.stored_image import log_text, shown
from ..engines.engine import EngineChoice
from ..error_lines import SHOW_TRACEBACK
from ..inference.detections import Lesion, SliceBoxes, link_boxes
from ..inference.outputs.lesions_document import cautions
from ..inference.outputs.result_folder import are_finished
from ..inference.outputs.result_writer import ResultWriter
from ..inference.volume_detector import VolumeDetector
from ..interrupts import Stopped, stopped_by_signals
from ..networks import mp3d_fpn
from ..recipe import PAPER, Deviation, Recipe, fit_for, stored_recipe, tell_deviations, window_values
from ..storage.output_folder import check_output_folder
from ..weights import load_network
from .delivery.reviewed_results import Reviews
from .delivery.send_results import Sender
from .scan_patient import PatientOptions, patient_text
from .scans_ahead import ScansAhead

logger = logging.getLogger(__name__)

BUNDLE = Path(__file__).resolve().parents[2]
DEMO_WEIGHTS = "demo.pt"


def network_with_weights(checkpoint: str | Path, *, num_slices: int = 9) -> nn.Module:
    """The network that a weights file describes, with the weights already in it.

    It is what MONAI's own commands and other programs get when they ask the inference config for its network. Some of
    them build the config outside of the bundle's folder, and some silently load weights into a network that does
    not fit them: so the path is looked for in the bundle first, and nothing is left for them to load.

    Args:
        checkpoint: File of `scripts.weights`, relative to the bundle's or to the working folder.
        num_slices: Slices of the network where there is no such file (yet).

    Returns:
        In evaluation mode and on the CPU; the paper's network, untrained, where there is no such file.

    Raises:
        ValueError: If the file does not hold the network it names.
    """
    for path in (BUNDLE / checkpoint, Path(checkpoint)):
        if path.is_file():
            return load_network(path)[0]
    return mp3d_fpn(num_slices).eval()


class Weights:
    """A weights file, loaded when it is first needed: a config can be built and looked at without weights.

    Args:
        checkpoint: File of `scripts.weights`.
        device: Where to put the network.
    """

    def __init__(self, checkpoint: str | Path, device: str | torch.device = "cpu") -> None:
        self.path = Path(checkpoint)
        self.device = device

    @cached_property
    def _loaded(self) -> tuple[nn.Module, dict[str, Any]]:
        if not self.path.is_file():
            hint = f"Train a model (`python -m monai.bundle run training ...`) or see {self.path.parent / 'README.md'}."
            demo = self.path.with_name(DEMO_WEIGHTS)
            if demo.is_file():
                hint += f" Only to try things out: --checkpoint {demo} (from synthetic images, finds no real lesions)."
            raise FileNotFoundError(f"Expected trained weights, found no file {self.path}. {hint}")
        return load_network(self.path, self.device)

    def load(self) -> nn.Module:
        """The network of the file, in evaluation mode.

        Raises:
            FileNotFoundError: If there is no such file; the message says how to get one, and how to try
                inference with the demo weights where those are at hand.
            ValueError: If the file does not hold the network it names.
        """
        return self._loaded[0]

    @property
    def info(self) -> dict[str, Any]:
        """What the file says about its weights: ``name``, ``notice``, ``path``, ``sha256``; empty without a file.

        Under ``inference`` it may hold the settings that these weights want, see `setting`.
        """
        if not self.path.is_file():
            return {}
        info, note = self._loaded[1], self.recipe_of_file.class_note()
        return {**info, "notice": " ".join(filter(None, [info.get("notice"), note]))} if note else info

    @cached_property
    def _stored(self) -> Recipe:
        network, info = self._loaded
        return stored_recipe(info, str(self.path), network=network)

    @cached_property
    def _fitted(self) -> Recipe:
        return fit_for(self._stored, str(self.path), photographs=False)

    @property
    def recipe_of_file(self) -> Recipe:
        """What the network saw in training; the paper's recipe where there is no file (yet)."""
        return self._stored if self.path.is_file() else PAPER

    @property
    def recipe(self) -> Recipe:
        """What the network should see of a CT: `recipe_of_file`, or the paper's for a network of photographs."""
        return self._fitted if self.path.is_file() else PAPER

    def used(self, inferer: VolumeDetector) -> Recipe:
        """What the network sees of a scan by ``inferer``.

        It interpolates by the true positions, unless it reads slices as they are stored.
        """
        cutter, scale = inferer.cutter, inferer.cutter.scale
        found: dict[str, Any] = {"num_slices": cutter.num_slices, "slice_spacing": cutter.slice_spacing}
        if isinstance(inferer.intensity, IntensityWindow):
            found |= window_values(inferer.intensity)
        # Without a pixel size, the scale counts.
        sizes = {} if scale.pixel_spacing is not None else {"test_scale": scale.image_size}
        found |= {"z_mode": "native" if cutter.native else "corrected", "crop_border": cutter.border is not None}
        found |= {"pixel_spacing": scale.pixel_spacing, "longest_side": scale.longest_side}
        return replace(self.recipe, **sizes, **found)

    def tell(self, inferer: VolumeDetector) -> dict[str, Deviation]:
        """Log and give in what ``inferer`` deviates from the weights' recipe, and log that classes become one."""
        if note := self.recipe_of_file.class_note():
            logger.warning("%s: %s", self.path, note)
        return tell_deviations(self.recipe_of_file, self.used(inferer), str(self.path))

    def setting(self, name: str, default: Any) -> Any:
        """The setting ``name`` (``pixel_spacing``, ``box_threshold``, ...) that the weights want, or ``default``."""
        return self.info.get("inference", {}).get(name, default)

    def threshold(self, operating_point: float | str | None, default: float) -> float:
        """The score threshold of an operating point that `scripts.tools.set_operating_points` stored with the weights.

        Args:
            operating_point: False positives per image on the validation split, e.g. 0.5, 1, 2 or 4. None for the
                threshold that the weights want, or else ``default``.
            default: Threshold for weights that want none.

        Raises:
            ValueError: If the weights have no such operating point.
        """
        if operating_point is None:
            return self.setting("score_threshold", default)
        points = self.setting("operating_points", {})
        for name, threshold in points.items():
            if str(operating_point) == name or f"{operating_point}" == f"{float(name)}":
                return threshold
        known = f"one out of {', '.join(points)}" if points else "none (these weights have none stored)"
        raise ValueError(f"Expected an operating point, {known}, got {operating_point!r} for {self.path}.")


# What the code raises on purpose, or the machine when memory runs out: the text says enough.
_TOLD = (OSError, ValueError, ArithmeticError, RuntimeError, MemoryError)


def reason_of(error: Exception, source: ScanSource) -> str:
    """Why a scan could not be done, in one line with its path."""
    path, reason = shown(source.path), " ".join(shown(error).split())
    if not isinstance(error, _TOLD):
        reason = f"{type(error).__name__}: {reason}"
    reason = reason or type(error).__name__
    return reason if path in reason else f"{path}: {reason}"


@dataclass(frozen=True)
class ScanOutcome:
    """How a scan ended that did not fail.

    Attributes:
        skipped: Whether its results were there already.
        lesions: Number of lesions; None if it was skipped.
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
    _told: set[str] = field(default_factory=set, init=False, repr=False)
    _done: int = field(default=0, init=False, repr=False)

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
        self.start()
        with ScansAhead(scans, ahead=self.read_ahead) as ahead:
            self._all(scans, ahead)
        return self.failures

    def _all(self, scans: Sequence[ScanSource], ahead: ScansAhead[Scan]) -> None:
        """Do all scans; note those that fail."""
        output, total = Path(self.writer.output_dir), len(scans)
        for number, source in enumerate(scans):
            try:
                # A new one would hide that the results of earlier scans are lost.
                if self._done and not output.is_dir():
                    raise FileNotFoundError(f"The output folder {output} has been removed.")
                self._one(source, partial(ahead.scan, number))
                self._done += 1
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
                    logger.error("Failed, going on with the next scan: %s", reason)

    def scans(self) -> list[ScanSource]:
        """The scans to do: all of them, or those of the shard.

        Raises:
            ValueError: If ``shard`` is not a share.
        """
        return take_shard([self.dataset[number] for number in range(len(self.dataset))], self.shard)

    def start(self) -> None:
        """Check the output folder, load the weights and prepare the engine, before the first scan.

        Raises:
            OSError: If there are no weights, or nothing can be written into the output folder.
            ValueError: If the weights cannot be used, or not by the engine.
        """
        check_output_folder(self.writer.output_dir)
        network = self.weights.load()
        self.patient.check(network)
        self.weights.tell(self.inferer)
        if self.engine is not None:
            use = self.engine.attach(network)._asdict()
            self.writer = replace(self.writer, settings={**self.writer.settings, **use})

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
                self._tell(shown(f"{source.path}: {log_text(note)}"))
            return self._find(source, scan, start)

    def _tell(self, line: str) -> None:
        """Log a line once: several series in one folder share what was left out of it."""
        if line not in self._told:
            self._told.add(line)
            logger.warning("%s", line)

    def _find(self, source: ScanSource, scan: Scan, start: float) -> ScanOutcome:
        folder = self.writer.folder(source.name)
        writer, made = self.writer, self.writer.made(scan, detector=self.inferer, linking=self.link)
        if self.review is not None:
            reviewed = self.review.describe(made["source"]["sha256"])
            writer = replace(writer, settings={**writer.settings, "review": reviewed})
            made["settings"]["review"] = reviewed
        network = self.weights.load()
        if (known := self.patient.patient_of(scan, network)) is not None:
            writer = replace(writer, settings={**writer.settings, "patient": known[1]})
            made["settings"]["patient"] = known[1]
        if not self.overwrite and are_finished(folder, made):
            logger.info("%s: skipped, its results are in %s.", shown(source.path), shown(folder))
            return ScanOutcome(skipped=True)
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
        spent = {"read": ready - start, "detect": detected - ready, "link": linked - detected}
        timing = {stage: round(seconds, 2) for stage, seconds in spent.items()}
        if self._done and not Path(self.writer.output_dir).is_dir():
            raise FileNotFoundError(f"The output folder {self.writer.output_dir} has been removed.")
        writer(scan, found, lesions, name=source.name, timing=timing, made=made)
        end = time.perf_counter()
        logger.info(
            "%s: %d lesions, linked from the boxes of %d slices out of %d examined, %.1f s, %.1f s of them to write "
            "the results; they are in %s",
            *(shown(source.path), len(lesions), len(set(found.slices.tolist())), int(found.examined.sum())),
            *(end - start, end - linked, shown(folder)),
        )
        if self.send is not None:
            self.send(folder)
        return ScanOutcome(skipped=False, lesions=len(lesions))
