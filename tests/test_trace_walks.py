"""docs/architecture.md: the walks through the code are at most as long as on the page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "mp3d_bundle" / "docs" / "architecture.md"


@pytest.mark.slow
def test_walks_are_as_short_as_the_page_says() -> None:
    stated = re.findall(r"At most (\d+) files and (\d+) steps", PAGE.read_text(encoding="utf-8"))
    command = [sys.executable, str(REPOSITORY / "tools" / "trace_walks.py")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    counted = re.findall(r"(?m)^[\w .]+: (\d+) files, (\d+) steps$", done.stdout)
    assert len(counted) == len(stated) == 2
    for one, limit in zip(counted, stated, strict=True):
        assert 0 < int(one[0]) <= int(limit[0])
        assert 0 < int(one[1]) <= int(limit[1])
    assert "  networks/two_stage.py" in done.stdout
