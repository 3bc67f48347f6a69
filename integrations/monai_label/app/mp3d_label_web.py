"""MONAI Label's web application behind a guard, with a message in every answer to a request that fails.

Served by ``--uvicorn_app mp3d_label_web:app`` (`serve.py` does, for this app and for MONAI Label's own). Requests with
content are answered by `checked`, which checks the content and passes it on to MONAI Label's own functions.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app as upstream
from monailabel.config import settings
from monailabel.datastore import local
from monailabel.datastore.local import LocalDatastore
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, session, train
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance
from mp3d_label_checks import (
    FINAL,
    check_params,
    check_spelling,
    check_target,
    plain_file_name,
    read_info,
    read_params,
    upload_suffix,
    without_folders,
)
from mp3d_label_files import write_whole
from mp3d_label_guard import IMAGE_MEBIBYTES, LOCAL_HOSTS, MEBIBYTE, Guard, Receive, Refusal, Scope, Send
from starlette.routing import Match

__all__ = ["app"]

BAD_REQUEST, UNKNOWN, BROKEN = 400, 404, 500
# Voxels in the file itself: headers alone (nhdr, mhd) name other files.
IMAGES = (".nii.gz", ".nii", ".nrrd", ".mha")
LABELS = (*IMAGES, ".mrk.json", ".json", ".bin")
DEFAULT = ".nii.gz"
# How long a killed training may take to end.
CLEARING_S = 5.0
# A viewer that sends one of these gets no markups where nothing was found.
OF_A_VIEWER = ("client_id", "result_extension")
# A bundle's config belongs to one inference at a time; the server answers other requests meanwhile.
INFERRING, TRAINING = asyncio.Lock(), asyncio.Lock()

USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
ADMIN = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

checked = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
# The guard handles other origins; MONAI Label would allow all of them.
upstream.user_middleware = [layer for layer in upstream.user_middleware if layer.cls is not CORSMiddleware]
write_whole(local)


@checked.post("/infer/{model}")
async def run_inference(  # the names are those of MONAI Label's own route
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: infer.ResultType | None = None,
    user: User = USER,
) -> Any:
    """Find lesions in one image: an id, a session, or an uploaded file."""
    _known(app_instance()._infers, model, "model")
    if not file and not image and not session_id:
        raise Refusal(BAD_REQUEST, "Expected an image (its id in /datastore), a file or a session, got none.")
    if session_id and not app_instance().sessions().get_session(session_id):
        raise Refusal(UNKNOWN, f"Expected the id of a session, got {session_id!r}.")
    if image and not file and not session_id:
        _known_image(image)
    for part in (file, label):
        if part:
            part.filename = f"upload{upload_suffix(part.filename, IMAGES, DEFAULT)}"
    plain = read_params(params)
    check_spelling(plain, app_instance()._infers[model].config())
    if output == infer.ResultType.image:  # nothing but markups can be the answer
        plain = {name: value for name, value in plain.items() if name not in OF_A_VIEWER}
    arguments = (background_tasks, model, image, session_id, json.dumps(plain), file, label, output)
    async with INFERRING:
        return await _cleaned(background_tasks, lambda: infer.run_inference(*arguments))


@checked.post("/batch/infer/{model}")
async def run_batch(
    model: str,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
    user: User = ADMIN,
) -> Any:
    """Find lesions in many images."""
    _known(app_instance()._infers, model, "model")
    plain = check_params(params)
    _check(app_instance()._infers[model], plain)
    if not run_sync:
        return batch_infer.run(model, images, plain)
    async with INFERRING:
        return await run_in_threadpool(batch_infer.run, model, images, plain, True)


@checked.post("/train/")
async def train_all(params: dict[str, Any] | None = None, run_sync: bool = False, user: User = ADMIN) -> Any:
    """Train every model; parameters by its name."""
    plain = {}
    for model, chosen in (params or {}).items():
        if isinstance(chosen, Mapping):
            _known(app_instance()._trainers, model, "model to train")
            plain[model] = check_params(chosen)
            _check(app_instance()._trainers[model], plain[model])
        else:
            plain |= check_params({model: chosen})
    if not run_sync:
        return train.run(plain)
    async with TRAINING:
        return await run_in_threadpool(train.run, plain, True)


@checked.post("/train/{model}")
async def train_one(
    model: str,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
    enqueue: bool = False,
    user: User = ADMIN,
) -> Any:
    """Train one model."""
    _known(app_instance()._trainers, model, "model to train")
    plain = check_params(params)
    _check(app_instance()._trainers[model], plain)
    if not run_sync:
        return train.run_model(model, plain, enqueue=enqueue)
    async with TRAINING:
        return await run_in_threadpool(train.run_model, model, plain, True, enqueue)


@checked.delete("/train/")
async def stop_training(user: User = ADMIN) -> Any:
    """Stop a training in the background. MONAI Label kills it; what it has written is removed."""
    stopped = await run_in_threadpool(train.stop)
    for task in app_instance()._trainers.values():
        if clear := getattr(task, "clear", None):
            await run_in_threadpool(clear, CLEARING_S)
    return stopped and _told(stopped)  # None if there was none


@checked.get("/train/")
async def training_status(all: bool = False, check_if_running: bool = False, user: User = USER) -> Any:
    """The last training in the background, or all of them."""
    return _told(train.status(all, check_if_running))


@checked.get("/batch/infer")
async def batch_status(all: bool = False, check_if_running: bool = False, user: User = USER) -> Any:
    """The last batch in the background, or all of them."""
    return _told(batch_infer.status(all, check_if_running))


@checked.post("/activelearning/{strategy}")
async def next_sample(strategy: str, params: dict[str, Any] | None = None, user: User = USER) -> Any:
    """Which scan to label next."""
    _known(app_instance()._strategies, strategy, "strategy")
    return activelearning.sample(strategy, check_params(params), user.username)


@checked.put("/datastore/")
@checked.put("/datastore/image")
async def add_image(
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
    user: User = ANNOTATOR,
) -> Any:
    """Add a scan that the app can use; an existing one is not replaced."""
    suffix = upload_suffix(file.filename, IMAGES, DEFAULT)
    name = image or plain_file_name(file.filename)[: -len(suffix)] or "scan"
    info = {**read_info(params), "user": user.username}
    _check_new(name)
    with tempfile.TemporaryDirectory() as folder:
        sent = Path(folder) / f"{name}{suffix}"
        with sent.open("wb") as copy:
            await run_in_threadpool(shutil.copyfileobj, file.file, copy)
        if check := getattr(app_instance(), "check_scan", None):
            await run_in_threadpool(check, str(sent))
        _check_new(name)  # others were answered meanwhile
        return {"image": app_instance().datastore().add_image(name, str(sent), info)}


@checked.put("/datastore/label")
async def save_label(
    background_tasks: BackgroundTasks,
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = "",
    user: User = ANNOTATOR,
) -> Any:
    """Submit the label of a scan."""
    _known_image(image)
    suffix = upload_suffix(label.filename, LABELS, DEFAULT)
    label.filename = f"upload{suffix}"
    tag = tag or FINAL
    _check_label(image, tag, suffix)
    check = getattr(app_instance(), "check_label", None)
    if check and (tag == FINAL or suffix.endswith(".json")):
        await run_in_threadpool(check, suffix, label.file, f"the label of {image}")
    info = json.dumps(read_info(params))
    return await _cleaned(
        background_tasks,
        lambda: datastore.save_label(background_tasks, image, info, tag, label, user.username),
        here=True,
    )


@checked.delete("/datastore/label")
async def remove_label(id: str, tag: str, user: User = ADMIN) -> Any:
    """Remove a label."""
    store = app_instance().datastore()
    if isinstance(store, LocalDatastore):
        held = store._datastore.label(id, tag)
        if held is None:
            raise Refusal(UNKNOWN, f"Expected a label with the tag {tag!r}, got none of {id!r}.")
        _check_label(id, tag, held.ext)
    return datastore.remove_label(id, tag, user.username)


@checked.put("/session/")
async def create_session(
    background_tasks: BackgroundTasks,
    files: Annotated[list[UploadFile], File()],
    expiry: int = 0,
    user: User = USER,
) -> Any:
    """Keep a scan for a while; archives are not unpacked, because their members may name any path."""
    for file in files:
        file.filename = plain_file_name(file.filename)
    return session.create_session(background_tasks, False, expiry, files)


async def _cleaned(background_tasks: BackgroundTasks, answer: Callable[[], Any], *, here: bool = False) -> Any:
    """Answer in another thread, or here; what a client sent is removed if it fails, as it is after an answer."""
    try:
        return answer() if here else await run_in_threadpool(answer)
    except Exception:
        await background_tasks()
        raise


def _check(task: Any, params: Mapping[str, Any]) -> None:
    """Check parameters before the work starts, which may be in the background."""
    check_spelling(params, task.config())
    if check := getattr(task, "check", None):
        check(params)


def _told(found: Any) -> Any:
    """What MONAI Label reports of tasks, without tracebacks and folders in the last lines of their logs."""
    if isinstance(found, list):
        return [_told(task) for task in found]
    lines = [without_folders(line) for line in found.get("details") or () if not line.startswith((" ", "Traceback"))]
    return {**found, "details": lines}


def _known(tasks: Mapping[str, Any], name: str, what: str) -> None:
    if name not in tasks:
        raise Refusal(UNKNOWN, f"Expected a {what} among {', '.join(tasks) or 'none'}, got {name!r}.")


def _known_image(image: str) -> None:
    store = app_instance().datastore()
    if isinstance(store, LocalDatastore) and not store.get_image_uri(image):
        raise Refusal(UNKNOWN, f"Expected the id of an image in the datastore, got {image!r}.")


def _check_new(image: str) -> None:
    store = app_instance().datastore()
    if isinstance(store, LocalDatastore):
        for taken in IMAGES:  # an id has one file
            target = os.path.join(store._datastore.image_path(), f"{image}{taken}")
            check_target(target, settings.MONAI_LABEL_STUDIES, new=True)


def _check_label(image: str, tag: str, suffix: str) -> None:
    store = app_instance().datastore()
    if isinstance(store, LocalDatastore):
        target = Path(store._datastore.label_path(tag)) / f"{image}{suffix}"
        check_target(target, settings.MONAI_LABEL_STUDIES, new=False)


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    """Requests with content go to `checked`, all others to MONAI Label."""
    ours = scope["type"] == "http" and any(route.matches(scope)[0] is Match.FULL for route in checked.routes)
    await (checked if ours else upstream)(scope, receive, send)


async def refused(request: Request, error: Exception) -> JSONResponse:
    """Requests that `checked` rejects."""
    detail, status = (error.detail, error.status) if isinstance(error, Refusal) else (str(error), BROKEN)
    return JSONResponse({"detail": detail}, status_code=status)


async def said(request: Request, error: Exception) -> JSONResponse:
    """Errors whose message MONAI Label would not send."""
    missing = isinstance(error, (ImageNotFoundException, LabelNotFoundException))
    return JSONResponse({"detail": getattr(error, "msg", "")}, status_code=UNKNOWN if missing else BAD_REQUEST)


async def unexpected(request: Request, error: Exception) -> JSONResponse:
    """All other errors; the log has the details, as the paths of files are not disclosed."""
    detail = error.strerror if isinstance(error, OSError) else error
    return JSONResponse({"detail": f"{type(error).__name__}: {detail}"}, status_code=BROKEN)


for application in (checked, upstream):
    application.add_exception_handler(Refusal, refused)
    application.add_exception_handler(MONAILabelException, said)
    application.add_exception_handler(Exception, unexpected)

chosen: Mapping[str, Any] = json.loads(os.environ.get("MP3D_LABEL_GUARD", "{}"))
app = Guard(
    served,
    hosts=(*LOCAL_HOSTS, *chosen.get("hosts", ())),
    origins=tuple(chosen.get("origins", ())),
    image_bytes=int(chosen.get("upload_mb", IMAGE_MEBIBYTES)) * MEBIBYTE,
    studies=str(chosen.get("studies", "")),
)
