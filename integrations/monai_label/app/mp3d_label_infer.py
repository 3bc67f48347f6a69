"""Inference for the app: detection whatever the folder is called, parameters checked, scores in the answer."""

from __future__ import annotations

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
# Clients with a form for parameters send one of these along.
OF_A_VIEWER = ("client_id", "result_extension")
# A batch may ask from several threads, but which package is called ``scripts`` holds for the whole process.
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
        if self.valid:
            self.dimension = 3
            self._stamp = self._modified()

    def config(self) -> dict[str, Any]:
        """What clients may set, with the choices of the weights that are served now."""
        if self._modified() != self._stamp:
            self._stamp = self._modified()
            with self._own_scripts():
                # Everything anew: the config as it stands in the file, without what clients chose.
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
            File of Slicer markups (None where there is nothing to show), and the answer as plain data.

        Raises:
            HTTPException: If a parameter cannot be.
        """
        with ONE_AT_A_TIME:
            check_parameters(request, self.config())
            return super().__call__(request, callbacks)

    def writer(self, data: Mapping[str, Any], extension: Any = None, dtype: Any = None) -> tuple[str | None, dict]:
        """The answer: what MONAI Label's own writer gives, with scores, names and what ``lesions.json`` holds.

        Args:
            data: What detector and postprocessing left.
            extension: Ignored; of label images.
            dtype: Ignored; of label images.

        Returns:
            File of markups, or None if a viewer asked and nothing was found (Slicer refuses an empty file); answer.
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
        """The network as the weights file describes it, every tensor accounted for; anew when the file has changed."""
        stamp = self._modified()
        held = self._networks.get(device)
        if held is None or held[1] != stamp:
            with self._own_scripts():
                network = self.bundle_config.get_parsed_content("network_def")
            self._networks[device] = held = (network.to(torch.device(device)).eval(), stamp)
            logger.info("Weights of %s, %s", self._weights, stamp)
        return held[0]

    def _modified(self) -> int:
        return self._weights.stat().st_mtime_ns

    @contextmanager
    def _own_scripts(self) -> Iterator[None]:
        """``scripts`` is this bundle's package inside the block, whichever one other bundles brought."""
        sys.path.insert(0, self.bundle_path)
        unload_module("scripts")
        try:
            yield
        finally:
            sys.path.remove(self.bundle_path)


def check_parameters(request: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
    """Check what a client sends before any of it reaches the config: a text there may be code.

    Args:
        request: The parameters; of a list every element is checked, as all of them reach the config.
        shown: What clients may choose from.

    Raises:
        HTTPException: Naming the first that cannot be.
    """
    for threshold in _sent(request, "score_threshold"):
        if not _is(lambda value: 0 <= float(value) <= 1, threshold):
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
            raise HTTPException(BAD_REQUEST, f"Expected a device out of {', '.join(device_list())}, got {device!r}.")


def _sent(request: Mapping[str, Any], name: str) -> list[Any]:
    """What a client sends for a parameter, empty values left out: clients that choose nothing send all choices."""
    value = request.get(name)
    return [item for item in (value if isinstance(value, list) else [value]) if item not in (None, "")]


def _is(test: Callable[[Any], bool], value: Any) -> bool:
    try:
        return not isinstance(value, bool) and test(value)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        return False
