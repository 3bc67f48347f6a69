"""Which results to write, and what makes them; `scripts.storage.result_files` holds the table."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...storage.result_files import OUTPUTS
from ..detections import ScanResult

logger = logging.getLogger(__name__)

_NUMBERS = re.compile(r"\[\s+((?:-?[0-9][0-9.eE+-]*,?\s+)+)\]")
_METADATA = Path(__file__).resolve().parents[3] / "configs" / "metadata.json"


class Maker(Protocol):
    """Makes result files of a scan."""

    def __call__(self, result: ScanResult, /) -> dict[str, bytes]:
        """The content of each file by its name."""
        ...


def maker_of(name: str) -> Maker:
    """What makes the files of an output, as the table has it.

    To be called while a config is being built, as targets are: a later import may find the modules of another bundle.

    Raises:
        ValueError: If the name is unknown.
    """
    module, attribute = OUTPUTS[_known(name)].maker.rsplit(".", 1)
    made = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return made() if isinstance(made, type) else made


def _known(name: str) -> str:
    if name not in OUTPUTS:
        raise ValueError(f"Expected outputs among {', '.join(OUTPUTS)}, got {name or 'none'!r}.")
    return name


def choose_outputs(names: str | Sequence[str]) -> tuple[str, ...]:
    """Check the names of results.

    Args:
        names: Names of `OUTPUTS`, as a list or as one text with commas.

    Returns:
        The names without ``dicom`` where highdicom is not installed, which is logged.

    Raises:
        ValueError: If a name is unknown, or none was given.
    """
    chosen = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    for name in chosen or [""]:
        _known(name)
    if "dicom" in chosen and importlib.util.find_spec("highdicom") is None:
        logger.warning("No DICOM results are written: they need the package highdicom, which is not installed.")
        chosen.remove("dicom")
    return tuple(chosen)


def bundle_version() -> str:
    """The version of this bundle, as its metadata has it."""
    return json.loads(_METADATA.read_text(encoding="utf-8"))["version"]


def strict_json(content: Mapping[str, Any]) -> bytes:
    """JSON without NaN, a list of numbers to a line."""
    text = json.dumps(content, indent=1, allow_nan=False)
    return (_NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text) + "\n").encode()
