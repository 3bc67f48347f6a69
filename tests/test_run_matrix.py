"""The matrix of versions: what it names, what runs, and what is listed as not run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from support.module_files import load_module

REPOSITORY = Path(__file__).resolve().parents[1]
# Stands in for uv: there is a Python 3.11 only, and nothing can be installed with "broken".
UV = """
import os, sys
words = sys.argv[1:]
if words[:2] == ["python", "find"]:
    print(sys.executable) if words[-1] == "3.11" else sys.exit("no interpreter")
elif words[0] == "venv":
    os.makedirs(words[-1] + "/bin")
elif "broken" in words:
    sys.exit("error: no wheel of broken\\n\\nhint: look it up\\n")
else:
    path = words[words.index("--python") + 1]
    with open(path, "w") as script:
        versions = '{"python": "3.11.9", "torch": "2", "numpy": "1"}'
        script.write("#!/bin/sh\\n" + f"if [ $1 = -c ]; then echo '{versions}'; "
                     + 'else echo "$*" >> "' + os.environ["RECORD"] + '"; echo "FAILED $RESULT" | grep bad; '
                     + 'echo "3 passed in 1.23s"; [ "$RESULT" = good ]; fi\\n')
    os.chmod(path, 0o755)
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_module(REPOSITORY / "tools" / "run_matrix.py")
    (tmp_path / "uv.py").write_text(UV)
    monkeypatch.setattr(module, "UV", [sys.executable, str(tmp_path / "uv.py")])
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("RESULT", "good")
    (tmp_path / "matrix.yaml").write_text(
        "tests: [a.py, b]\ncells:\n  here: {python: '3.11', resolution: highest}\n"
        "  absent: {python: '3.13', resolution: highest}\n"
        "  broken: {python: '3.11', resolution: lowest-direct, pins: [broken]}\n"
    )
    monkeypatch.setattr(module, "MATRIX", tmp_path / "matrix.yaml")
    return module


def run(tool: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, *cells: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run_matrix.py", "--output", str(folder), *cells])
    return tool.main()


def test_cells_run_or_say_why_not(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tool, tmp_path / "out", monkeypatch) == 0
    said = capsys.readouterr().out
    assert "| here | 3.11.9 | 2 | 1 | passed: 3 passed |" in said
    assert "| absent |  |  |  | not run: no Python 3.13 on this machine |" in said
    assert "| broken |  |  |  | not run: packages: error: no wheel of broken |" in said
    cells = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    assert [one["state"] for one in cells.values()] == ["passed", "not run", "not run"]
    (words,) = (tmp_path / "record").read_text().splitlines()
    assert words.endswith("-m not slow a.py b")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]


def test_a_failed_test_fails_and_is_named(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESULT", "bad")
    assert run(tool, tmp_path / "out", monkeypatch, "here") == 1
    assert "FAILED bad" in capsys.readouterr().out


def test_nothing_that_ran_is_not_a_success(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tool, tmp_path / "out", monkeypatch, "absent", "broken") == 1
    with pytest.raises(SystemExit, match="2"):
        run(tool, tmp_path / "out", monkeypatch, "nowhere")
    assert "no cell nowhere; there are: here, absent, broken" in capsys.readouterr().err


def test_the_matrix_names_tests_that_exist_and_every_python() -> None:
    matrix = yaml.safe_load((REPOSITORY / "tools" / "version_matrix.yaml").read_text())
    assert [name for name in matrix["tests"] if not (REPOSITORY / name).exists()] == []
    cells = matrix["cells"].values()
    assert {cell["python"] for cell in cells} == {"3.10", "3.11", "3.12", "3.13", "3.14"}
    for python in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        own = [cell for cell in cells if cell["python"] == python]
        assert any(cell["resolution"] == "highest" and "pins" not in cell for cell in own)
        assert any(cell["resolution"] == "lowest-direct" or "torch==2.10.*" in cell["pins"] for cell in own)


def test_pythons_of_pyenv_are_found(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "versions" / "3.13.0" / "bin"
    place.mkdir(parents=True)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    _, path, _ = tool.told([sys.executable, "-c", "import os; print(os.environ['PATH'])"])
    assert path.split(":")[0] == str(place)
