"""The lock files leave out what would have to be compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-ray.lock", "requirements-s3.lock"])
def test_no_package_is_compiled_on_python_3_14(name: str) -> None:
    # Without this condition a machine without a compiler cannot install highdicom's dependency there.
    lines = [line for line in (ROOT / name).read_text().splitlines() if line.startswith("pyjpegls==")]
    assert lines
    assert all("python_full_version < '3.14'" in line for line in lines)
