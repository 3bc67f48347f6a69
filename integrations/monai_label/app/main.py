"""A MONAI Label app for lesion detection with the bundle of this repository, and other bundles next to it.

MONAI Label's own ``monaibundle`` app guesses a bundle's kind from the name of its folder, queries the model zoo,
leaves scores out of its responses, and answers bad requests without a message. This app avoids all of that.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import monailabel
import torch
from fastapi import HTTPException
from monailabel.datastore import local
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from mp3d_label_checks import without_folders
from mp3d_label_files import write_whole
from mp3d_label_infer import LesionInferTask
from mp3d_label_train import LesionTrainTask

logger = logging.getLogger(__name__)

BUNDLE = "mp3d_bundle"
UNKNOWN, UNUSABLE, BROKEN = 404, 422, 500
# Failed scans of a batch that its answer names.
LISTED = 10
# Errors about what came in.
INPUT = (ValueError, OSError, ArithmeticError)
# Here too: a batch in the background is a process without the web application.
write_whole(local)


class LesionApp(MONAILabelApp):
    """Serves the bundles in its ``model`` folder.

    Args:
        app_dir: Folder of this file.
        studies: Folder of scans (NIfTI, NRRD) or address of a DICOMweb server.
        conf: ``models``, names of folders in ``model``, separated by commas; all of them by default.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.bundles = find_bundles(Path(app_dir) / "model", conf.get("models", ""))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name=f"Lesion detection in CT (MONAI Label {monailabel.__version__})",
            description="Boxes around lesions of any kind. For research only, not a medical device.",
            version=monailabel.__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """One task for each bundle; only bundles of this repository are assumed to be detectors."""
        return {
            name: LesionInferTask(str(path), self.conf) if is_ours(path) else BundleInferTask(str(path), self.conf)
            for name, path in self.bundles.items()
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        """One task for each bundle that can be trained."""
        tasks = {
            name: LesionTrainTask(path) if is_ours(path) else BundleTrainTask(str(path), self.conf)
            for name, path in self.bundles.items()
        }
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_strategies(self) -> dict[str, Strategy]:
        """Which scan to label next."""
        return {"first": First(), "random": Random()}

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Find lesions in one image.

        Args:
            request: ``model``, ``image`` (an id of the datastore) and the model's parameters.
            datastore: The datastore of images; the app's own by default.

        Raises:
            HTTPException: If the request is invalid, with a message for the client.
        """
        with answers(self.studies):
            self._check(request, datastore or self.datastore())
            return super().infer(request, datastore)

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Find lesions in many images and keep the markups as their labels (tag ``original``).

        Args:
            request: ``model``, ``images`` and the model's parameters.
            datastore: The datastore of images; the app's own by default.

        Raises:
            HTTPException: If it is invalid, or scans could not be used, with a message for the client. What was found
                in all others is stored.
        """
        failed: dict[str, str] = {}

        def one(request: dict[str, Any], datastore: Any) -> dict[str, Any]:
            try:
                return self.infer(request, datastore)
            except HTTPException as error:
                if error.status_code != UNUSABLE:
                    raise
                failed[request["image"]] = error.detail
                return {}

        with answers(self.studies):
            known(request.get("model"), self._infers, "model")
            # MONAI Label assumes a GPU by default.
            several = torch.cuda.device_count() > 1 and bool(request.get("multi_gpu", True))
            # Inferences run one after the other; with several workers MONAI Label would skip files that fail.
            checked = {**request, "multi_gpu": several, "max_workers": 1}
            found = self._batch_infer(checked, datastore or self.datastore(), one)
        if failed:
            reasons = "; ".join(f"{image}: {reason}" for image, reason in [*failed.items()][:LISTED])
            raise HTTPException(
                UNUSABLE,
                f"{len(failed)} of {len(found)} scans could not be used; the boxes of the others are stored. {reasons}"
                + (f"; and {len(failed) - LISTED} more, see the server's log." if len(failed) > LISTED else ""),
            )
        return found

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train a model with the labels of the datastore.

        Args:
            request: ``model`` and the trainer's parameters.

        Raises:
            HTTPException: If it is invalid, with a message for the client.
        """
        with answers(self.studies):
            known(request.get("model"), self._trainers, "model to train")
            return super().train(request)

    def check_label(self, suffix: str, content: IO[bytes], where: str) -> None:
        """Check a label before it is stored: a training would find out much later.

        Args:
            suffix: Extension of its file.
            content: The open file; read from its start, and left there.
            where: What it is, for messages.

        Raises:
            HTTPException: If it is not what a bundle of this app can be trained with.
        """
        ours = self._detectors()
        try:
            if ours and suffix.endswith(".json"):
                ours[0].parse_markups(content.read(), where)
            elif ours and len(ours) == len(self._infers):
                raise ValueError(f"Expected boxes as Slicer markups (.json), got a {suffix} file as {where}.")
        except ValueError as error:
            raise HTTPException(UNUSABLE, str(error)) from error
        finally:
            content.seek(0)

    def check_scan(self, path: str) -> None:
        """Check a scan before it is added: a damaged one would end each training and fail in each batch.

        Args:
            path: Its file, with the extension that it is kept under.

        Raises:
            HTTPException: If a bundle of this repository, and no other is served, cannot use it.
        """
        ours = self._detectors()
        if ours and len(ours) == len(self._infers):
            with answers(self.studies):
                ours[0].read_scan({"image": path})

    def _detectors(self) -> list[LesionInferTask]:
        """The tasks of bundles of this repository."""
        return [task for task in self._infers.values() if isinstance(task, LesionInferTask)]

    def _check(self, request: Mapping[str, Any], datastore: Any) -> None:
        known(request.get("model"), self._infers, "model")
        image = request.get("image")
        if not isinstance(image, str) or datastore.get_image_uri(image):
            return
        # MONAI Label would open any file of the server by its path; only a file just sent by the client is allowed.
        folders = [Path(tempfile.gettempdir()).resolve()]
        if request.get("session"):
            folders.append(Path(self.sessions().store_path).resolve())
        if not os.path.exists(image) or not any(folder in Path(image).resolve().parents for folder in folders):
            raise HTTPException(UNKNOWN, f"Expected the id of an image in the datastore, got {image!r}.")

    def _download_dcmqi_tools(self) -> None:
        """Do nothing: MONAI Label would fetch tools for DICOM segmentations, which a detector does not need."""


def find_bundles(folder: Path, names: str) -> dict[str, Path]:
    """The bundles to serve, by name.

    Raises:
        FileNotFoundError: If a named bundle is missing, or there are no bundles. Nothing is ever downloaded.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    found = sorted(path for path in folder.glob("*") if any((path / "configs").glob("inference.*")))
    bundles = {path.name: path for path in found if not chosen or path.name in chosen}
    missing = [name for name in chosen if name not in bundles]
    if missing or not bundles:
        raise FileNotFoundError(
            f"Expected the bundle {missing[0] if missing else 'to serve'} in {folder}, found there: "
            f"{', '.join(path.name for path in found) or 'none'}."
        )
    return bundles


def is_ours(bundle: Path) -> bool:
    """Whether a folder has the bundle of this repository, under any folder name."""
    metadata = bundle / "configs" / "metadata.json"
    return metadata.is_file() and json.loads(metadata.read_text(encoding="utf-8")).get("name") == BUNDLE


def known(name: Any, tasks: Mapping[str, Any], what: str) -> None:
    """Check that a task of this name exists.

    Raises:
        HTTPException: If not, with the available names.
    """
    if name not in tasks:
        raise HTTPException(UNKNOWN, f"Expected a {what} among {', '.join(tasks) or 'none'}, got {name!r}.")


@contextmanager
def answers(studies: str) -> Iterator[None]:
    """Turn errors into answers with a message; MONAI Label itself answers them all with "Internal Server Error".

    Args:
        studies: Folder that is left out of messages, as that of temporary files is: paths must not be disclosed.

    Raises:
        HTTPException: Instead of any other error.
    """
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:
        logger.exception("Request failed.")
        cause: BaseException = error
        # MONAI's wrappers around whatever the bundle raised; what that was raised from says less.
        while cause.__cause__ is not None and not isinstance(cause, INPUT):
            cause = cause.__cause__
        message = cause.msg if isinstance(cause, MONAILabelException) else str(cause)
        for folder in (studies, tempfile.gettempdir()):
            message = message.replace(os.path.join(folder, ""), "")
        # What a link in the folder leads to, or a file of the bundle.
        message = " ".join(without_folders(message).split()) or type(cause).__name__
        usable = isinstance(cause, INPUT)
        raise HTTPException(UNUSABLE if usable else BROKEN, message) from error
