"""Training and evaluation by torchrun: several agents that meet on this machine, and a worker that is killed.

An agent is what torchrun is on one machine, so two agents are two machines' worth of processes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from scripts.data.synthetic import generate
from support.run_ends import assert_same_end, curves, state_of

pytestmark = pytest.mark.slow

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
PATIENCE_S = 900


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images to train on; five for validation, which no number of processes here divides."""
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    generate(folder, "small", seed=1, workers=1, num_train=8, num_validation=5, num_test=1)
    return folder


def words(workflow: str, files: list[str], dataset: Path, output: Path, **options: object) -> list[str]:
    settings = {"dataset_dir": dataset, "output_dir": output, "device": "cpu", "num_workers": 0, **options}
    typed = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["monai.bundle", "run", workflow, "--config_file", str([f"configs/{file}" for file in files]), *typed]


@contextmanager
def started(agents: int, each: int, program: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Agents of torchrun with ``each`` workers; one process without torchrun if there are no agents."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test", "--local_addr=127.0.0.1"]
    launcher = ["torch.distributed.run", f"--nnodes={agents}", f"--nproc_per_node={each}", *meeting, "--max_restarts=5"]
    command = [sys.executable, "-m", *([*launcher, "-m"] if agents else []), *program]
    settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment = {**os.environ, **settings}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [
        subprocess.Popen(command, cwd=BUNDLE, env=environment, **pipes)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for _ in range(max(agents, 1))
    ]
    try:
        yield running
    finally:
        for one in running:
            one.kill()


def finish(running: list[subprocess.Popen[str]]) -> str:
    told = [one.communicate(timeout=PATIENCE_S)[0] for one in running]
    assert [one.returncode for one in running] == [0] * len(running), "\n".join(told)
    return "".join(told)


def train(dataset: Path, output: Path, *, agents: int = 0, each: int = 1, batch: int = 4, **options: object) -> str:
    program = training(dataset, output, several=agents > 0, batch=batch, **options)
    with started(agents, each, program) as running:
        return finish(running)


def training(dataset: Path, output: Path, *, several: bool, batch: int, **options: object) -> list[str]:
    """Two epochs of two iterations from the demo's weights, images of two sizes, few boxes drawn at random."""
    files = ["train.json", *(["multi_gpu_train.json"] if several else []), "variants/size_narrow.yaml"]
    settings = {
        "batch_size": batch, "max_epochs": 2, "checkpoint_interval": 1, "log_interval": 1, "learning_rate": 0.02,
        "train_scales": "[96,64]", "pretrained": "models/demo.pt", "pretrained_parts": "all", **options,
    }  # fmt: skip
    return words("training", files, dataset, output, **settings)


def assert_trained_alike(one: Path, other: Path) -> None:
    """Weights, losses and gradients to 1e-6 and 1e-5 of themselves; the scores of the validation to the bit."""
    start = torch.load(BUNDLE / "models" / "demo.pt", weights_only=True)["model"]
    first, second = state_of(one), state_of(other)
    moved = max(float((first["model"][name] - start[name]).abs().max()) for name in start)
    assert moved > 1e-4
    for name, weights in first["model"].items():
        torch.testing.assert_close(
            second["model"][name], weights, rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert second["best_metric"] == first["best_metric"] > 0
    # The pictures are those of the first process's share.
    mine, theirs = ({tag: one for tag, one in curves(each).items() if "/0" not in tag} for each in (one, other))
    assert set(mine) == set(theirs)
    for tag, values in mine.items():
        exact = not tag.startswith("train/")
        assert [step for step, _ in theirs[tag]] == [step for step, _ in values]
        wanted = [value if exact else pytest.approx(value, rel=1e-5, abs=1e-7) for _, value in values]
        assert [value for _, value in theirs[tag]] == wanted, tag


def test_two_and_four_processes_of_two_agents_train_as_one_does(dataset: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path / "one")
    told = train(dataset, tmp_path / "two", agents=2, batch=2)
    assert "scaled to" not in told or "2 processes" in told
    assert_trained_alike(tmp_path / "one", tmp_path / "two")
    train(dataset, tmp_path / "four", agents=2, each=2, batch=1)
    assert_trained_alike(tmp_path / "one", tmp_path / "four")
    train(dataset, tmp_path / "passes", images_per_pass=3)
    assert_trained_alike(tmp_path / "one", tmp_path / "passes")


def workers_of(agent: subprocess.Popen[str]) -> list[int]:
    listed = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text(encoding="ascii")
    return [int(number) for number in listed.split()]


@pytest.mark.parametrize("each", [1, 2])
def test_a_killed_worker_is_started_again_and_the_weights_are_the_same(
    each: int, dataset: Path, tmp_path: Path
) -> None:
    batch = 2 // each
    train(dataset, tmp_path / "straight", agents=2, each=each, batch=batch)
    program = training(dataset, tmp_path / "killed", several=True, batch=batch)
    with started(2, each, program) as agents:
        limit = time.monotonic() + PATIENCE_S
        while not (tmp_path / "killed" / "last.pt").is_file():
            assert time.monotonic() < limit
            time.sleep(0.01)
        os.kill(workers_of(agents[1])[-1], signal.SIGKILL)
        told = finish(agents)
    assert "Resuming from" in told
    if each == 1:
        assert_same_end(tmp_path / "straight", tmp_path / "killed")
        assert curves(tmp_path / "straight") == curves(tmp_path / "killed")
    else:  # PyTorch orders gradients anew after the first step of a start, and with them the sums of three and more
        assert_trained_alike(tmp_path / "straight", tmp_path / "killed")


def test_an_evaluation_is_the_same_in_any_number_of_processes(dataset: Path, tmp_path: Path) -> None:
    options = {"split": "validation", "checkpoint": "models/demo.pt", "batch_size": 1, "engine": "torch"}
    alone = words("evaluating", ["evaluate.json"], dataset, tmp_path / "1", **options)
    shared = ["evaluate.json", "multi_gpu_evaluate.json"]
    with started(0, 1, alone) as running:
        finish(running)
    for agents, each in ((2, 1), (2, 3)):  # five images: shares of three and two, and one process without its own
        output = tmp_path / str(agents * each)
        with started(agents, each, words("evaluating", shared, dataset, output, **options)) as running:
            finish(running)
        files = sorted(path.name for path in (tmp_path / "1").glob("*.[cj]s*"))
        assert "metrics.json" in files
        assert {name: (output / name).read_bytes() for name in files} == {
            name: (tmp_path / "1" / name).read_bytes() for name in files
        }
