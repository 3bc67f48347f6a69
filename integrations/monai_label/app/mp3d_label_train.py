"""Training for the app: from boxes in the datastore to new weights, by the bundle's training in a separate process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device
from mp3d_label_infer import own_part

logger = logging.getLogger(__name__)

BAD_REQUEST, UNUSABLE = 400, 422
# Where the bundle's training keeps slices of patients while it runs, next to the weights.
SCRATCH = ".label_training"
# Parameters with default, type, check and description.
NUMBERS = {
    "max_epochs": (10, int, lambda value: value >= 1, "a whole number from 1"),
    "val_split": (0.2, float, lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "learning_rate": (0.002, float, lambda value: 0 < value < 1, "a number above 0 and below 1"),
    "batch_size": (2, int, lambda value: value >= 1, "a whole number from 1"),
}


class LesionTrainTask(TrainTask):
    """Train one bundle further, starting from its served weights.

    Args:
        path: Folder of the bundle.
    """

    def __init__(self, path: Path) -> None:
        metadata = json.loads((path / "configs" / "metadata.json").read_text(encoding="utf-8"))
        super().__init__(metadata.get("description", ""))
        self.path = path
        self.version = metadata.get("version")
        self._scratch_folder = own_part(str(path), "storage.output_folder", "scratch_folder")
        self.clear()

    def is_valid(self) -> bool:
        """Whether there are weights to start from."""
        return (self.path / "models" / "model.pt").is_file()

    def info(self) -> dict[str, Any]:
        """Information for clients."""
        return {**super().info(), "version": self.version}

    def config(self) -> dict[str, Any]:
        """Parameters for clients."""
        return {"device": device_list(), **{name: default for name, (default, *_) in NUMBERS.items()}}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train with all labels that were submitted (tag ``final``) and install the new weights.

        Args:
            request: Parameters.
            datastore: Images and their labels, Slicer markups with a box around each lesion.

        Returns:
            Facts of the training data and of the new weights.

        Raises:
            HTTPException: If a parameter is invalid, or the training fails, with its last line.
        """
        order = self.check(request)
        order["items"] = datastore.datalist()
        if not order["items"]:
            raise HTTPException(UNUSABLE, "Expected scans with submitted labels (tag final) to train on, got none.")
        order["weights"] = str(self.path / "models" / "model.pt")
        # Files without a name: nothing of them is left if this process is killed.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as given, tempfile.TemporaryFile("w+") as answer:
            json.dump(order, given)
            given.flush()
            self._run(given, answer)
            answer.seek(0)
            return json.load(answer)

    def check(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as the bundle's training takes them.

        Raises:
            HTTPException: Naming the first invalid one.
        """
        checked: dict[str, Any] = {name: number(params, name) for name in NUMBERS}
        device = params.get("device")
        device = device[0] if isinstance(device, list) and device else device or ""
        if not isinstance(device, str):
            raise HTTPException(BAD_REQUEST, f"Expected a device among {', '.join(device_list())}, got {device!r}.")
        return {**checked, "device": name_to_device(device)}

    def clear(self, seconds: float = 0.0) -> None:
        """Remove what a killed training has left next to the weights, unless another one is running.

        Args:
            seconds: Wait so long for the killed process to end.
        """
        models, end = self.path / "models", time.monotonic() + seconds
        while (models / SCRATCH).is_dir():
            with contextlib.suppress(BlockingIOError), self._scratch_folder(models, SCRATCH, "a clean-up"):
                pass
            if time.monotonic() >= end:
                break
            time.sleep(0.1)

    def _run(self, order: IO[str], answer: IO[str]) -> None:
        """Run the bundle's training; the files are passed on open."""
        command = [sys.executable, "-m", "scripts.workflows.label_training", "--order", "/dev/stdin"]
        command += ["--answer", f"/dev/fd/{answer.fileno()}"]
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.Popen(
            command,
            cwd=self.path,
            env=variables,
            stdin=order,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(answer.fileno(),),
            text=True,
        )
        last = ""
        for line in process.stdout or ():
            if line.strip():
                last = line.strip()
                logger.info("%s", last)
        if process.wait():
            raise HTTPException(UNUSABLE, f"The training failed: {last}")


def number(request: Mapping[str, Any], name: str) -> int | float:
    """One parameter as a number.

    Raises:
        HTTPException: If it is not a number, or out of its range.
    """
    default, kind, fits, words = NUMBERS[name]
    value = request.get(name, default)
    try:
        found = kind(value)
        exact = kind is float or found == float(value)
    except (TypeError, ValueError, ArithmeticError):
        found, exact = None, False
    if found is None or isinstance(value, bool) or not exact or not fits(found):
        raise HTTPException(BAD_REQUEST, f"Expected {name} to be {words}, got {value!r}.")
    return found
