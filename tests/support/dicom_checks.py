"""Checks of DICOM files: read in full without a warning, and judged by an independent validator."""

from __future__ import annotations

import io
import shutil
import subprocess
import warnings
from pathlib import Path

import pydicom
import pytest


def read_in_full(content: bytes) -> pydicom.Dataset:
    """Read every element of a file, a warning being an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = pydicom.dcmread(io.BytesIO(content))
        for _ in dataset.iterall():
            pass
        return dataset


def validator_lines(path: Path, *options: str) -> list[str]:
    """What dciodvfy says of a file, line by line; the test is skipped where it is not installed."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (package dicom3tools) is not installed: its opinion was not asked")
    done = subprocess.run([program, *options, str(path)], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()
