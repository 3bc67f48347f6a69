"""What an evaluation does in addition to running the network: load its weights first, write its report last."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..configuration.running_config import CONFIGS
from ..data.slabs.slab_reader import read_slice
from ..engines.engine import EngineChoice
from ..inference.outputs.html.gallery import gallery_items, write_gallery
from ..metrics.bootstrap import Bootstrap
from ..metrics.cases import Case
from ..metrics.evaluation_files import GALLERY, Evaluated
from ..metrics.image.hits_and_misses import list_findings
from ..metrics.image.ignite_metrics import DetectionMetrics
from ..metrics.image.image_report import write_report
from ..metrics.image.image_tables import format_table
from ..recipe import KEY, Recipe, class_names, classes_of, read_recipe, tell_deviations
from ..storage.atomic_files import sha256
from ..storage.output_folder import FolderLock, evaluation_lock
from ..weights import build_network, load_state, read_stored, tensors_sha256
from .to_cases import name_detections

logger = logging.getLogger(__name__)

# Operating point of the gallery, in false positives per image: a key of the report's ``thresholds``.
_GALLERY_FPS = "1"


def described_network(checkpoint: str | Path, default: nn.Module, *, asked: Mapping[str, Any]) -> nn.Module:
    """Build the network that a weights file describes, so that narrow or deeper ones need no further options.

    Args:
        checkpoint: File of :mod:`scripts.weights` or ``last.pt`` of a training run.
        default: The config's own network. Returned where there is no such file (yet), where the file does not
            say, and where the config asks for more than a number of slices: then the weights must fit that.
        asked: Description of the config's network.

    Raises:
        ValueError: If the file is damaged, describes anything but a network of this bundle, or one of another
            number of slices.
    """
    if not Path(checkpoint).is_file() or _asks_for_more(asked):
        return default
    content = read_stored(checkpoint)
    definition = content["network"]
    if not definition:
        return default
    if not isinstance(definition, Mapping):
        raise ValueError(f"Expected a network definition, got {type(definition).__name__} in {checkpoint}.")
    slices = definition.get("num_slices", asked.get("num_slices"))
    if slices != asked.get("num_slices"):
        raise ValueError(
            f"Expected weights for {asked.get('num_slices')} slices, got weights for {slices} in {checkpoint}: the "
            f"number of slices differs. Give --num_slices {slices}."
        )
    state = content["model"]
    fits = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    return build_network(definition, str(checkpoint), state=state if fits else None)


def _asks_for_more(asked: Mapping[str, Any]) -> bool:
    """Whether a description says more than a number of slices: more than the evaluation config itself does."""
    if set(asked) <= {"_target_", "num_slices"}:
        return False
    plain = json.loads((CONFIGS / "evaluate.json").read_text(encoding="utf-8"))["network_def"]
    return {**asked, "num_slices": None} != {**plain, "num_slices": None}


class WeightsOrigin(TypedDict, total=False):
    """Which weights were evaluated; the tensors' hash stays the same when thresholds are stored with them."""

    name: str | None
    path: str
    sha256: str
    tensors_sha256: str


