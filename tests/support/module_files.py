"""Modules of folders that are not packages, such as the tools and the integrations: loaded from their files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_module(path: Path) -> ModuleType:
    """The module in a file, by its name, so that others of its folder find it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    # Data classes look their module up by its name.
    sys.modules[path.stem] = loaded
    spec.loader.exec_module(loaded)
    return loaded
