"""What a training has to find in its folder to resume: a checkpoint of the same run, and its best weights so far."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configuration.run_settings import differences
from ...weights import read_tensors


def check_checkpoint(
    content: Any,
    path: Path,
    *,
    objects: Mapping[str, Any],
    definition: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
    epoch_length: int | None,
) -> None:
    """Check that a checkpoint is one of the run that wants to resume from it.

    Args:
        content: Of the file.
        path: Of the file.
        objects: What has a state in this run, by name, the network left out.
        definition: Description of the network of this run.
        settings: What must be the same; None if they are not known.
        epoch_length: Iterations an epoch of this run.

    Raises:
        ValueError: If it is not; the message says in what they differ.
    """
    content = content if isinstance(content, dict) else {}
    # A run in float32, as on a CPU, has no loss scaler; one on a GPU resumes from it with a new one.
    objects = {name: item for name, item in objects.items() if name != "scaler" or name in content}
    needed = {"model", "random", "epoch", "epoch_length", "kinds", "definition", *objects}
    missing = sorted(needed - set(content))
    advice = f"Use another --output_dir (or --ckpt_dir), or remove {path} to start afresh."
    if missing:
        raise ValueError(f"Expected a checkpoint of a run with {missing[0]}, got one without in {path}. {advice}")
    if content["definition"] != definition:
        raise ValueError(
            f"Expected a checkpoint of the network {definition}, got one of {content['definition']} in {path}. {advice}"
        )
    kinds = {name: type(item).__qualname__ for name, item in objects.items()}
    stored = {name: kind for name, kind in content["kinds"].items() if name in kinds}
    if kinds != stored:
        raise ValueError(f"Expected a checkpoint of a run with {kinds}, got {stored} in {path}. {advice}")
    # Files from before settings were kept have none.
    known = settings is not None and content.get("settings") is not None
    if known and (other := differences(content["settings"], settings or {}, content["epoch"])):
        raise ValueError(f"Expected the settings of the run that left {path}, got {other}. {advice}")
    if content["epoch_length"] != epoch_length:
        raise ValueError(
            f"Expected a checkpoint of a run with {epoch_length} iterations an epoch, got "
            f"{content['epoch_length']} in {path}: data set or batch size differ. {advice}"
        )
    done, iteration = content["epoch"] * epoch_length, content.get("iteration", content["epoch"] * epoch_length)
    if type(iteration) is not int or not done <= iteration <= done + epoch_length:
        raise ValueError(
            f"Expected a checkpoint of an iteration from {done} to {done + epoch_length} after {content['epoch']} "
            f"epochs, got {iteration!r} in {path}. {advice}"
        )


def check_best_weights(best: Path, epoch: int, last: Path) -> None:
    """Check that the best weights that a checkpoint speaks of are there: the checkpoint does not hold them.

    Args:
        best: Their file.
        epoch: The epoch that they are of, from 1.
        last: The checkpoint.

    Raises:
        ValueError: If they are missing or damaged; else the run would end without them, or with those of a worse epoch.
    """
    advice = f"Put the file back, or remove {last} to start afresh."
    if not best.is_file():
        raise ValueError(f"Expected the best weights so far, of epoch {epoch}, in {best}, found no file. {advice}")
    try:
        read_tensors(best)
    except ValueError as error:
        raise ValueError(f"{error} It held the best weights so far, of epoch {epoch}. {advice}") from error