class WeightsLoader:
    """Loads a network's weights when an engine starts, every tensor accounted for.

    Not before: a config can then be built and looked at without weights.

    Args:
        network: The network, on any device.
        path: File of :mod:`scripts.weights`, ``last.pt`` of a training run, or a bare state dict.
        used: What the network is shown; in what that is another recipe than the weights' own is logged and reported.
        engine: Runs the network from then on; PyTorch without it.

    Attributes:
        info: What the file says about its weights; empty before they are loaded.
        origin: Which weights they are, for reports; empty before.
        recipe: ``recipe``, what the network is shown, ``deviations`` from the weights' own, and the ``engine`` and
            ``precision`` that it runs on; empty before.
    """

    def __init__(
        self, network: nn.Module, path: str | Path, *, used: Recipe | None = None, engine: EngineChoice | None = None
    ) -> None:
        self.used = used
        self.engine = engine
        self.recipe: dict[str, Any] = {}
        self.network = network
        self.path = Path(path)
        self.info: dict[str, Any] = {}
        self.origin: WeightsOrigin = {}

    def attach(self, engine: Engine) -> None:
        """Load when ``engine`` starts, and warn of an option that has no effect with these weights."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.STARTED, self._warn_of_patients)

    def _warn_of_patients(self, engine: Engine) -> None:
        records = getattr(getattr(getattr(engine, "data_loader", None), "dataset", None), "data", None)
        given = bool(records) and "age" in records[0].get("instances", ())
        if given and not getattr(self.network, "reads_patients", False) and idist.get_rank() == 0:
            logger.warning(
                "--patients has no effect: this network does not read sex and age of patients or the position."
            )

    def load(self) -> None:
        """Load the weights.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is damaged, belongs to another architecture or number of slices, or the engine cannot run
                the network.
        """
        content = read_stored(self.path)
        definition, state = content["network"], content["model"]
        try:
            load_state(self.network, state, str(self.path))
        except ValueError as error:
            if definition is None:
                raise
            raise ValueError(f"{error} They belong to the network {definition}.") from None
        self.info = content["info"]
        self.origin = {
            "name": self.info.get("name"),
            "path": str(self.path),
            "sha256": sha256(self.path),
            "tensors_sha256": tensors_sha256(state),
        }
        if self.used is not None:
            stored = self.info.get(KEY)
            own = self.used if stored is None else read_recipe(stored, str(self.path))
            self.recipe = {KEY: self.used.plain(), "deviations": tell_deviations(own, self.used, str(self.path))}
        if self.engine is not None:
            self.recipe |= self.engine.attach(self.network)._asdict()
        notice = self.info.get("notice")
        logger.info("Loaded the weights of %s.%s", self.path, f" {notice}" if notice else "")


class FolderReport:
    """A report of an evaluation that has its folder for itself while the evaluation runs.

    Attributes:
        lock: Of the folder, see `evaluation_lock`.
    """

    lock: FolderLock

    def attach(self, engine: Engine) -> None:
        """Report on ``engine``, an evaluator; another evaluation into the folder is rejected meanwhile."""
        engine.add_event_handler(Events.STARTED, self.take_folder)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def take_folder(self) -> None:
        """Take the folder.

        Raises:
            BlockingIOError: If another evaluation is running there.
            OSError: If it cannot be written.
        """
        if idist.get_rank() == 0:
            self.lock.acquire(take_over=True)

    def write(self) -> None:
        """Write the files, once the evaluation is complete."""
        raise NotImplementedError


class EvaluationReport(FolderReport):
    """Writes the report of an evaluation and shows its table, when the engine is done.

    Args:
        output_dir: Folder of the report.
        metric: The metric that gathered the cases.
        about: What was evaluated.
        weights: Loader of the weights; which they are and their notice, if any, go into the report.
        bootstrap: How to resample patients; 1,000 resamples by default.
        gallery_images: Hits, misses and false positives shown in ``gallery/index.html``, at most as many
            of each; 0 for no gallery.
    """

    def __init__(
        self,
        output_dir: str | Path,
        metric: DetectionMetrics,
        about: Evaluated,
        *,
        weights: WeightsLoader | None = None,
        bootstrap: Bootstrap | None = None,
        gallery_images: int = 24,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.lock = evaluation_lock(output_dir)
        self.metric = metric
        self.about = about
        self.weights = weights
        self.bootstrap = bootstrap
        self.gallery_images = gallery_images

    def write(self) -> None:
        """Write the files and log the table; in several processes the first one writes."""
        cases = self.metric.cases
        if idist.get_rank() != 0:
            return
        notices: list[str | None] = [self.about.notice]
        origin: dict[str, Any] = {"weights": None}
        if self.weights is not None:
            origin = {"weights": self.weights.origin, **self.weights.recipe}
            cases = self._with_classes(cases, self.weights)
            classes = self.weights.used.class_note() if self.weights.used is not None else None
            notices += [self.weights.info.get("notice"), classes]
            if classes:
                logger.warning("%s: %s", self.weights.path, classes)
        notice = " ".join(text for text in notices if text) or None
        about = replace(self.about, notice=notice, origin={**origin, **self.about.origin}, **self._tags())
        metrics = write_report(cases, self.output_dir, about, rule=self.metric.rule, bootstrap=self.bootstrap)
        if self.gallery_images > 0:
            self._write_gallery(cases, metrics["thresholds"][_GALLERY_FPS], notice)
        self.lock.release()
        logger.info("Results on %s:\n%s", self.about.dataset, format_table(metrics))

    @staticmethod
    def _with_classes(cases: list[Case], weights: WeightsLoader) -> list[Case]:
        """The cases with the classes that the weights name, in a data set that knows several."""
        if weights.used is None:
            return cases
        names = class_names(classes_of(weights.network), weights.used.classes)
        return name_detections(cases, names, str(weights.path))

    def _tags(self) -> dict[str, Any]:
        """What the weights say of their tags."""
        if self.weights is None:
            return {}
        names = self.weights.used.tags if self.weights.used is not None else ()
        stored = (self.weights.info.get("inference") or {}).get("tag_threshold")
        chosen = self.about.tag_threshold
        return {"tag_names": names, "tag_threshold": stored if chosen is None else chosen}

    def _write_gallery(self, cases: list[Case], threshold: float | None, notice: str | None) -> None:
        # No threshold: this operating point keeps no detection at all.
        findings = list_findings(cases, math.inf if threshold is None else threshold, self.metric.rule)
        items = gallery_items(findings, lambda case: read_slice(case["image"]))
        at = f"at {_GALLERY_FPS} false positives per image" + (
            "" if threshold is None else f" (scores of at least {threshold:.3f})"
        )
        index = write_gallery(
            items,
            self.output_dir / GALLERY,
            title=f"{self.about.dataset} {at}",
            notice=notice,
            limit=self.gallery_images,
        )
        logger.info("Wrote hits, misses and false positives to %s.", index)
