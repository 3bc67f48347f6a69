"""Run the rows of the paper's tables and set ours next to the paper's.

    python -m research.study --tables 1,2,3,4,5 --dataset_dir DIR --output DIR

Run from the repository's root. Every run is a pair of ``python -m monai.bundle run`` commands that a user could type;
``--dry_run`` prints them. The same command resumes a study that was stopped and skips what is done. Started several
times at once with one output, say once for each GPU with its ``CUDA_VISIBLE_DEVICES``, the processes share the runs.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from research.run_order import Campaign
from research.study_commands import (
    BUNDLE,
    Options,
    Places,
    Planner,
    bundle_file,
    data_fingerprint,
    folder_of,
    overlay_file,
    text_of,
)
from research.study_page import Findings, tables_to_show, write_page
from research.study_plan import load_study
from scripts.cli import run_typed
from scripts.configuration.option_rules import PATH, RULES
from scripts.configuration.running_config import CONFIGS

_OWN = ("extra", "epochs_1x", "page_only")
# Keys of configs/train.json by which the rows differ, with what to do in their place.
_ROWS = {
    "pretrained": " --weights FILE names the weights of the pre-trained rows.",
    "max_epochs": " --epochs_1x N sets the length of the 1x schedule.",
    "seed": " --seeds 0,1,2 sets the seeds.",
    **dict.fromkeys(("milestones", "train_fraction", "num_slices", "output_dir", "ckpt_dir", "notice"), ""),
}


def _words(value: Any) -> tuple[str, ...]:
    """``1,2`` however fire has read it, as texts."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(str(item) for item in value)
    return tuple(word.strip() for word in str(value).split(",") if word.strip())


def _numbers(value: Any, name: str, kind: type[int] | type[float]) -> tuple[Any, ...]:
    try:
        numbers = tuple(kind(word) for word in _words(value))
    except ValueError as error:
        raise ValueError(f"Expected numbers for --{name}, got {value!r}.") from error
    if len(set(numbers)) != len(numbers) or min(numbers, default=0) < 0:
        raise ValueError(f"Expected different numbers of at least 0 for --{name}, got {value!r}.")
    return numbers


def study(
    dataset_dir: str,
    output: str,
    *,
    tables: Any = "1,2,3,4,5",
    rows: Any = "",
    seeds: Any = 0,
    profile: str = "full",
    learning_rates: Any = "",
    weights: str | None = None,
    imagenet: str | None = None,
    dry_run: bool = False,
    **options: Any,
) -> None:
    """Run rows of the paper's tables and write ``study.md`` with its figures.

    Args:
        dataset_dir: DeepLesion, or a data set in its format.
        output: Folder of the runs and of the page.
        tables: Tables of the paper, 1 to 5, and ``later`` for systems after it.
        rows: Only these rows, by setting (``mp3d_9``) and share (``scratch_2x@20``); research/tables.yaml
            names them. The page shows whole tables, and others that have been run before.
        seeds: Seeds of every row.
        profile: ``full``, the paper's experiment, or ``reduced``, a narrow network on small synthetic images.
        learning_rates: Rates to try for every row with the first seed; the best on the validation split is used for
            all seeds.
        weights: File from which pre-trained rows start; MR3D and isotropic pooling have their own, see docs/rows.md.
        imagenet: torchvision's ResNet-50 for the 2D baselines, where it cannot be downloaded.
        dry_run: Print the commands and do nothing.
        options: ``extra`` (overlays put on top of all rows), ``epochs_1x`` (length of the 1x schedule, for short runs)
            and ``page_only`` (write the page of what has been run, and run nothing); anything else is passed on to
            every training, and to every evaluation that knows it (``--num_workers 8``).

    Raises:
        ValueError: If a table, row, seed, rate or profile is unknown, or two rows would write the same folder.
        OSError: If the data set is not there, or the output cannot be written.
        SystemExit: With status 1 if a row failed; the others were run, and the page says so.
    """
    content = load_study()
    if profile not in content.profiles:
        raise ValueError(f"Expected a profile out of {', '.join(content.profiles)}, got {profile!r}.")
    places = Places(Path(os.path.abspath(dataset_dir)), Path(os.path.abspath(output)))
    data_fingerprint(places.dataset_dir)
    files = {"weights": weights, "imagenet": imagenet}
    chosen, page_only = _options(options, files), options.pop("page_only", False)
    planner = Planner(content, content.profiles[profile], places, chosen)
    rates = _numbers(learning_rates, "learning_rates", float)
    campaign = Campaign(planner, content.select(_words(tables), _words(rows)), _numbers(seeds, "seeds", int), rates)
    if dry_run:
        _print_commands(campaign)
        return

    def report(failed: Mapping[str, str]) -> None:
        findings = Findings(planner, campaign.seeds, rates)
        unseen[:] = write_page(planner, tables_to_show(_words(tables), findings), findings, failed)

    unseen: list[str] = []
    if page_only:
        report({})
    elif failures := campaign.carry_out(report):
        words = "run" if len(failures) == 1 else "runs"
        sys.exit("\n".join([f"study: {len(failures)} {words} failed:", *failures.values()]))
    print("\n".join([*unseen, f"Wrote {places.output / 'study.md'}."]))


