"""The folder of weights: its README names what is shipped, with the hash that the file has."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "models"


def test_the_readme_gives_the_hash_of_the_shipped_weights() -> None:
    text = (MODELS / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| `demo.pt`")]
    assert re.findall(r"[0-9a-f]{64}", row) == [hashlib.sha256((MODELS / "demo.pt").read_bytes()).hexdigest()]
    # What we do not ship, we have no hash of.
    assert len(re.findall(r"[0-9a-f]{64}", text)) == 1
