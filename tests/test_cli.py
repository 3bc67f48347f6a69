"""Command lines: help without the heavy libraries, texts as typed, errors in one line."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from fire import docstrings

from research import natural_images
from research.compare import compare
from research.mined_study import mined_study
from research.study import study
from scripts import cli
from scripts.__main__ import TOOLS
from scripts.cli import command_line, deferred, described, run_typed
from scripts.tools import count_operations, make_synthetic, run_demo

# Says at its end whether one of the libraries that take seconds was imported.
PROBE = """
import runpy, sys
try:
    sys.argv = {words!r}
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
finally:
    print("HEAVY", sorted({{"torch", "monai", "numpy"}} & set(sys.modules)))
"""


def probe(bundle_root: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    code = PROBE.format(module=module, words=[module, *words])
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=bundle_root, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("complexity", ["--num_slice", "5"]),
        ("convert_checkpoint", ["a", "b", "--form", "mmdet"]),
        ("demo", ["a", "b"]),
        ("export", ["a", "b", "onnx", "c"]),
        ("operating_points", ["a", "b", "--default"]),
        ("synthetic", ["--output"]),
    ],
)
def test_help_and_wrong_options_import_nothing_heavy(bundle_root: Path, module: str, words: list[str]) -> None:
    helped = probe(bundle_root, f"scripts.{module}", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "FLAGS" in helped.stdout + helped.stderr
    assert "GROUP" not in helped.stdout + helped.stderr
    assert "HEAVY []" in helped.stdout
    wrong = probe(bundle_root, f"scripts.{module}", *words)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Error: Expected ")
    assert "HEAVY []" in wrong.stdout


def test_the_doors_lead_to_the_functions_behind_them() -> None:
    for module, function in {
        ("tools.run_demo", "main"): run_demo.main,
        ("tools.make_synthetic", "main"): make_synthetic.main,
        ("tools.count_operations", "main"): count_operations.main,
    }.items():
        signature, text = described(*module)
        real = inspect.signature(function)
        assert list(signature.parameters) == list(real.parameters)
        for name, parameter in real.parameters.items():
            assert (parameter.kind, parameter.default) == (
                signature.parameters[name].kind,
                signature.parameters[name].default,
            )
        assert text == inspect.getdoc(function)


@pytest.mark.parametrize("door", TOOLS.values())
def test_every_command_says_what_it_does(door: tuple[str, str]) -> None:
    text = described(*door)[1].splitlines()[0]
    assert text.endswith(".")
    assert len(text) <= 100


@pytest.mark.parametrize(
    "text",
    [
        *(described(*door)[1] for door in TOOLS.values()),
        *(inspect.getdoc(function) for function in (compare, mined_study, natural_images.main, study)),
    ],
)
def test_the_help_has_every_word_of_the_options(text: str) -> None:
    # Of a further line of an option Fire shows nothing after a colon, nor an option whose name begins with a star.
    options = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    shown = [f"{option.name}: {option.description}" for option in docstrings.parse(text).args or ()]
    assert " ".join(shown).split() == options.split()


def test_an_unknown_function_is_named() -> None:
    with pytest.raises(ValueError, match=r"function nothing in .*run_demo\.py"):
        described("tools.run_demo", "nothing")


SEEN: list[object] = []


def see(
    path: str, other: str | None = None, *more: str, files: str | Sequence[str] = "", count: int = 1, **rest: object
) -> None:
    """Keep what arrives."""
    SEEN[:] = [path, other, more, files, count, rest]


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["2024_01_05"], ["2024_01_05", None, (), "", 1, {}]),
        (["--path", "CT#2", "Doe,John"], ["CT#2", "Doe,John", (), "", 1, {}]),
        (["--path=1e5", "--other=None"], ["1e5", None, (), "", 1, {}]),
        (["-p", "0x10"], ["0x10", None, (), "", 1, {}]),
        (["a", "None", "1_0", "b#c"], ["a", None, ("1_0", "b#c"), "", 1, {}]),
        (["[a]", "--files", "[a#1,b]"], ["[a]", None, (), ["a#1", "b"], 1, {}]),
        (["a", "--files", "x,y", "--count", "3", "--further", "4"], ["a", None, (), "x,y", 3, {"further": 4}]),
        (['it\'s "so"', "--count=-2"], ['it\'s "so"', None, (), "", -2, {}]),
        (["'a b'"], ["a b", None, (), "", 1, {}]),
    ],
)
def test_texts_arrive_as_typed(words: list[str], seen: list[object]) -> None:
    run_typed(see, words)
    assert seen == SEEN


def test_an_option_without_its_value_is_named() -> None:
    for words in (["--path"], ["a", "--files", "--count", "3"]):
        with pytest.raises(SystemExit, match=r"^Error: Expected a value for --\w+, got none\.$"):
            run_typed(see, words)


def test_an_empty_text_is_rejected_unless_it_is_the_default() -> None:
    run_typed(see, ["a", "--files", ""])
    assert SEEN == ["a", None, (), "", 1, {}]
    for words in ([""], ["--path="], ["--path", " "]):
        with pytest.raises(SystemExit, match=r"^Error: Expected a value for (--path|PATH), got an empty text\.$"):
            run_typed(see, words)


def measure(path: str, target: str, size: int | None = None, *, fast: bool = False, **further: float) -> None:
    """Keep what arrives."""
    SEEN[:] = [path, target, size, fast, further]


def test_numbers_and_truth_values_are_checked_before_the_function_runs() -> None:
    run_typed(measure, ["a", "b", "None", "--fast", "--rate", "2"])
    assert SEEN == ["a", "b", None, True, {"rate": 2}]
    for words, message in (
        (["a", "b", "big"], "a whole number for SIZE, got 'big'"),
        (["a", "b", "--size=2.5"], "a whole number for --size, got '2.5'"),
        (["a", "b", "--fast", "maybe"], "True or False for --fast, got 'maybe'"),
        (["a", "b", "--rate", "fast"], "a number for --rate, got 'fast'"),
    ):
        with pytest.raises(SystemExit, match=f"^Error: Expected {message}\\.$"):
            run_typed(measure, words)


def test_what_is_missing_is_named_in_one_line() -> None:
    for words, message in (([], "PATH and TARGET"), (["a"], "TARGET"), (["--target", "b"], "PATH")):
        with pytest.raises(SystemExit, match=f"^Error: Expected {message}, got none"):
            run_typed(measure, words)


def fail(what: str) -> None:
    """Fail in the way that is asked for."""
    raise {"value": ValueError, "key": KeyError, "stop": KeyboardInterrupt}[what]("Expected better.")


def test_errors_about_the_input_end_in_one_line_and_mistakes_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^Error: Expected better\.$"):
        run_typed(fail, ["value"])
    with pytest.raises(KeyError):
        run_typed(fail, ["key"])
    with pytest.raises(SystemExit) as stopped:
        run_typed(fail, ["stop"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"
    monkeypatch.setenv("MP3D_TRACEBACK", "1")
    with pytest.raises(ValueError, match="Expected better"):
        run_typed(fail, ["value"])


def test_a_command_runs_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []
    monkeypatch.setattr(make_synthetic, "main", lambda *args, **kwargs: found.append((args, kwargs)))
    command_line("tools.make_synthetic", "main", ["2024_01", "--seed", "3"])
    deferred("tools.make_synthetic", "main")("x")
    assert found[0] == (("2024_01", "small"), {"seed": 3})
    assert found[1] == (("x",), {})
    assert cli.SCRIPTS.name == "scripts"
