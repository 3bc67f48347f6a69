"""Which results to write, by name.

========== =====================================================
name       files
========== =====================================================
json       ``lesions.json``, ``detections.json``
csv        ``lesions.csv``
slicer     ``lesions.mrk.json``
report     ``report.html``
overlays   ``overlays/*.png``
dicom      ``lesions_sr.dcm``, ``lesions_seg.dcm`` (DICOM input only)
labelmap   ``lesion_boxes.nii.gz``
prompts    ``prompts.json``
========== =====================================================
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .detections import Lesion, SliceBoxes
from .scan import ScanLike

logger = logging.getLogger(__name__)

OUTPUTS = ("json", "csv", "slicer", "report", "overlays", "dicom", "labelmap", "prompts")
# Every file by which results are known, overlays apart: one of an earlier run must not stay beside new ones.
FILES = (
    "lesions.json",
    "detections.json",
    "lesions.csv",
    "lesions.mrk.json",
    "report.html",
    "lesions_sr.dcm",
    "lesions_seg.dcm",
    "lesion_boxes.nii.gz",
    "prompts.json",
)
_NUMBERS = re.compile(r"\[\s+((?:-?[0-9][0-9.eE+-]*,?\s+)+)\]")
_METADATA = Path(__file__).resolve().parents[2] / "configs" / "metadata.json"


class Output(Protocol):
    """Makes result files of a scan."""

    def __call__(
        self, scan: ScanLike, found: SliceBoxes, lesions: Sequence[Lesion], document: Mapping[str, Any], /
    ) -> dict[str, bytes]:
        """The content of each file by its name; ``document`` is the content of ``lesions.json``."""
        ...


def choose_outputs(names: str | Sequence[str]) -> tuple[str, ...]:
    """Check the names of results.

    Args:
        names: Names of `OUTPUTS`, as a list or as one text with commas.

    Returns:
        The names without ``dicom`` where highdicom is not installed, which is said in the log.

    Raises:
        ValueError: If a name is unknown, or there is none.
    """
    chosen = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    for name in chosen or [""]:
        if name not in OUTPUTS:
            raise ValueError(f"Expected outputs among {', '.join(OUTPUTS)}, got {name or 'none'!r}.")
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
