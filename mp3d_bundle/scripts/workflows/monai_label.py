"""What MONAI Label asks of a detection bundle: a detector of whole volumes, and parameters that a client may set.

MONAI Label's ``monaibundle`` app reads ``detector``, ``detector_ops``, ``preprocessing``, ``postprocessing``,
``network_def`` and ``displayable_configs`` of ``configs/inference.json``. What a client sends for one of the
``displayable_configs`` is written into the config as it comes, and a text that begins with ``$`` would be run as
Python if anything referred to it. Nothing does: `Choice` reads such values as plain data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..configuration.typed_options import current_parser
from ..data.scans.scan_tensors import scan_of
from ..engines.engine import EngineChoice
from ..inference.detections import Lesion, ScanResult, SliceBoxes
from ..inference.outputs.lesions_document import calibration_of, describe_lesions, describe_run
from ..inference.outputs.measurements import tagging_in
from ..inference.outputs.named_classes import classes_in
from ..inference.outputs.slicer_nodes import slicer_markups
from ..inference.volume_detector import VolumeDetector
from .scan_patient import PatientOptions
from .trained_weights import Weights

LESION = 1
# The first choice on offer: no operating point, so that the score threshold counts.
NO_OPERATING_POINT = "none"
# What is in the config until a client has chosen something.
OFFERS = ("$['none', *@trained.setting('operating_points', {})]", "@score_threshold", "$[@trained.path.name]")


class Choice:
    """Which lesions a client wants to see.

    Args:
        weights: Their operating points are on offer.
        default: Score threshold unless another one is chosen.
        key: Where the config keeps what clients may set.
    """

    def __init__(self, weights: Weights, default: float, key: str = "displayable_configs") -> None:
        self.weights = weights
        self.default = default
        # The parser can be found only while the config is being built.
        parser = current_parser()
        chosen = dict(parser[key]) if parser is not None and key in parser else {}
        self.chosen = {name: value for name, value in chosen.items() if value not in OFFERS}

    def threshold(self) -> float:
        """The score threshold that was chosen.

        An operating point counts more than a score threshold: clients with a form send both, and the form begins
        with no operating point.

        Raises:
            ValueError: If the choice is neither a number from 0 to 1 nor an operating point of the weights.
        """
        point = _first(self.chosen.get("operating_point"))
        if point not in (None, "", NO_OPERATING_POINT):
            return self.weights.threshold(point, self.default)
        return score_threshold(_first(self.chosen.get("score_threshold")), self.default)


def _first(value: Any) -> Any:
    """The chosen one of a list of choices: clients that choose nothing send the list."""
    return (value[0] if value else None) if isinstance(value, (list, tuple)) else value


def score_threshold(value: Any, default: float) -> float:
    """A score threshold as a client sends it, a number or its text; ``default`` for None and an empty text.

    Raises:
        ValueError: If it is not a number from 0 to 1.
    """
    if value is None or value == "":
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"Expected a score threshold from 0 to 1, got {value!r}.")
    return number


class LesionDetector:
    """The detector that MONAI Label calls: a whole CT in, lesions in LPS millimetres out.

    It finds what ``run inferring`` finds in the same file; a network that reads sex and age gets those of its headers.
    MONAI Label sets `network` before each call.

    Args:
        inferer: Scan and network to slice boxes.
        link: Slice boxes to lesions; called with ``score_threshold``.
        choice: What the client wants to see.
        weights: What the results say about their origin.
        settings: How the detector is set, plain values, written next to the results.
        engine: Runs the network; PyTorch without it.
    """

    def __init__(
        self,
        inferer: VolumeDetector,
        link: Callable[..., list[Lesion]],
        *,
        choice: Choice,
        weights: Weights,
        settings: Mapping[str, Any],
        engine: EngineChoice | None = None,
    ) -> None:
        self.inferer = inferer
        self.link = link
        self.choice = choice
        self.weights = weights
        self.settings = dict(settings)
        self.engine = engine
        self.network: nn.Module | None = None

    def eval(self) -> LesionDetector:
        """Do nothing: a detector without a training mode. Part of what MONAI Label calls."""
        return self

    def __call__(self, inputs: torch.Tensor, use_inferer: bool = True) -> list[dict[str, Any]]:
        """Find the lesions of one volume.

        Args:
            inputs: MetaTensor ``(1, 1, X, Y, Z)`` of HU, see `scan_of`.
            use_inferer: Ignored; MONAI's detectors have it.

        Returns:
            One dict: ``box`` ``(N, 6)`` float32 ``x1, y1, z1, x2, y2, z2`` in LPS mm, best score first; ``label``
            ``(N,)`` int64, the class of each from 1; ``label_scores`` ``(N,)`` float32; ``document``, what
            ``lesions.json`` holds; and ``markups``, what ``lesions.mrk.json`` holds.

        Raises:
            ValueError: If the image is not a CT, no network was set, or the client's choice is invalid.
        """
        network = self._ready()
        scan = scan_of(inputs)
        threshold = self.choice.threshold()
        reads = getattr(getattr(network, "backbone", None), "num_slices", self.inferer.cutter.num_slices)
        inferer = replace(
            self.inferer,
            cutter=replace(self.inferer.cutter, num_slices=reads),
            score_threshold=min(float(self.settings["box_threshold"]), threshold),
            progress=False,
        )
        use = self.engine.attach(network)._asdict() if self.engine is not None else {}
        known = PatientOptions().patient_of(scan, network)
        found: SliceBoxes = inferer(scan, network, **({} if known is None else {"patient": known[0]}))
        lesions = self.link(found, score_threshold=threshold)
        info = self.weights.info
        settings = {
            **self.settings,
            "num_slices": reads,
            "box_threshold": inferer.score_threshold,
            "score_threshold": threshold,
            **use,
            **({} if known is None else {"patient": known[1]}),
        }
        head, calibration = describe_run(scan, found, info, settings), calibration_of(info, settings)
        tagging, classes = tagging_in(head), classes_in(head)
        entries = describe_lesions(scan, found, lesions, calibration=calibration, tagging=tagging, classes=classes)
        document = {**head, "lesions": entries}
        markups = json.loads(slicer_markups(ScanResult(scan, found, lesions, document))["lesions.mrk.json"])
        boxes = scan.boxes_to_lps(np.array([lesion.box for lesion in lesions]).reshape(-1, 6))
        return [
            {
                "box": torch.from_numpy(boxes).float(),
                "label": torch.tensor([lesion.label or LESION for lesion in lesions], dtype=torch.int64),
                "label_scores": torch.tensor([lesion.score for lesion in lesions], dtype=torch.float32),
                "document": document,
                "markups": markups,
            }
        ]

    def _ready(self) -> nn.Module:
        if self.network is None:
            raise ValueError("Expected a network to detect with, none was set.")
        return self.network
