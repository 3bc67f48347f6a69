"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import Browser, chromium

REPOSITORY = Path(__file__).resolve().parents[1]

# Every other engine first converts a network, for seconds; tests/engines name the engine that they are about.
os.environ.setdefault("MP3D_ENGINE", "torch")
# Processes that share the cores (`-n`) would stop each other with more threads than cores; read when PyTorch is loaded.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    """The bundle's folder."""
    return REPOSITORY / "mp3d_bundle"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real samples and reference values next to the checkout; skips if it is missing."""
    folder = Path(os.environ.get("MP3D_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"real samples and reference values are not here: no folder {folder}")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium with a window of 1300 x 800 pixels; skips if none is installed."""
    chromium()
    browser = Browser(tmp_path_factory.mktemp("profile"), (1300, 800))
    yield browser
    browser.close()
