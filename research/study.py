"""Run the rows of the paper's tables and set ours beside the paper's.

    python -m scripts.study --tables 1,2,3,4,5 --dataset_dir DIR --output DIR

Run from the bundle's folder. Every run is a pair of ``python -m monai.bundle run`` commands that a user could type;
``--dry_run`` prints them. Started again, the program goes on where it stopped and skips what is done. Started several
times at once with one output, say once for each GPU with its ``CUDA_VISIBLE_DEVICES``, the processes share the runs.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import fire

from research.run_order import Campaign
from research.study_commands import Options, Places, Planner, data_fingerprint, overlay_file, text_of
from research.study_page import Findings, tables_to_show, write_page
from research.study_plan import load_study
from scripts.configuration.running_config import CONFIGS

_OWN = ("extra", "epochs_1x", "weights", "imagenet", "page_only")
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
    dry_run: bool = False,
    **options: Any,
) -> None:
    """Run rows of the paper's tables and write ``study.md`` with its figures.

    Args:
        dataset_dir: DeepLesion, or a data set in its format.
        output: Folder of the runs and of the page.
        tables: Tables of the paper, 1 to 5.
        rows: Only these rows, by setting (``mp3d_9``) and share (``scratch_2x@20``); scripts/studies/tables.yaml
            names them. The page shows whole tables, and others that have been run before.
        seeds: Seeds of every row.
        profile: ``full``, the paper's experiment, or ``reduced``, a narrow network on small synthetic images.
        learning_rates: Rates to try for every row with the first seed; the best on the validation split is used for
            all seeds.
        dry_run: Print the commands and do nothing.
        options: ``extra``: overlays put on top of all rows; ``weights``: the file from which pre-trained rows start
            (MR3D and isotropic pooling have their own, see docs/rows.md); ``imagenet``: torchvision's ResNet-50 for
            the 2D baselines, where it cannot be downloaded; ``epochs_1x``: length of the 1x schedule, for short runs;
            ``page_only``: write the page of what has been run, and run nothing; anything else is handed on to every
            training, and to every evaluation that knows it (``--num_workers 8``).

    Raises:
        ValueError: If a table, row, seed, rate or profile is unknown, or two rows would write the same folder.
        OSError: If the data set is not there, or the output cannot be written.
        SystemExit: With status 1 if a row failed; the others were run, and the page says so.
    """
    content = load_study()
    if profile not in content.profiles:
        raise ValueError(f"Expected a profile out of {', '.join(content.profiles)}, got {profile!r}.")
    places = Places(Path(str(dataset_dir)), Path(str(output)))
    data_fingerprint(places.dataset_dir)
    chosen, page_only = _options(options), options.pop("page_only", False)
    planner = Planner(content, content.profiles[profile], places, chosen)
    rates = _numbers(learning_rates, "learning_rates", float)
    campaign = Campaign(planner, content.select(_words(tables), _words(rows)), _numbers(seeds, "seeds", int), rates)
    if dry_run:
        for run in campaign.all_runs():
            for words in run.steps.values():
                print(text_of(words))
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


def _options(given: Mapping[str, Any]) -> Options:
    """The options of all runs; what every run would fail on is found out before the first."""
    extra, epochs = _words(given.get("extra", "")), given.get("epochs_1x")
    files = {name: None if given.get(name) is None else str(given[name]) for name in ("weights", "imagenet")}
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise ValueError(f"Expected a whole number of epochs for --epochs_1x, got {epochs!r}.")
    for name in extra:
        if not Path(overlay_file(name)).is_file():
            raise FileNotFoundError(
                f"Expected an overlay at {overlay_file(name)} for --extra, but there is no such file."
            )
    for name, file in files.items():
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"Expected a weights file for --{name}, but there is no file {file}.")
    trained, scored = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "evaluate"))
    handed = {name: value for name, value in given.items() if name not in _OWN}
    for name in handed:
        key = name.replace("::", "#").partition("#")[0]
        if key in _ROWS:
            raise ValueError(f"Expected no --{name}: it differs from row to row, and the study sets it.{_ROWS[key]}")
        if key not in trained:
            raise ValueError(f"Expected an option of the study or a key of configs/train.json, got --{name}.")
    return Options(
        extra=extra,
        training=handed,
        evaluation={name: value for name, value in handed.items() if name in scored},
        epochs_1x=epochs,
        **files,
    )


def _stop(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C: the command that runs is stopped too, and its time so far is kept."""
    del frame
    sys.stderr.write(f"study: stopped by {signal.Signals(number).name}; the same command resumes here.\n")
    raise SystemExit(128 + number)


def main() -> None:
    """Command line: one clear line and a non-zero exit status where something is wrong."""
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        fire.Fire(study)
    except (ValueError, OSError) as error:
        sys.exit(f"study: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("study: interrupted; the same command resumes here.\n")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
