"""Write `mp3d_bundle/docs/configuration.md` from the configs and the meanings of their keys.

    python tools/configuration_page.py           writes the page
    python tools/configuration_page.py --check   ends with status 1 if the page is out of date

Run after a change of `configs/*.json`, of an overlay or of `scripts/configuration/option_meanings.yaml`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
CONFIGS = BUNDLE / "configs"
MEANINGS = BUNDLE / "scripts" / "configuration" / "option_meanings.yaml"
PAGE = BUNDLE / "docs" / "configuration.md"
# Config: heading. The order of the page.
TITLES = {
    "train.json": "Training",
    "multi_gpu_train.json": "Training on several GPUs (overlay)",
    "pretrain_coco.json": "Pre-training on COCO (overlay)",
    "evaluate.json": "Evaluation",
    "multi_gpu_evaluate.json": "Evaluation on several GPUs (overlay)",
    "evaluate_coco.json": "Evaluation on COCO (overlay)",
    "evaluate_volumes.json": "Evaluation of volumes",
    "inference.json": "Inference",
}
# Expressions of defaults and their text in the table; others are "computed".
EXPRESSIONS = {
    r"\$@bundle_root \+ '/(.*)'": r"`\1` in `bundle_root`",
    r"\$@trained\.(?:setting|threshold)\(.*, ([\d.]+)\)": r"the weights' own, else `\1`",
    r"\$@(?:trained\.)?recipe\..*|\$@trained\.setting\(.*": "the weights' own",
    r"\$torch\.cuda\.is_available\(\)": "on with a GPU",
    r"\$torch\.device\('cuda' if torch\.cuda\.is_available\(\).*": "the first GPU, else `cpu`",
    r"\$(\d+) if torch\.device\(@device\)\.type == 'cuda' else (\d+)": r"`\1` on a GPU, else `\2`",
    r"\$@dataset_dir \+ '/(.*)'": r"`\1` in `dataset_dir`",
    r"(@.*)": r"`\1`",
}
# Keys that another program reads, the last ones of their config, and why they are in it.
OTHERS_READ = {
    "inference.json": (
        ("displayable_configs", "detector", "detector_ops", "preprocessing", "postprocessing"),
        "For MONAI Label: its `monaibundle` app takes these five names, and `network_def`, from "
        "`configs/inference.json` and can be given no other file ([monai_label.md](monai_label.md)). `inferring` "
        "reads none of the five.",
    )
}
# Keys that MONAI runs, in every config: explained once, above the tables.
FRAME = {"imports", "initialize", "run", "finalize", "training", "evaluating", "evaluating_volumes", "inferring"}
HEAD = """# Configuration

Every key of a config is an option of its workflow: `--max_epochs 12` sets a key at the top, `--linking#min_iou 0.3` one
inside a part. A key that nothing reads, and a value that a key cannot have, end the run with one line before any data
are read. Overlays are config files that set a few keys; the last file that sets a key wins:
`--config_file "['configs/train.json','configs/variants/slices_5.yaml']"`.

In the tables, "computed" marks a default that other keys or the weights give; the config has the expression. "Parts"
are the objects that the options configure; `--optimizer#momentum 0.95` changes an argument of one, an overlay replaces
it. A part that is not in the table of an overlay is that of its base config. The lists `initialize` and `finalize` run
before and after, `run` and the workflow's own name (`training`, `evaluating`, `evaluating_volumes`, `inferring`) say
what runs, and `imports` serves the expressions.

This page is made by `python tools/configuration_page.py` of the repository from the configs and
`scripts/configuration/option_meanings.yaml`.
"""


def is_part(value: Any) -> bool:
    """Whether a value of a config is an object or a group of them, rather than an option."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(is_part(entry) for entry in value.values())
    return isinstance(value, list) and any(
        is_part(entry) or (isinstance(entry, str) and entry[:1] == "@") for entry in value
    )


