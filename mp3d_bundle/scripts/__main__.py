"""One entry for people: ``python -m scripts`` lists the commands, ``python -m scripts COMMAND ...`` runs one.

Every command is a door to something that can be typed without it. Those that run a config print that command line.
Run from the bundle's folder; with that folder on ``PYTHONPATH`` they run from any other.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cli import command_line, described
from .command_words import as_typed, literal, split_words
from .configuration.quick_checks import complaints, options_of
from .interrupts import end_interrupted
from .storage.printable import SHOW_TRACEBACK, escape_output

BUNDLE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ConfigCommand:
    """A command that runs a config.

    Attributes:
        text: What it does.
        config: Name of the file in ``configs``.
        workflow: What ``monai.bundle run`` runs of it.
        option: The option that words without an option belong to.
    """

    text: str
    config: str
    workflow: str
    option: str


CONFIGS = {
    "detect": ConfigCommand(
        "Find lesions in a CT: a file, a DICOM folder or zip, or many.", "inference", "inferring", "input"
    ),
    "train": ConfigCommand("Train on DeepLesion or on a data set in its format.", "train", "training", "dataset_dir"),
    "evaluate": ConfigCommand("Score weights on a split of a data set.", "evaluate", "evaluating", "dataset_dir"),
    "evaluate-volumes": ConfigCommand(
        "Score weights in 3D on sub-volumes.", "evaluate_volumes", "evaluating_volumes", "dataset_dir"
    ),
}
TOOLS = {
    "doctor": ("tools.check_machine", "doctor"),
    "demo": ("tools.run_demo", "main"),
    "batch": ("tools.batch.run_batch", "batch"),
    "import": ("tools.import_set", "main"),
    "prepare": ("tools.prepare_store", "main"),
    "folds": ("tools.sets.train_folds", "main"),
    "score": ("tools.score_predictions", "score"),
    "synthetic": ("tools.make_synthetic", "main"),
    "operating-points": ("tools.set_operating_points", "operating_points"),
    "compare-scans": ("tools.comparing.compare_results", "compare"),
    "export": ("tools.export_detector", "export"),
    "convert": ("tools.convert_weights", "convert"),
    "complexity": ("tools.count_operations", "main"),
}
TRAINED, DEMO, DATA = Path("models/model.pt"), Path("models/demo.pt"), Path("data/DeepLesion")
# With one of these, the command works on other data or other weights than the configs name.
ELSEWHERE = {"config_file", "args_file", "bundle_root", "labels", "images", "predictions"}


def listing() -> str:
    """The list of commands, one line each."""
    lines = {name: entry.text for name, entry in CONFIGS.items()}
    lines |= {name: described(*entry)[1].splitlines()[0] for name, entry in TOOLS.items()}
    width = max(map(len, lines)) + 2
    body = "\n".join(f"  {name:<{width}}{text}" for name, text in lines.items())
    return f"python -m scripts COMMAND ...\n\n{body}\n\npython -m scripts COMMAND --help describes one."


def bundle_path(name: str | Path) -> str:
    """Path of a file of the bundle: relative in the bundle's folder, absolute elsewhere."""
    return str(name) if Path.cwd() == BUNDLE else str(BUNDLE / name)


def config_command(name: str, words: Sequence[str]) -> list[str]:
    """Words of the ``monai.bundle`` command behind a command.

    Paths that the user types are relative to the working folder. Config and weights are the bundle's.

    Args:
        name: One of ``CONFIGS``.
        words: What the user typed after it. Words that belong to no option are scans or the data set.

    Returns:
        The words, without the interpreter.
    """
    entry, (inputs, options) = CONFIGS[name], _inputs_and_options(words)
    if inputs:
        options = [f"--{entry.option}", inputs[0] if len(inputs) == 1 else str(inputs), *options]
    given = options_of(options)
    chosen = []
    if "config_file" not in given:
        chosen = ["--config_file", bundle_path(f"configs/{entry.config}.json")]
    if Path.cwd() != BUNDLE and "bundle_root" not in given:
        chosen += ["--bundle_root", str(BUNDLE)]
    default = name == "detect" and not {"checkpoint", "config_file"} & set(given)
    if default and not (BUNDLE / TRAINED).is_file() and (BUNDLE / DEMO).is_file():
        demo = bundle_path(DEMO)
        print(f"{bundle_path(TRAINED)} does not exist: using {demo}.")
        print("It was trained on synthetic images and finds no real lesions.")
        chosen += ["--checkpoint", demo]
    folder = as_typed(given.get("output_dir") or "")
    if "tracking" in given and folder and isinstance(folder, str):
        # MONAI joins this text with others before the bundle can restore what Fire has made of it.
        options += ["--output_dir", literal(folder)]
    return ["-m", "monai.bundle", "run", entry.workflow, *chosen, *options]


