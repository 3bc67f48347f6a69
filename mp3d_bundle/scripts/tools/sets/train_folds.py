"""Cross-validation: train and score on every fold of an imported set, with the commands that a user could type."""

from __future__ import annotations

import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ...command_words import as_typed
from ...configuration.read_keys import SEPARATOR, changes, normal
from ...data.importing.set_tables import FOLDS, SET_FILE, read_set
from ...interrupts import run_command
from ...storage.atomic_files import write_json
from ...storage.output_folder import check_output_folder
from ...storage.safe_json import read_json

_POINTS = ("0.5", "1", "2", "4")
BUNDLE = Path(__file__).resolve().parents[3]
_CONFIGS = ("train.json", "variants/size_narrow.yaml", "variants/optimizer_adamw.yaml", "variants/own_data.yaml")
# Options of the command itself, for every fold.
_OWN = ("dataset_dir", "output_dir", "checkpoint", "split")
# Options that say the same of a training, its validation and a score: the score of a fold has them too.
_SCORED = (
    *("amp", "amp_dtype", "bundle_root", "device", "keep_noisy", "missing_images", "num_workers", "precision"),
    *("random_window", "froc_rule"),
)


def find_folds(folder: Path) -> list[Path]:
    """The folds of a set, in their order.

    Raises:
        ValueError: If it has none, or not all that it was imported with.
    """
    numbers = sorted(int(path.name) for path in (folder / FOLDS).glob("*") if path.name.isdecimal())
    found = [folder / FOLDS / str(number) for number in numbers]
    if not found:
        raise ValueError(f"Expected a set with folds in {folder / FOLDS}, found none: import it with --folds 5.")
    wanted = (read_set(folder) or {}).get("folds") or len(numbers)
    if numbers != list(range(1, wanted + 1)):
        there = ", ".join(map(str, numbers))
        raise ValueError(f"Expected the folds 1 to {wanted} of the set in {folder / FOLDS}, found {there}.")
    for path in found:
        about = read_set(path)
        if about is None or not {"train", "validation"} <= set(about["splits"]):
            raise ValueError(f"Expected patients for training and validation in the fold {path} ({SET_FILE}).")
    return found


def fold_commands(fold: Path, output: Path, config_file: str, options: Mapping[str, Any]) -> list[list[str]]:
    """The two commands of a fold: its training, and the score of its weights on its own validation patients."""
    if Path.cwd() != BUNDLE:
        options = {"bundle_root": BUNDLE, **options}
    start = [sys.executable, "-m", "monai.bundle", "run"]
    train = ["training", "--config_file", config_file or str([_config(name) for name in _CONFIGS])]
    train += ["--dataset_dir", str(fold), "--output_dir", str(output), *_words(options)]
    score = ["evaluating", "--config_file", _config("evaluate.json"), "--dataset_dir", str(fold)]
    score += ["--checkpoint", str(output / "model.pt"), "--split", "validation"]
    score += ["--output_dir", str(output / "validation")]
    # Part of an option: froc_rule#iou_threshold.
    own = {name: value for name, value in options.items() if re.split("#|::", name)[0] in _SCORED}
    score += _words({**scored_settings(config_file), **own})
    return [[*start, *train], [*start, *score]]


def scored_settings(config_file: str) -> dict[str, Any]:
    """What config files of a training set for its validation too, such as the rule of a `froc_*.yaml`, by option.

    Args:
        config_file: A file or a list of files, as on a command line; empty for those for few images.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If one is not a config.
    """
    files = as_typed(config_file) if config_file else [_config(name) for name in _CONFIGS]
    config = normal(ConfigParser.load_config_files(files))
    usual = normal(ConfigParser.load_config_file(BUNDLE / "configs" / _CONFIGS[0]))
    changed = {name.split(SEPARATOR)[0] for name in changes(config, [usual])}
    return {name: config[name] for name in _SCORED if name in changed}


def _words(options: Mapping[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _config(name: str) -> str:
    """Path of a config: relative in the bundle's folder, absolute elsewhere."""
    return f"configs/{name}" if Path.cwd() == BUNDLE else str(BUNDLE / "configs" / name)


def summary(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over folds of the sensitivities at 0.5, 1, 2 and 4 false positives per image.

    Folds without a lesion to find are in no mean: ``folds_without_lesions`` has their numbers, where there are some.
    """
    found: dict[str, Any] = {"folds": len(metrics)}
    empty = [fold for fold, entry in enumerate(metrics, start=1) if entry["sensitivity"][_POINTS[0]] is None]
    if empty:
        found["folds_without_lesions"] = empty
    for name in _POINTS:
        values = [entry["sensitivity"][name] for entry in metrics if entry["sensitivity"][name] is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else None
            found[name] = {"mean": statistics.mean(values), "standard_deviation": spread, "values": values}
    return found


def main(dataset_dir: str, output_dir: str, *, config_file: str = "", **options: object) -> None:
    """Train and score on every fold of a set that was imported with --folds.

    Every further option is one of the training, such as --max_epochs 20 or --pretrained FILE; the score has those that
    hold for its validation too, such as --random_window, also of its config files. The same command resumes.
    OUTPUT_DIR/1 and so on hold the trainings, each with its score on its own validation patients in validation;
    OUTPUT_DIR/folds.json has the means.

    Args:
        dataset_dir: Folder of the set.
        output_dir: Folder of the trainings.
        config_file: Config files of the training; by default those for few images, as the import advises.
        options: Options of every training.

    Raises:
        ValueError: If the set has no folds, or an option is one that this command sets.
        OSError: If a file cannot be read or written.
        SystemExit: If a training or a score fails.
    """
    taken = [name for name in _OWN if name in options]
    if taken:
        raise ValueError(f"Expected options of a training other than {', '.join(_OWN)}, got {taken[0]}.")
    folder, output = Path(dataset_dir), Path(output_dir)
    folds = find_folds(folder)
    check_output_folder(output)
    found = []
    for fold in folds:
        for command in fold_commands(fold, output / fold.name, config_file, options):
            print(f"\n== Fold {fold.name} of {len(folds)}\n{shlex.join(['python', *command[1:]])}\n", flush=True)
            status = run_command(command)
            if status:
                sys.exit(
                    f"Error: Fold {fold.name} ended with exit status {status}; its message is above. The command that "
                    "began this run resumes it."
                )
        found.append(read_json(output / fold.name / "validation" / "metrics.json", "metrics of a fold"))
    content = summary(found)
    write_json(content, output / "folds.json")
    empty = content.get("folds_without_lesions", [])
    for fold in empty:
        print(f"\nFold {fold} has no lesions in its validation images: it is in no mean.")
    scored = len(folds) - len(empty)
    print(f"\nLesions found on validation patients, mean over {scored} folds, by false positives per image:")
    for name in _POINTS:
        if name in content:
            values = ", ".join(f"{100 * value:.1f}" for value in content[name]["values"])
            print(f"{name:>4}: {100 * content[name]['mean']:.1f} % ({values})")
    print(f"Wrote {output / 'folds.json'}.")
