"""The weights file of a run: what it says of itself, and its network, which is loaded when it is first needed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.intensity import IntensityWindow
from ..inference.volume_detector import VolumeDetector
from ..networks import mp3d_fpn
from ..recipe import (
    PAPER,
    Deviation,
    Recipe,
    class_names,
    classes_of,
    fit_for,
    stored_recipe,
    tell_deviations,
    window_values,
)
from ..storage.atomic_files import sha256
from ..weights import WeightsFile, build_network, load_network, load_state, read_detector
from .scan_patient import facts_read

logger = logging.getLogger(__name__)

BUNDLE = Path(__file__).resolve().parents[2]
DEMO_WEIGHTS = "demo.pt"


def network_with_weights(
    checkpoint: str | Path,
    *,
    num_slices: int = 9,
    body: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network that a weights file describes, with the weights already in it.

    It is what MONAI's own commands and other programs get when they ask the inference config for its network. Some of
    them build the config outside of the bundle's folder, and some silently load weights into a network that does
    not fit them: so the path is looked for in the bundle first, and nothing is left for them to load.

    Args:
        checkpoint: File of `scripts.weights`, relative to the bundle's or to the working folder.
        num_slices: Slices of the network where there is no such file (yet).
        body: Nothing; a place for options such as ``network_def#body#width``, so that they are rejected by name.
        head: Likewise.

    Returns:
        In evaluation mode and on the CPU; the paper's network, untrained, where there is no such file.

    Raises:
        ValueError: If the file does not hold the network it names, or something is asked of its parts.
    """
    if body or head:
        raise ValueError(f"Expected the network as {checkpoint} describes it, got other parts: {body or head}.")
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
    def _content(self) -> WeightsFile:
        if not self.path.is_file():
            hint = f"Train a model (`python -m monai.bundle run training ...`) or see {self.path.parent / 'README.md'}."
            demo = self.path.with_name(DEMO_WEIGHTS)
            if demo.is_file():
                hint += f" Only to try things out: --checkpoint {demo} (from synthetic images, finds no real lesions)."
            raise FileNotFoundError(f"Expected trained weights, found no file {self.path}. {hint}")
        return read_detector(self.path)

    @cached_property
    def _described(self) -> tuple[nn.Module, dict[str, Any]]:
        """The network without memory, and what the file says."""
        content = self._content
        outline = build_network(content["network"], str(self.path), state=content["model"], device="meta")
        return outline, {**content["info"], "path": str(self.path), "sha256": sha256(self.path)}

    @cached_property
    def _network(self) -> nn.Module:
        _, content = self._described, self._content
        network = build_network(content["network"], str(self.path))
        load_state(network, content["model"], str(self.path))
        # They are in the network now.
        del self._content
        return network.eval().to(self.device)

    def load(self) -> nn.Module:
        """The network of the file, in evaluation mode.

        Raises:
            FileNotFoundError: If there is no such file; the message says how to get one, and how to try
                inference with the demo weights where those are at hand.
            ValueError: If the file does not hold the network it names.
        """
        return self._network

    @property
    def outline(self) -> nn.Module:
        """The network without memory and values: what can be asked of it before it is loaded.

        Raises:
            FileNotFoundError: As `load`.
            ValueError: As `load`, but for values that are not finite.
        """
        return self._described[0]

    @property
    def reads_patients(self) -> bool:
        """Whether the network reads sex and age of patients; False where there is no file (yet)."""
        return self.path.is_file() and "patient" in facts_read(self.outline)

    @property
    def info(self) -> dict[str, Any]:
        """What the file says about its weights: ``name``, ``notice``, ``path``, ``sha256``; empty without a file.

        Under ``inference`` it may hold the settings that these weights want, see `setting`. Of a network that
        distinguishes several classes, ``classes`` has the name of each.
        """
        if not self.path.is_file():
            return {}
        info, count = self._described[1], classes_of(self.outline)
        return {**info, "classes": class_names(count, self._stored.classes)} if count > 1 else info

    @cached_property
    def _stored(self) -> Recipe:
        outline, info = self._described
        return stored_recipe(info, str(self.path), network=outline)

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
        """Log and give in what ``inferer`` deviates from the weights' recipe."""
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
