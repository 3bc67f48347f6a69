"""Enforces the house rules: who may import whom, how large things may be, what must be typed and documented.

Each test lists every offending place as ``file:line``, so that one run shows all there is to put right.
"""

from __future__ import annotations

import ast
import functools
import re
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = REPOSITORY / "mp3d_bundle" / "scripts"
TOOLING = [REPOSITORY / "benchmarks", REPOSITORY / "research", REPOSITORY / "tools"]
TESTS = REPOSITORY / "tests"

# Who may import whom inside `scripts`: one arrow down. The command-line modules at the top may import all.
LEAVES = {"box_frames", "boxes", "command_words", "freed_memory", "number_formats", "storage"}
CORE = {*LEAVES, "error_lines", "instances", "interrupts"}
PARTS = {"networks", "data", "metrics", "inference", "recipe", "weights"}
MAY_IMPORT = {
    **{name: set() for name in LEAVES},
    "instances": {"boxes"},
    "error_lines": {"storage"},
    "interrupts": {"error_lines", "storage"},
    "networks": {"boxes", "instances"},
    "data": {"box_frames", "boxes", "instances", "storage"},
    "metrics": {"boxes", "instances", "storage"},
    "inference": {"boxes", "instances", "storage"},
    "recipe": {*CORE, "data"},
    "weights": {*CORE, "networks", "recipe"},
    "engines": {*CORE, "weights"},
    "configuration": {*CORE, *PARTS},
    "training": {*CORE, *PARTS, "configuration"},
    "workflows": {*CORE, *PARTS, "configuration", "engines", "training"},
    "tools": {*CORE, *PARTS, "configuration", "engines", "training", "workflows"},
}
FILE_LINES, MEDIAN_LINES = 400, 150
FUNCTION_LINES, PARAMETERS = 50, 6
FOLDER_FILES = 12
LONG_FUNCTIONS = {
    "import_set.main": "a command line: its arguments are the options",
}
# Each has its arguments by name from a config, a command line or another library.
_CONFIG = "built by a config: its arguments are config ids"
_RULES = "the parts and rules of a detector's stage by name: published detectors differ in each"
MANY_PARAMETERS = {
    "align_shift.a3d": _CONFIG,
    "align_shift.align_shift": _CONFIG,
    "align_shift.temporal_shift": _CONFIG,
    "checkpoints.__init__": _CONFIG,
    "compare_results.compare": "a command line: its arguments are the options",
    "coco_instances.load_instances": _CONFIG,
    "mulan.mulan": _CONFIG,
    "mvp_net.mvp_net": _CONFIG,
    "resnet3d.__init__": _CONFIG,
    "slice_attention.slice_attention": _CONFIG,
    "roi_heads.__init__": _RULES,
    "rpn.__init__": _RULES,
    "splits.load_records": _CONFIG,
    "subvolumes.load_volumes": _CONFIG,
    "import_set.main": "a command line: its arguments are the options",
    "export_detector._roi_align_in_onnx": "the exporter calls it with the operator's own arguments",
    "score_predictions.score": "a command line: its arguments are the options",
    "mined_study.mined_study": "a command line: its arguments are the options",
    "study.study": "a command line: its arguments are the options",
}
# Files that may be tested with others, and why; every other file has a test file of its own.
TESTED_ELSEWHERE = {
    **dict.fromkeys(
        [
            *("compare_scans", "complexity", "convert_checkpoint", "demo", "doctor", "export", "import_ct"),
            *("batch", "operating_points", "prepare", "score", "synthetic"),
        ],
        "a door of three lines to a file of tools: test_cli tries them all",
    ),
    **dict.fromkeys(
        ("anatomy", "atlas", "cohort", "rendering", "writing"), "parts of the generator: test_generator, test_shapes"
    ),
    "align_shift": "test_authors_names",
    "lesions_table": "test_lesions_document, test_result_writer",
    "scan_protocol": "types alone",
}
# Import names that differ from the name of the distribution.
DISTRIBUTION = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "ignite": "pytorch-ignite",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def python_files(*folders: Path) -> list[Path]:
    """Python sources under the folders."""
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def at(path: Path, line: int, what: str) -> str:
    """One line of a failure message."""
    return f"{path.relative_to(REPOSITORY)}:{line}: {what}"


