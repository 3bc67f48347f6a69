"""One entry for people: ``python -m scripts`` lists the commands, ``python -m scripts COMMAND ...`` runs one.

Every command is a door to something that can be typed without it. Those that run a config print that command line.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from .cli import command_line, described

# Command: what it does, and either a config with its workflow and the option that the first word stands for, or the
# module and function behind a command-line module.
CONFIGS = {
    "detect": ("Find lesions in a CT: a file, a DICOM folder or zip, or many.", "inference", "inferring", "input"),
    "train": ("Train on DeepLesion or on a data set in its format.", "train", "training", "dataset_dir"),
    "evaluate": ("Score weights on a split of a data set.", "evaluate", "evaluating", "dataset_dir"),
    "evaluate-volumes": (
        "Score weights in 3D on sub-volumes.",
        "evaluate_volumes",
        "evaluating_volumes",
        "dataset_dir",
    ),
}
TOOLS = {
    "demo": ("tools.run_demo", "main"),
    "synthetic": ("tools.make_synthetic", "main"),
    "operating-points": ("tools.set_operating_points", "operating_points"),
    "export": ("tools.export_detector", "export"),
    "convert": ("tools.convert_weights", "convert"),
    "complexity": ("tools.count_operations", "main"),
}
TRAINED, DEMO = Path("models/model.pt"), Path("models/demo.pt")


def listing() -> str:
    """The commands, a line each."""
    lines = {name: entry[0] for name, entry in CONFIGS.items()}
    lines |= {name: described(*entry)[1].splitlines()[0] for name, entry in TOOLS.items()}
    width = max(map(len, lines)) + 2
    body = "\n".join(f"  {name:<{width}}{text}" for name, text in lines.items())
    return f"python -m scripts COMMAND ...\n\n{body}\n\npython -m scripts COMMAND --help says more of one."


def config_command(name: str, words: Sequence[str]) -> list[str]:
    """Words of the ``monai.bundle`` command that a command stands for.

    Args:
        name: One of ``CONFIGS``.
        words: What the user typed after it. A first word without dashes is the scan or the data set.

    Returns:
        The words, without the interpreter.
    """
    _, config, workflow, option = CONFIGS[name]
    words = list(words)
    if words and not words[0].startswith("-"):
        words = [f"--{option}", *words]
    if not any(word.split("=")[0] == "--config_file" for word in words):
        words = ["--config_file", f"configs/{config}.json", *words]
    chosen = any(word.split("=")[0] == "--checkpoint" for word in words)
    if name == "detect" and not chosen and not TRAINED.is_file() and DEMO.is_file():
        print(f"There is no {TRAINED}: using {DEMO}, which was trained on synthetic images and finds no real lesions.")
        words += ["--checkpoint", str(DEMO)]
    return ["-m", "monai.bundle", "run", workflow, *words]


def config_help(name: str) -> str:
    """What ``--help`` says of a command that runs a config."""
    text, config, workflow, option = CONFIGS[name]
    return (
        f"python -m scripts {name} {option.upper()} [--OPTION VALUE ...]\n\n{text}\n\n"
        f"It runs: python -m monai.bundle run {workflow} --config_file configs/{config}.json --{option} "
        f"{option.upper()} ...\nEvery key of configs/{config}.json is an option; docs/configuration.md lists them."
    )


def main(words: Sequence[str]) -> None:
    """Run the command that the words name.

    Args:
        words: The command line without the program.
    """
    if not words or words[0] in ("--help", "-h", "help"):
        print(listing())
        return
    name, rest = words[0], list(words[1:])
    if name in TOOLS:
        sys.argv = [f"scripts {name}", *rest]
        command_line(*TOOLS[name])
    elif name in CONFIGS and {"--help", "-h"} & set(rest):
        print(config_help(name))
    elif name in CONFIGS:
        command = config_command(name, rest)
        print("Running: python " + shlex.join(command), flush=True)
        os.execv(sys.executable, [sys.executable, *command])
    else:
        known = ", ".join([*CONFIGS, *TOOLS])
        sys.exit(f"Error: expected one of the commands {known}, got {name!r}.")


if __name__ == "__main__":
    main(sys.argv[1:])
