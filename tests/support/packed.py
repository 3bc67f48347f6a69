"""The bundle packed as a release, for tests of what users get."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "mp3d_bundle" / "models" / "demo.pt"


def load_tool() -> ModuleType:
    """``tools/make_bundle.py`` as a module."""
    spec = importlib.util.spec_from_file_location("make_bundle", REPOSITORY / "tools" / "make_bundle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a bundle; returns its folder."""
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder / "mp3d_bundle"
