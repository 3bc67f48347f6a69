"""Errors in a command line that can be seen before PyTorch and MONAI are imported, which takes seconds.

The run checks its whole config again, see `.running_config`. Here a misspelt option, an impossible value or a missing
file is reported at once. Imports neither PyTorch nor MONAI.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fire.parser import DefaultParseValue

from ..command_words import MARKS, RUN_ARGUMENTS, as_typed, split_words
from ..storage.object_stores import url_of
from .option_rules import TEXTS, misfits
from .overlay_order import overlay_complaints

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Files that the run names itself, next to the arguments of MONAI's `run`.
_FILES = ("config_file", "args_file")
_CONFIG_ENDINGS = (".json", ".yaml", ".yml")
# Options whose files and folders must be there before the run starts.
_PATHS = ("input", "dataset_dir", "checkpoint", "pretrained", "review", "mined", "hard_negatives", "tags")


def options_of(words: Sequence[str]) -> dict[str, str | None]:
    """Options of a command line by name, with the text of each value; None for an option without one."""
    return {key.lstrip("-+").replace("-", "_").replace("::", "#"): text for key, text in split_words(words) if key}


def complaints(words: Sequence[str], config: str) -> Iterator[str]:
    """Yield what is wrong with the options of a command that runs a config, each as a sentence without its end.

    Options are compared with the bundle's own configs, unless the words name other ones. Options with a ``#`` and
    values that are expressions are left to the run.

    Args:
        words: The words after the workflow, as typed.
        config: Name of the config that the command runs, such as ``train.json``.
    """
    given = options_of(words)
    for name, text in given.items():
        if name in (*_FILES, *_PATHS) and text is not None:
            yield from _missing(name, text)
    yield from _lost_settings(given.get("config_file"))
    if not set(_FILES) & set(given):
        files = [file for file in sorted(CONFIGS.glob("*.json")) if file.name != "metadata.json"]
        entries = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
        # MONAI's tracking has further options, which become keys of the config.
        known = given if "tracking" in given else {*entries[config], *RUN_ARGUMENTS, "imports"}
        for name, text in given.items():
            if name not in known and "#" not in name and not name.startswith("_"):
                yield _unknown(name, entries, config)
            elif name in entries[config]:
                yield from _wrong_value(name, text, list(entries.values()))


def _lost_settings(text: str | None) -> Iterator[str]:
    """Yield the settings of overlays that later ones remove; files that cannot be read are left to the run."""
    if text is None or text.startswith(MARKS):
        return
    value = as_typed(text)
    files = []
    for path in value if isinstance(value, list) else [value]:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return
        if not isinstance(content, dict):
            return
        files.append((path, content))
    # What changes is logged by the run.
    for complaint in overlay_complaints(files, log=False):
        yield f"{complaint[0].upper()}{complaint[1:]}"


def _missing(name: str, text: str) -> Iterator[str]:
    """Yield the files and folders of an option that do not exist."""
    if text.startswith(MARKS) or text in ("", "None", "null"):
        return
    value = as_typed(text)
    for path in value if isinstance(value, list) else [value]:
        if name == "input" and url_of(str(path)) is not None:
            continue
        if not os.path.exists(path):
            yield f"Expected a file or folder that exists for --{name}, found nothing at {path}{_alike(name, path)}"
        elif name == "dataset_dir" and not os.path.isdir(path):
            yield f"Expected a folder for --{name}, found a file at {path}"
        elif name in _PATHS and _is_empty(path):
            yield f"Expected content in --{name}, {path} is empty"


def _alike(name: str, path: Any) -> str:
    """The config files next to a misspelt one, or in the bundle, whose names are close to its name, as a hint."""
    if name != "config_file":
        return ""
    folders = [Path(str(path)).parent, CONFIGS, CONFIGS / "variants"]
    files = {file.name: file for folder in folders for file in folder.glob("*") if file.suffix in _CONFIG_ENDINGS}
    close = difflib.get_close_matches(Path(str(path)).name, files, cutoff=0.7)
    return f" (did you mean {' or '.join(str(files[one]) for one in close)}?)" if close else ""


def _is_empty(path: str) -> bool:
    """Whether a file has no bytes, or a folder no entries; what cannot be looked at is left to the run."""
    try:
        return not os.listdir(path) if os.path.isdir(path) else os.path.isfile(path) and os.path.getsize(path) == 0
    except OSError:
        return False


def _unknown(name: str, entries: Mapping[str, Mapping[str, Any]], config: str) -> str:
    """The complaint about an option that a config does not have."""
    owners = [file for file, entry in entries.items() if name in entry and "run" in entry]
    if owners:
        return f"Option --{name} belongs to {' and '.join(owners)}, {config} does not have it"
    alike = difflib.get_close_matches(name, entries[config], n=1)
    return f"Unknown option --{name}" + (f" (did you mean --{alike[0]}?)" if alike else "")


def _wrong_value(name: str, text: str | None, entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a complaint if an option cannot have a value."""
    if text not in ("None", "null"):
        value = True if text is None else as_typed(text) if name in TEXTS else DefaultParseValue(text)
        for complaint in misfits(name, value, [entry[name] for entry in entries if entry.get(name) is not None]):
            yield f"{complaint[0].upper()}{complaint[1:]}"
