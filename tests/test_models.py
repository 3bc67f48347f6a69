"""The folder of weights: its README names what is shipped, with the hash that the file has."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "models"


def test_the_readme_gives_the_hash_of_every_shipped_file_and_of_no_other() -> None:
    text = (MODELS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^\| `([\w./-]+)` \|(.*)$", text))
    told = {name: re.findall(r"\b[0-9a-f]{64}\b", row) for name, row in rows.items()}
    listed = subprocess.run(["git", "ls-files", "*.pt", "*.pth"], cwd=MODELS, capture_output=True, text=True)
    # Without git every file here counts as shipped.
    shipped = listed.stdout.split() or [path.name for path in MODELS.glob("*.pt*")]
    hashes = {name: [hashlib.sha256((MODELS / name).read_bytes()).hexdigest()] for name in shipped}
    assert hashes
    assert {name: found for name, found in told.items() if found} == hashes
