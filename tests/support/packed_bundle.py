"""The bundle packed as a release, for tests of what users get."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import ModuleType

from support.module_files import load_module

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "mp3d_bundle" / "models" / "demo.pt"


def load_tool() -> ModuleType:
    """``tools/make_bundle.py`` as a module."""
    return load_module(REPOSITORY / "tools" / "make_bundle.py")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a bundle; returns its folder."""
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder / "mp3d_bundle"