def functions_of(tree: ast.Module) -> Iterator[Function]:
    """Every function and method, nested ones as well."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def collect(files: list[Path], find: Callable[[Path, ast.Module], Iterator[str]]) -> str:
    """Findings of ``find`` in the files, one line each; "" if there are none."""
    assert files, "found no files to look at"
    return "\n".join(line for path in files for line in find(path, tree_of(path)))


def home_of(path: Path) -> str:
    """The noun a file of ``scripts`` belongs to: its folder there, or its own name."""
    return path.relative_to(SCRIPTS).with_suffix("").parts[0]


def imported_homes(path: Path, node: ast.ImportFrom) -> list[str]:
    """The nouns that a relative import reaches."""
    package = path.relative_to(SCRIPTS).parts[:-1]
    base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
    return [base[0]] if base else [alias.name for alias in node.names]


def test_imports_keep_the_directions() -> None:
    def find(path: Path, tree: ast.Module) -> Iterator[str]:
        home = home_of(path)
        allowed = MAY_IMPORT.get(home)
        for node in ast.walk(tree):
            if allowed is None or not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            for other in imported_homes(path, node):
                if other != home and other not in allowed:
                    yield at(path, node.lineno, f"{home} may not import {other}")

    assert not (found := collect(python_files(SCRIPTS), find)), found


def test_imports_stand_at_the_top_and_are_relative_among_scripts() -> None:
    def find(path: Path, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            if node not in tree.body:
                yield at(path, node.lineno, "import below the top level of the module")
            absolute = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else absolute
            if any(name.split(".")[0] == "scripts" for name in names):
                yield at(path, node.lineno, "import of scripts by its full name; relative inside scripts")

    assert not (found := collect(python_files(SCRIPTS), find)), found


def test_third_party_imports_are_declared() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in project["dependencies"]}

    def find(path: Path, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                if DISTRIBUTION.get(top, top).lower() not in declared:
                    yield at(path, node.lineno, f"{top} is not among the dependencies in pyproject.toml")

    assert not (found := collect(python_files(SCRIPTS), find)), found


def test_files_are_short() -> None:
    files = python_files(SCRIPTS, TESTS, *TOOLING)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = [at(path, length, f"{length} lines, at most {FILE_LINES}") for path, length in lengths.items()]
    assert not (found := "\n".join(line for line, n in zip(long, lengths.values(), strict=True) if n > FILE_LINES)), (
        found
    )
    assert statistics.median(lengths[path] for path in files if SCRIPTS in path.parents) <= MEDIAN_LINES


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that hold code: neither blank nor comment."""
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    with tokenize.open(path) as file:
        tokens = [token for token in tokenize.generate_tokens(file.readline) if token.type not in quiet]
    return {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}


def test_functions_are_short() -> None:
    needed: set[str] = set()

    def find(path: Path, tree: ast.Module) -> Iterator[str]:
        lines = code_lines(path)
        for function in functions_of(tree):
            held = set(range(function.lineno, (function.end_lineno or function.lineno) + 1))
            if ast.get_docstring(function) is not None:
                held -= set(range(function.body[0].lineno, (function.body[0].end_lineno or 0) + 1))
            length = len(held & lines)
            if length > FUNCTION_LINES:
                needed.add(f"{path.stem}.{function.name}")
            if length > FUNCTION_LINES and f"{path.stem}.{function.name}" not in LONG_FUNCTIONS:
                yield at(path, function.lineno, f"{function.name} has {length} lines of code, at most {FUNCTION_LINES}")

    assert not (found := collect(python_files(SCRIPTS, *TOOLING), find)), found
    assert set(LONG_FUNCTIONS) <= needed, "an exception that is no longer needed"


