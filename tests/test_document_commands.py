"""The documents' commands: configs and options that exist, with values that the options take."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from scripts.__main__ import CONFIGS, TOOLS, config_command
from scripts.cli import described
from scripts.configuration.running_config import check_config

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLE = REPOSITORY / "mp3d_bundle"
PAGES = [REPOSITORY / "README.md", *sorted((BUNDLE / "docs").rglob("*.md"))]
# Options of `monai.bundle run` itself.
OWN = {"config_file", "meta_file", "logging_file", "args_file", "tracking", "tracking_uri"}
START = re.compile(r"(?:python|torchrun [^`\n]*?) -m (?P<module>monai\.bundle run|scripts(?:\.\w+)?)\b(?P<rest>.*)")


def commands(page: Path) -> Iterator[str]:
    """Commands of a page, in blocks and in backticks, each on one line; those that a shell variable begins are not."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^ *```\w*\n(.*?)^ *```", text)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^ *```.*?^ *```", "", text))
    for line in dict.fromkeys([*lines, *inline]):
        if (match := START.search(line)) and "..." not in line and not line.startswith("$"):
            yield f"{match['module']}{match['rest']}".rstrip(")").split(" && ")[0]


ALL = [(page, command) for page in PAGES for command in commands(page)]


def value_of(text: str) -> Any:
    """A word of the command line as MONAI takes it."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def options_of(words: list[str]) -> dict[str, Any]:
    """Options by name; a brace or bracket in a placeholder's place stays a text."""
    found: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        assert word.startswith("--"), f"expected an option, got {word}"
        name, equals, value = word[2:].partition("=")
        found[name] = value_of(value if equals else next(rest))
    return found


def check_run(words: list[str]) -> None:
    """A workflow of the config files that are named, with options that its check lets pass."""
    workflow, options = words[0], options_of(words[1:])
    files = options["config_file"] if isinstance(options["config_file"], list) else [options["config_file"]]
    paths = [str(BUNDLE / file[file.index("configs/") :]) for file in files]
    parser = ConfigParser(ConfigParser.load_config_files(paths))
    assert workflow in parser
    for name, value in options.items():
        if name not in OWN:
            parser[name] = value
    check_config(parser)


def test_there_are_commands_to_check() -> None:
    assert len(ALL) > 100
    assert {"detect", "train"} <= {shlex.split(command)[1] for _, command in ALL if command.startswith("scripts ")}


# The study's page lists each command for several folders: those with the same options are checked once.
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_commands_are_right(page: Path) -> None:
    seen = set()
    for _, command in ((found, text) for found, text in ALL if found == page):
        shape = re.sub(r"--(output_dir|seed|checkpoint|dataset_dir|pretrained) \S+", r"--\1 X", command)
        if shape in seen or ("--config_file" not in command and command.startswith("monai")):
            continue
        seen.add(shape)
        words = shlex.split(command.replace("monai.bundle run", "run", 1), comments=True)
        try:
            check(words)
        except (AssertionError, ValueError, KeyError, StopIteration) as error:
            pytest.fail(f"{command}\n{error!r}")


def check(words: list[str]) -> None:
    """One command, begun by ``run``, ``scripts`` or ``scripts.NAME``."""
    if words[0] == "run":
        check_run(words[1:])
    elif words[0] == "scripts" and len(words) > 1 and words[1] in CONFIGS:
        check_run(config_command(words[1], words[2:])[3:])
    elif words[0] == "scripts":
        assert len(words) < 2 or words[1] in TOOLS or words[1].startswith("--"), f"unknown command {words[1]}"
        if len(words) > 2:
            check_tool(TOOLS[words[1]], words[2:])
    else:
        name = words[0].partition(".")[2]
        source = (BUNDLE / "scripts" / f"{name}.py").read_text(encoding="utf-8")
        [target] = re.findall(r'command_line\("([\w.]+)", "(\w+)"\)', source)
        check_tool(target, words[1:])


def check_tool(target: tuple[str, str], words: list[str]) -> None:
    """Options of a command-line module are parameters of its function."""
    parameters = described(*target)[0].parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    named = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    assert named <= set(parameters), f"unknown options {sorted(named - set(parameters))}"


def test_research_commands_name_modules() -> None:
    named = {name for page in PAGES for name in re.findall(r"-m (research\.\w+)", page.read_text(encoding="utf-8"))}
    assert "research.study" in named
    assert not [name for name in named if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize(
    "command",
    [
        "run training --config_file configs/train.json --batch_sise 2",
        "run training --config_file configs/train.json --max_epochs none",
        "run inferring --config_file configs/inference.json --max_epochs 3",
        "scripts detect scan.nii.gz --dataset_dirr x",
        "scripts detekt scan.nii.gz",
        "scripts.export --outputt DIR",
    ],
)
def test_a_wrong_command_would_be_noticed(command: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(shlex.split(command))