def _inputs_and_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words into those without an option and the rest, unchanged."""
    inputs, options, rest = [], [], list(words)
    for key, text in split_words(words):
        if key:
            options += [rest.pop(0) for _ in range(1 if text is None or "=" in rest[0] else 2)]
        else:
            inputs.append(rest.pop(0))
    return inputs, [*options, *rest]


def check_command(name: str, words: Sequence[str]) -> None:
    """Report a wrong command line at once: the run would import PyTorch and MONAI first.

    Args:
        name: One of ``CONFIGS``.
        words: What the user typed after it.

    Raises:
        SystemExit: If there is nothing to work on, or an option or a file is wrong.
    """
    entry, (inputs, options) = CONFIGS[name], _inputs_and_options(words)
    given, argument = set(options_of(options)), entry.option.upper()
    if inputs and entry.option in given:
        sys.exit(f"Error: Expected {argument} once, got {inputs[0]!r} and --{entry.option}.")
    if len(inputs) > 1 and entry.option != "input":
        sys.exit(f"Error: Expected one {argument}, got also {inputs[1]!r}.")
    words = [*(f"--{entry.option}={path}" for path in inputs), *options]
    for complaint in complaints(words, f"{entry.config}.json"):
        sys.exit(f"Error: {complaint}.")
    if given & ELSEWHERE:
        return
    if not inputs and entry.option not in given and not (BUNDLE / DATA).is_dir():
        sys.exit(f"Error: Expected {argument}, got none. Type python -m scripts {name} {argument}.")
    if name.startswith("evaluate") and "checkpoint" not in given and not (BUNDLE / TRAINED).is_file():
        sys.exit(f"Error: Expected weights in {bundle_path(TRAINED)}, found no file. Name others by --checkpoint FILE.")


def config_help(name: str) -> str:
    """The ``--help`` text of a command that runs a config."""
    entry = CONFIGS[name]
    argument = entry.option.upper()
    return (
        f"python -m scripts {name} {argument} [--OPTION VALUE ...]\n\n{entry.text}\n\n"
        f"It runs: python -m monai.bundle run {entry.workflow} --config_file configs/{entry.config}.json "
        f"--{entry.option} {argument} ...\n"
        f"Every key of configs/{entry.config}.json is an option; docs/configuration.md lists them."
    )


def run_config(name: str, words: Sequence[str]) -> None:
    """Print the ``monai.bundle`` command behind a command, and replace this process by it."""
    check_command(name, words)
    command = config_command(name, words)
    print("Running: python " + shlex.join(command), flush=True)
    # The config names parts of `scripts`, which Python finds in the bundle's folder.
    paths = [str(BUNDLE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # As the printed command does, but Ctrl-C ends it in a line while MONAI is imported, too.
    start = ["-c", f"from scripts.interrupts import run_module; run_module({command[1]!r})"]
    os.execve(sys.executable, [sys.executable, *start, *command[2:]], environment)


def main(words: Sequence[str]) -> None:
    """Run the command that the words name.

    Args:
        words: The command line without the program.

    Raises:
        SystemExit: If the command is unknown or fails.
    """
    name, rest = words[0] if words else "help", list(words[1:])
    if name in ("help", "--help", "-h") and rest:
        name, rest = rest[0], ["--help"]
    if name in ("help", "--help", "-h"):
        print(listing())
    elif name == "--version":
        print(json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"])
    elif name in TOOLS:
        command_line(*TOOLS[name], rest, f"python -m scripts {name}")
    elif name not in CONFIGS:
        known = [*CONFIGS, *TOOLS]
        alike = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f" Did you mean {alike[0]}?" if alike else ""
        sys.exit(f"Error: Expected one of the commands {', '.join(known)}, got {name!r}.{hint}")
    elif {"--help", "-h"} & set(rest):
        print(config_help(name))
    else:
        run_config(name, rest)


def start() -> None:
    """Run the command of this process; an error of the system ends in one line.

    Raises:
        SystemExit: As `main`; or if the working folder has been removed, or nothing can be printed.
    """
    escape_output()
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.exit("Error: Expected a working folder that exists, this one has been removed: change to another one.")
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        end_interrupted()
    except OSError as error:
        if os.environ.get(SHOW_TRACEBACK):
            raise
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    start()