def parameters_of(function: Function) -> list[ast.arg]:
    """Parameters of a function without ``self`` and ``cls``."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    rest = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [argument for argument in [*named, *rest] if argument.arg not in ("self", "cls")]


def test_functions_take_few_parameters() -> None:
    needed: set[str] = set()

    def find(path: Path, tree: ast.Module) -> Iterator[str]:
        for function in functions_of(tree):
            count = len(parameters_of(function))
            if count > PARAMETERS:
                needed.add(f"{path.stem}.{function.name}")
            if count > PARAMETERS and f"{path.stem}.{function.name}" not in MANY_PARAMETERS:
                yield at(path, function.lineno, f"{function.name} takes {count} parameters, at most {PARAMETERS}")

    assert not (found := collect(python_files(SCRIPTS, *TOOLING), find)), found
    assert set(MANY_PARAMETERS) <= needed, "an exception that is no longer needed"


def test_folders_are_small_and_no_file_name_comes_twice() -> None:
    files = [path for path in python_files(SCRIPTS) if path.name != "__init__.py"]
    counts: dict[Path, int] = {}
    names: dict[str, list[str]] = {}
    for path in files:
        # The doors of three lines at the top are the list of commands.
        if not (path.parent == SCRIPTS and path.stem in TESTED_ELSEWHERE):
            counts[path.parent] = counts.get(path.parent, 0) + 1
        names.setdefault(path.name, []).append(str(path.relative_to(SCRIPTS)))
    large = {str(folder.relative_to(SCRIPTS)): count for folder, count in counts.items() if count > FOLDER_FILES}
    assert not large, large
    assert not (twice := [places for places in names.values() if len(places) > 1]), twice


def test_every_file_has_its_test_file() -> None:
    for sources, tests in ((SCRIPTS, TESTS), (REPOSITORY / "research", TESTS / "research")):
        for path in python_files(sources):
            if path.name == "__init__.py" or path.stem in TESTED_ELSEWHERE:
                continue
            wanted = tests / path.relative_to(sources).parent / f"test_{path.stem.strip('_')}.py"
            assert wanted.is_file(), f"expected {wanted.relative_to(REPOSITORY)} for {path.relative_to(REPOSITORY)}"


def test_the_bundle_does_not_need_research() -> None:
    for path in [*python_files(SCRIPTS), *sorted((SCRIPTS.parent / "configs").rglob("*.*"))]:
        assert not re.search(r"(?m)^\s*(from|import) research\b|\bresearch\.\w+\.", path.read_text(encoding="utf-8")), (
            path
        )


def test_the_stack_and_the_command_line_are_read_in_one_place() -> None:
    places = {
        r"sys\._getframe|currentframe\(": {"configuration/typed_options.py"},
        r"sys\.argv": {"command_words.py", "cli.py", "__main__.py", "configuration/typed_options.py"},
        r"sys\.excepthook": {"error_lines.py", "configuration/typed_options.py"},
    }
    for pattern, known in places.items():
        found = {path for path in python_files(SCRIPTS) if re.search(pattern, path.read_text(encoding="utf-8"))}
        names = {path.relative_to(SCRIPTS).as_posix() for path in found}
        assert names <= known, f"{pattern} in {names - known}"


def test_functions_are_typed() -> None:
    def find(path: Path, tree: ast.Module) -> Iterator[str]:
        for function in functions_of(tree):
            for argument in parameters_of(function):
                if argument.annotation is None:
                    yield at(path, argument.lineno, f"{function.name}: parameter {argument.arg} has no type")
            if function.returns is None:
                yield at(path, function.lineno, f"{function.name}: no return type")

    assert not (found := collect(python_files(SCRIPTS, *TOOLING), find)), found


def public_definitions(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Public classes, their public methods, and public functions."""
    for node in body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def test_public_names_are_documented() -> None:
    def find(path: Path, tree: ast.Module) -> Iterator[str]:
        if ast.get_docstring(tree) is None:
            yield at(path, 1, "module without a docstring")
        for node in public_definitions(tree.body):
            if ast.get_docstring(node) is None:
                yield at(path, node.lineno, f"{node.name} has no docstring")

    assert not (found := collect(python_files(SCRIPTS, *TOOLING), find)), found


def is_command(path: Path, tree: ast.Module) -> bool:
    """Whether a file is a command-line module, or the work behind one: at the top with a main part, or in `tools`."""
    top = path.parent == SCRIPTS
    return home_of(path) == "tools" or (
        top and any("__main__" in ast.unparse(node) for node in tree.body if isinstance(node, ast.If))
    )


def test_no_assert_bare_except_or_stray_print() -> None:
    def find(path: Path, tree: ast.Module) -> Iterator[str]:
        command = is_command(path, tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                yield at(path, node.lineno, "assert outside tests")
            elif isinstance(node, ast.ExceptHandler) and node.type is None:
                yield at(path, node.lineno, "bare except")
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "print"
                and not command
            ):
                yield at(path, node.lineno, "print outside a command-line module; use logging")

    assert not (found := collect(python_files(SCRIPTS), find)), found


def repository_texts() -> Iterator[tuple[Path, list[str]]]:
    """Text files that belong to the repository, with their lines."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the repository's files")
    for path in sorted(REPOSITORY / name for name in listed.stdout.split("\0") if name):
        content = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in content:
            yield path, content.decode("utf-8").splitlines()


def test_no_public_name_is_a_module_of_its_package() -> None:
    """``scripts.networks.x`` in a config must not mean the module on one Python and the function on another."""
    for package in sorted(SCRIPTS.rglob("__init__.py")):
        modules = {path.stem for path in package.parent.glob("*.py")} | {path.name for path in package.parent.iterdir()}
        both = modules & set(re.findall(r'^    "(\w+)",$', package.read_text(encoding="utf-8"), re.MULTILINE))
        assert not both, f"{package}: {', '.join(sorted(both))}"


def test_nothing_names_a_machine_or_a_registry() -> None:
    # Written in pieces, so that this file does not find itself.
    folder = r"(?<![\w.])/(?:" + "|".join(("work", "home", "root", "Users")) + ")/"
    hosts = ("pypi", "pythonhosted", "anaconda", "npmjs", "download" + r"\.pytorch")
    pattern = re.compile(rf"{folder}|\b(?:{'|'.join(hosts)})\.(?:org|com)\b")
    found = [
        at(path, number, f"names {match[0]}")
        for path, lines in repository_texts()
        for number, line in enumerate(lines, start=1)
        if (match := pattern.search(line))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["*.lock", "integrations/monai_label/requirements.lock"])
def test_lock_files_hold_versions_and_hashes_and_no_addresses(name: str) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in REPOSITORY.glob(name))
    assert not re.search("https?:", text)
    assert "://" not in text
    entries = re.split(r"(?m)^(?=\w)", text)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+ ", entry), entry.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.splitlines()[0]