def keys_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys to explain, with their values: those at the top, and options inside groups and overlays."""
    for name, value in config.items():
        key = name.lstrip("+")
        if key.startswith("_") or key in FRAME or ("#" in key and key not in ("network_def#num_classes",)):
            continue
        yield key, value
        if isinstance(value, Mapping):
            plain = (pair for pair in value.items() if not str(pair[0]).startswith("_"))
            leaves = {f"{key}#{leaf}": inner for leaf, inner in plain if not isinstance(inner, (str, Mapping, list))}
            if "_target_" not in value or key == "linking":
                yield from leaves.items()


def shown(value: Any) -> str:
    """A default as shown in the table."""
    if isinstance(value, Mapping):
        target = value.get("_target_")
        return f"`{target}`" if target else "a group"
    if isinstance(value, str) and value[:1] in "$@":
        found = ((re.fullmatch(pattern, value), text) for pattern, text in EXPRESSIONS.items())
        return next((match.expand(text) for match, text in found if match), "computed")
    if isinstance(value, list) and is_part(value):
        return "a list"
    return "none" if value is None else f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def meaning(file: str, key: str, meanings: Mapping[str, str]) -> str:
    """The meaning of a config key.

    Raises:
        ValueError: If it is missing.
    """
    found = meanings.get(f"{file} {key}", meanings.get(key))
    if not found:
        raise ValueError(f"Expected a meaning of {key} of {file} in {MEANINGS.name}, found none.")
    return found


def tables(file: str, config: Mapping[str, Any], meanings: Mapping[str, str]) -> Iterator[str]:
    """The lines of one config: its command, its options, its parts."""
    about, _, command = config["_desc_"].partition(": ")
    yield from ("", f"## {TITLES[file]}", "", f"{about}, `configs/{file}`:", "", "```", command, "```")
    entries = [(key, value) for key, value in keys_of(config) if key.partition("#")[0] in config]
    computed = {
        key
        for key, value in entries
        if isinstance(value, str) and value.startswith(("$@network", "$@described.to", "$len"))
    }
    others, reason = OTHERS_READ.get(file, ((), ""))
    lines: dict[str, list[str]] = {"option": [], "part": [], "key": []}
    for key, value in entries:
        part = is_part(value) or key in computed
        title = "key" if key in others else "part" if part else "option"
        lines[title].append(f"| `{key}` | {shown(value)} | {meaning(file, key, meanings)} |")
    for title, rows in lines.items():
        if rows:
            yield from ("", reason, "") if title == "key" else ("",)
            yield from (f"| {title} | default | meaning |", "| --- | --- | --- |", *rows)


def overlays(folder: Path) -> Iterator[str]:
    """The lines of the overlays in a folder, each with its first comment."""
    yield from ("", "## Overlays", "", "In `configs/variants`, each with the comment that it begins with:", "")
    yield from ("| overlay | what it is |", "| --- | --- |")
    for path in sorted(folder.glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        count = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
        yield f"| `{path.stem}` | {' '.join(line.lstrip('# ') for line in lines[:count])} |"


def page(configs: Path = CONFIGS, meanings_file: Path = MEANINGS) -> str:
    """The whole page.

    Args:
        configs: Folder of the configs.
        meanings_file: Meanings of their keys.

    Raises:
        ValueError: If a key has no meaning, or a meaning no key.
    """
    meanings = yaml.safe_load(meanings_file.read_text(encoding="utf-8"))
    files = {file: json.loads((configs / file).read_text(encoding="utf-8")) for file in TITLES}
    known = {name for file, config in files.items() for key, _ in keys_of(config) for name in (key, f"{file} {key}")}
    if unused := sorted(set(meanings) - known):
        raise ValueError(f"Expected meanings of existing keys only, got {', '.join(unused)} in {MEANINGS.name}.")
    lines = [line for file, config in files.items() for line in tables(file, config, meanings)]
    return HEAD + "\n".join([*lines, *overlays(configs / "variants")]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write docs/configuration.md from the configs.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    text = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE.name} is out of date: run python tools/configuration_page.py.")


if __name__ == "__main__":
    main()