def _print_commands(campaign: Campaign) -> None:
    """The commands as a shell script, with the folders from which they run."""
    folder = None
    for run in campaign.all_runs():
        for words in run.steps.values():
            if folder_of(words) != folder:
                folder = folder_of(words)
                print(f"cd {shlex.quote(str(folder))}")
            print(text_of(words))


def _options(given: Mapping[str, Any], given_files: Mapping[str, str | None]) -> Options:
    """The options of all runs; what every run would fail on is found before the first."""
    epochs = given.get("epochs_1x")
    extra = tuple(bundle_file(name) if _is_file_name(name) else name for name in _words(given.get("extra", "")))
    files = {name: bundle_file(path) for name, path in given_files.items() if path is not None}
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise ValueError(f"Expected a whole number of epochs for --epochs_1x, got {epochs!r}.")
    for name in extra:
        if not (BUNDLE / overlay_file(name)).is_file():
            raise FileNotFoundError(
                f"Expected an overlay at {overlay_file(name)} for --extra, but the file does not exist."
            )
    for name, file in files.items():
        if not (BUNDLE / file).is_file():
            raise FileNotFoundError(f"Expected a weights file for --{name}, but there is no file {file}.")
    trained, scored = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "evaluate"))
    passed = {name: _passed(name, value) for name, value in given.items() if name not in _OWN}
    for name in passed:
        key = name.replace("::", "#").partition("#")[0]
        if key in _ROWS:
            raise ValueError(f"Expected no --{name}: it differs from row to row, and the study sets it.{_ROWS[key]}")
        if key not in trained:
            raise ValueError(f"Expected an option of the study or a key of configs/train.json, got --{name}.")
    return Options(
        extra=extra,
        training=passed,
        evaluation={name: value for name, value in passed.items() if name in scored},
        epochs_1x=epochs,
        **files,
    )


def _is_file_name(overlay: str) -> bool:
    return overlay_file(overlay) == overlay


def _passed(name: str, value: Any) -> Any:
    """An option of all runs; a relative path starts at the working folder, which the commands do not share."""
    rule = RULES.get(name)
    is_path = rule is not None and rule.words.startswith(PATH.words)
    return bundle_file(value) if is_path and isinstance(value, str) and value else value


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop the command that runs as well, and keep its time so far."""
    del frame
    sys.stderr.write(f"study: stopped by {signal.Signals(number).name}; the same command resumes here.\n")
    raise SystemExit(128 + number)


def main() -> None:
    """Command line: an error about the input ends in one line."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_typed(study)


if __name__ == "__main__":
    main()
