"""What finished trainings left in their folders, to be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def state_of(folder: Path) -> dict[str, Any]:
    """The last checkpoint."""
    return torch.load(folder / "last.pt", weights_only=True)


def assert_same_end(straight: Path, disturbed: Path) -> None:
    """Weights, optimiser, random numbers and best score are equal to the bit, and nothing unfinished is left."""
    one, other = state_of(straight), state_of(disturbed)
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    for name in set(one) - {"model", "settings"}:
        assert str(one[name]) == str(other[name]), name
    best = [torch.load(folder / "model.pt", weights_only=True) for folder in (straight, disturbed)]
    assert all(torch.equal(best[0]["model"][name], best[1]["model"][name]) for name in best[0]["model"])
    assert best[0]["info"] == best[1]["info"]
    assert not [path.name for path in disturbed.glob(".*")]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All curves but that of the speed."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "train/images_per_second"]
    pictures = {tag: [(one.step, 0.0) for one in events.Images(tag)] for tag in events.Tags()["images"]}
    return {**pictures, **{tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in tags}}
