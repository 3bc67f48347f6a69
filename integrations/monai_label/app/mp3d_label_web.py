"""MONAI Label's web application with a message in every answer to a request that fails.

Served by ``--uvicorn_app mp3d_label_web:app`` (`serve.py` does), which imports this file beside the app's others.
"""

from __future__ import annotations

import json

from fastapi import Request
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException

__all__ = ["app"]


@app.exception_handler(json.JSONDecodeError)
async def not_json(request: Request, error: json.JSONDecodeError) -> JSONResponse:
    """``params`` that are no JSON."""
    return JSONResponse({"detail": f"Expected params as a JSON object, cannot read them: {error}."}, status_code=400)


@app.exception_handler(TypeError)
async def no_object(request: Request, error: TypeError) -> JSONResponse:
    """``params`` that are JSON, but no object; whatever goes wrong later in a request has been answered already."""
    if request.url.path.startswith("/infer/"):
        return JSONResponse({"detail": f"Expected params as a JSON object: {error}."}, status_code=400)
    return await unexpected(request, error)


@app.exception_handler(MONAILabelException)
async def said(request: Request, error: MONAILabelException) -> JSONResponse:
    """What MONAI Label has a message for, but would not tell."""
    missing = isinstance(error, (ImageNotFoundException, LabelNotFoundException))
    return JSONResponse({"detail": error.msg}, status_code=404 if missing else 400)


@app.exception_handler(Exception)
async def unexpected(request: Request, error: Exception) -> JSONResponse:
    """Anything else; the log has the details."""
    return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, status_code=500)
