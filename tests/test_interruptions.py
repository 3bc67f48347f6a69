"""Runs that are killed or stopped at random moments end bit for bit where an undisturbed one does.

``MP3D_KILLS=50 pytest -m slow tests/test_interruptions.py`` kills the bundle's own training that often.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from scripts.data.synthetic import generate
from support.clean_processes import clean_process
from support.fake_engines import fake_training
from support.run_ends import assert_same_end, curves

CONFIGS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "configs"


def disturb(train: Callable[[], None], signals: list[int], longest: float, seed: int = 0) -> list[int]:
    """Start a training again and again, and send each start one of the signals within ``longest`` seconds.

    Returns:
        Exit codes of the starts that were disturbed; the last start runs to its end.
    """
    draw, codes = random.Random(seed), []
    for number in [*signals, None]:
        child = clean_process(train)
        child.start()
        if number is not None:
            child.join(draw.uniform(0.02, longest))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid or 0, number)
        child.join()
        codes.append(child.exitcode or 0)
    assert codes.pop() == 0
    return codes


@pytest.fixture
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A workflow seeds generators, extends the path and hooks uncaught errors: not for the next test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    set_determinism(None)


@pytest.mark.usefixtures("own_process_state")
def test_a_run_that_is_killed_at_random_moments_ends_where_a_straight_one_does(tmp_path: Path) -> None:
    fake_training(tmp_path / "straight")
    codes = disturb(partial(fake_training, tmp_path / "killed"), [signal.SIGKILL] * 8, 0.4)
    assert set(codes) <= {0, -signal.SIGKILL}
    assert -signal.SIGKILL in codes
    assert_same_end(tmp_path / "straight", tmp_path / "killed")


def bundle_training(dataset: Path, folder: Path, *, epochs: int = 4, **changes: Any) -> None:
    """The bundle's own training of a narrow network on a tiny data set, four epochs of three iterations."""
    files = ["train.json", "variants/size_narrow.yaml"]
    settings = {
        "dataset_dir": str(dataset), "output_dir": str(folder), "num_slices": 3, "max_epochs": epochs, "device": "cpu",
        "checkpoint_interval": 1, "num_workers": 2, **changes,
    }  # fmt: skip
    flow = ConfigWorkflow(
        config_file=[str(CONFIGS / file) for file in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        run_id="training",
        workflow_type="train",
        **settings,
    )
    flow.initialize()
    flow.run()
    flow.finalize()


def resumed_training(dataset: Path, folder: Path) -> None:
    """The same, which resumes without the two processes that load data."""
    bundle_training(dataset, folder, num_workers=0 if (folder / "last.pt").is_file() else 2)


@pytest.mark.slow
@pytest.mark.usefixtures("own_process_state")
def test_the_bundles_training_stops_at_signals_and_is_killed_and_ends_the_same(tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    generate(dataset, "small", seed=1, workers=1, num_train=6, num_validation=3, num_test=3)
    straight, disturbed = tmp_path / "straight", tmp_path / "disturbed"
    bundle_training(dataset, straight)

    codes = disturb(
        partial(resumed_training, dataset, disturbed), [signal.SIGTERM, signal.SIGKILL, signal.SIGINT] * 2, 4.0
    )
    assert set(codes) <= {0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL, 143, 130, 1}
    assert_same_end(straight, disturbed)
    assert curves(straight) == curves(disturbed)


@pytest.mark.slow
@pytest.mark.usefixtures("own_process_state")
def test_many_kills_of_the_bundles_training(tmp_path: Path) -> None:
    kills = int(os.environ.get("MP3D_KILLS", "12"))
    dataset = tmp_path / "data"
    generate(dataset, "small", seed=1, workers=1, num_train=6, num_validation=3, num_test=3)
    start = time.monotonic()
    bundle_training(dataset, tmp_path / "straight", epochs=kills)
    longest = 1.5 + 3 * (time.monotonic() - start) / kills
    codes = disturb(
        partial(bundle_training, dataset, tmp_path / "killed", epochs=kills), [signal.SIGKILL] * kills, longest
    )
    print(f"{codes.count(-signal.SIGKILL)} kills of {kills} before the end of the run")
    assert codes.count(-signal.SIGKILL) >= kills // 2
    assert_same_end(tmp_path / "straight", tmp_path / "killed")
    assert curves(tmp_path / "straight") == curves(tmp_path / "killed")
