"""Inference for the app: detection under any folder name, checked parameters, scores in the response."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.class_utils import unload_module
from monailabel.utils.others.generic import device_list, name_to_device

logger = logging.getLogger(__name__)

BAD_REQUEST = 400
NO_OPERATING_POINT = "none"
WEIGHTS = "model.pt"
# Clients with a form for parameters also send one of these.
OF_A_VIEWER = ("client_id", "result_extension")
# What a request holds besides parameters. MONAI Label keeps its own state next to them: of what else a client sends,
# some names would change or break it.
OF_A_REQUEST = ("model", "image", "description", "logging", "device", *OF_A_VIEWER)
# A batch may use several threads, but the package named ``scripts`` is the same for the whole process.
ONE_AT_A_TIME = threading.Lock()


class LesionInferTask(BundleInferTask):
    """Lesion boxes of one bundle.

    Args:
        path: Folder of the bundle, with ``models/model.pt``.
        conf: Of the app.
    """

    def __init__(self, path: str, conf: Mapping[str, str]) -> None:
        super().__init__(path, dict(conf), type=InferType.DETECTION.value)
        self._weights = Path(path) / "models" / WEIGHTS
        self.parse_markups = own_part(path, "data.scans.markup_boxes", "parse_markups")
        if self.valid:
            with own_scripts(path):
                self.read_scan = self.bundle_config.get_parsed_content("preprocessing")
            self.dimension = 3
            self._stamp = self._modified()

    def config(self) -> dict[str, Any]:
        """Parameters for clients, with the choices of the served weights."""
        if self._modified() != self._stamp:
            self._stamp = self._modified()
            with own_scripts(self.bundle_path):
                # Start again from the config in the file, without earlier choices of clients.
                self.bundle_config = self._load_bundle_config(self.bundle_path, self.bundle_config_path)
                self.displayable_configs = self.bundle_config.get_parsed_content("displayable_configs")
            self._config.update(self.displayable_configs)
        return self._config

    def __call__(self, request: Mapping[str, Any], callbacks: Any = None) -> tuple[str | None, dict[str, Any]]:
        """Find the lesions of one image.

        Args:
            request: ``image``, a path; ``score_threshold``, ``operating_point``, ``device``, ``model_filename``.
            callbacks: See MONAI Label.

        Returns:
            File of Slicer markups (None if there is nothing to show), and the response as plain data.

        Raises:
            HTTPException: If a parameter is invalid.
        """
        with ONE_AT_A_TIME:
            self.check(request)
            known = {*OF_A_REQUEST, *self.config()}
            return super().__call__({name: value for name, value in request.items() if name in known}, callbacks)

    def check(self, params: Mapping[str, Any]) -> None:
        """Check parameters.

        Raises:
            HTTPException: Naming the first invalid one.
        """
        check_parameters(params, self.config())

    def writer(self, data: Mapping[str, Any], extension: Any = None, dtype: Any = None) -> tuple[str | None, dict]:
        """The response: the output of MONAI Label's writer, with scores, names and the content of ``lesions.json``.

        Args:
            data: Result of detector and postprocessing.
            extension: Ignored; for label images.
            dtype: Ignored; for label images.

        Returns:
            File of markups, or None if a viewer asked and nothing was found (Slicer rejects an empty file); response.
        """
        document = data["document"]
        answer = {
            "name": f"MONAILabel Annotations - {data.get('model')}",
            "description": data.get("description"),
            "model": data.get("model"),
            "box": data["box"].tolist(),
            "label": data["label"].tolist(),
            "score": [round(score, 6) for score in data["label_scores"].tolist()],
            "image": Path(data["image_path"]).name,
            "lesions": document["lesions"],
            "notices": document["notices"],
            "weights": document["model"],
            "settings": document["settings"],
            "latencies": data.get("latencies"),
        }
        if not document["lesions"] and any(key in data for key in OF_A_VIEWER):
            return None, answer
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as file:
            json.dump(data["markups"], file)
        return file.name, answer

    def _get_network(self, device: str, data: Mapping[str, Any]) -> torch.nn.Module:
        """The network of the weights file, with every tensor checked; loaded again when the file changes."""
        stamp = self._modified()
        held = self._networks.get(device)
        if held is None or held[1] != stamp:
            with own_scripts(self.bundle_path):
                network = self.bundle_config.get_parsed_content("network_def")
            self._networks[device] = held = (network.to(torch.device(device)).eval(), stamp)
            logger.info("Weights of %s, %s", self._weights, stamp)
        return held[0]

    def _modified(self) -> int:
        return self._weights.stat().st_mtime_ns


@contextmanager
def own_scripts(bundle: str) -> Iterator[None]:
    """Inside the block ``scripts`` is the package of this bundle's folder, even if other bundles have one."""
    sys.path.insert(0, bundle)
    unload_module("scripts")
    try:
        yield
    finally:
        sys.path.remove(bundle)


def own_part(bundle: str, module: str, name: str) -> Any:
    """A part of the ``scripts`` of a bundle's folder; it works on when another bundle's take their place."""
    with own_scripts(bundle):
        return getattr(importlib.import_module(f"scripts.{module}"), name)


def check_parameters(request: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
    """Check parameters before they reach the config, where a text may be code.

    Args:
        request: The parameters; every element of a list is checked, because all of them reach the config.
        shown: The allowed choices.

    Raises:
        HTTPException: Naming the first invalid one.
    """
    for threshold in _sent(request, "score_threshold"):
        # Python reads "0_1" as 1.
        if "_" in str(threshold) or not _is(lambda value: 0 <= float(value) <= 1, threshold):
            raise HTTPException(BAD_REQUEST, f"Expected a score_threshold from 0 to 1, got {threshold!r}.")
    for name in ("operating_point", "model_filename"):
        choices = [str(choice) for choice in shown[name]]
        for value in _sent(request, name):
            if isinstance(value, (list, dict)) or str(value) not in choices:
                raise HTTPException(BAD_REQUEST, f"Expected {name} to be one of {', '.join(choices)}, got {value!r}.")
    for device in _sent(request, "device"):
        if not isinstance(device, str) or not _is(
            lambda value: torch.device(name_to_device(value)).type in ("cpu", "cuda"), device
        ):
            raise HTTPException(BAD_REQUEST, f"Expected a device among {', '.join(device_list())}, got {device!r}.")


def _sent(request: Mapping[str, Any], name: str) -> list[Any]:
    """Values of a parameter without empty ones: clients that choose nothing send all choices."""
    value = request.get(name)
    return [item for item in (value if isinstance(value, list) else [value]) if item not in (None, "")]


def _is(test: Callable[[Any], bool], value: Any) -> bool:
    try:
        return not isinstance(value, bool) and test(value)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        return False
