"""One entry for people: ``python -m scripts`` lists the commands, ``python -m scripts COMMAND ...`` runs one.

Every command is a door to something that can be typed without it. Those that run a config print that command line.
Run from the bundle's folder; with that folder on ``PYTHONPATH`` they run from any other.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cli import command_line, described, first_words

BUNDLE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ConfigCommand:
    """A command that runs a config.

    Attributes:
        text: What it does.
        config: Name of the file in ``configs``.
        workflow: What ``monai.bundle run`` runs of it.
        option: Which option the words before the first option are.
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
    "demo": ("tools.run_demo", "main"),
    "import": ("tools.import_set", "main"),
    "synthetic": ("tools.make_synthetic", "main"),
    "operating-points": ("tools.set_operating_points", "operating_points"),
    "export": ("tools.export_detector", "export"),
    "convert": ("tools.convert_weights", "convert"),
    "complexity": ("tools.count_operations", "main"),
}
TRAINED, DEMO = Path("models/model.pt"), Path("models/demo.pt")


def listing() -> str:
    """The commands, a line each."""
    lines = {name: entry.text for name, entry in CONFIGS.items()}
    lines |= {name: described(*entry)[1].splitlines()[0] for name, entry in TOOLS.items()}
    width = max(map(len, lines)) + 2
    body = "\n".join(f"  {name:<{width}}{text}" for name, text in lines.items())
    return f"python -m scripts COMMAND ...\n\n{body}\n\npython -m scripts COMMAND --help describes one."


def bundle_path(name: str | Path) -> str:
    """Path of a file of the bundle: relative in the bundle's folder, absolute elsewhere."""
    return str(name) if Path.cwd() == BUNDLE else str(BUNDLE / name)


def config_command(name: str, words: Sequence[str]) -> list[str]:
    """Words of the ``monai.bundle`` command that a command stands for.

    Paths that the user types are relative to the working folder. Config and weights are the bundle's.

    Args:
        name: One of ``CONFIGS``.
        words: What the user typed after it. Words before the first option are scans or the data set.

    Returns:
        The words, without the interpreter.
    """
    entry, words = CONFIGS[name], list(words)
    if count := first_words(words):
        inputs = words[0] if count == 1 else str(words[:count])
        words = [f"--{entry.option}", inputs, *words[count:]]
    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("-")}
    chosen = []
    if "config_file" not in given:
        chosen = ["--config_file", bundle_path(f"configs/{entry.config}.json")]
    if Path.cwd() != BUNDLE and "bundle_root" not in given:
        chosen += ["--bundle_root", str(BUNDLE)]
    default = name == "detect" and not {"checkpoint", "config_file"} & given
    if default and not (BUNDLE / TRAINED).is_file() and (BUNDLE / DEMO).is_file():
        demo = bundle_path(DEMO)
        print(f"There is no {bundle_path(TRAINED)}: using {demo}.")
        print("It was trained on synthetic images and finds no real lesions.")
        chosen += ["--checkpoint", demo]
    return ["-m", "monai.bundle", "run", entry.workflow, *chosen, *words]


def config_help(name: str) -> str:
    """What ``--help`` says of a command that runs a config."""
    entry = CONFIGS[name]
    argument = entry.option.upper()
    return (
        f"python -m scripts {name} {argument} [--OPTION VALUE ...]\n\n{entry.text}\n\n"
        f"It runs: python -m monai.bundle run {entry.workflow} --config_file configs/{entry.config}.json "
        f"--{entry.option} {argument} ...\n"
        f"Every key of configs/{entry.config}.json is an option; docs/configuration.md lists them."
    )


def run_config(name: str, words: Sequence[str]) -> None:
    """Print the ``monai.bundle`` command that a command stands for, and become it."""
    command = config_command(name, words)
    print("Running: python " + shlex.join(command), flush=True)
    # The config names parts of `scripts`, which Python finds in the bundle's folder.
    paths = [str(BUNDLE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    os.execve(sys.executable, [sys.executable, *command], environment)


def main(words: Sequence[str]) -> None:
    """Run the command that the words name.

    Args:
        words: The command line without the program.

    Raises:
        SystemExit: If there is no such command, or it fails.
    """
    if not words or words[0] in ("--help", "-h", "help"):
        print(listing())
        return
    name, rest = words[0], list(words[1:])
    if name in TOOLS:
        command_line(*TOOLS[name], rest, f"python -m scripts {name}")
    elif name not in CONFIGS:
        known = ", ".join([*CONFIGS, *TOOLS])
        sys.exit(f"Error: Expected one of the commands {known}, got {name!r}.")
    elif {"--help", "-h"} & set(rest):
        print(config_help(name))
    else:
        run_config(name, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
