"""The demo: make synthetic CTs, train a narrow MP3D FPN on them, evaluate it, and mark lesions on whole scans.

    python -m scripts.demo --output ../runs/demo
    python -m scripts.demo --output ../runs/demo_from_scratch --from_scratch

Run from the bundle's folder. The first starts from ``models/synthetic.pt``, which was trained on other synthetic
images, the second at random. Every step is a command that a user could type; it is printed before it runs.
Everything in it is synthetic: its figures have no relation to accuracy on DeepLesion.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.deeplesion.columns import SYNTHETIC
from ..data.synthetic import generate
from ..data.synthetic.generator import description
from ..data.synthetic_presets import resolve
from ..interrupts import run_command
from ..metrics.volume.volume_matching import OFFICIAL, pairwise_overlap

NOTICE = "Demo weights: trained on synthetic images. Not a lesion detector; finds no real lesions."
OVERLAYS = ("size_narrow", "optimizer_adamw", "demo")
# Where the demo starts: weights trained on synthetic images of these seeds (docs/synthetic.md).
START = Path("models/synthetic.pt")
START_SEEDS = (1, 2, 3, 6, 7)
START_OVERLAY = "narrow_synthetic"
BATCH = 8
# False positives per key slice at which the demo marks lesions in a scan, from its start and from scratch: at the rates
# of the FROC each of its dozens of slices would add half a box or more (docs/synthetic.md counts marks in scans).
SCAN_FPS_PER_IMAGE, SCRATCH_FPS_PER_IMAGE = 0.02, 0.004
BOX_THRESHOLD = 0.1
# Scans to mark lesions in: one has six lesions, too few to judge by.
NUM_SCANS = 4
NUM_SLICES = 9
# Options, the value that leaves the choice to the demo, what it then takes from ``models/synthetic.pt`` and at random.
CHOICES = (("num_train", 0, 480, 2000), ("whole_series", -1, 10, 0), ("max_epochs", 0, 2, 8))
# Share of images without a lesion where there are series that are labelled on every slice.
BACKGROUND = 0.25


@dataclass(frozen=True)
class Plan:
    """The data, the network and the training of the demo.

    Attributes:
        output: Folder of everything.
        num_slices: Slices that the network reads; 1 gives the comparison without 3D context.
        from_scratch: Whether a narrower network starts at random, on more images and for longer; otherwise the network
            of ``models/synthetic.pt`` is trained further.
        num_train: Key slices for training; 0 for 2000 from scratch and 480 otherwise.
        num_validation: Key slices for choosing weights and the score threshold.
        num_test: Key slices for the reported figures, not used for any choice.
        whole_series: Series for training that are labelled on every slice, in addition to the key slices; a quarter of
            the training images then have no lesion. -1 for none from scratch and 10 otherwise.
        max_epochs: Epochs of training; 0 for 8 from scratch and 2 otherwise.
        processes: Processes that train together, which divide a batch among them; 0 for two on a CPU with two cores
            or more, where a network this narrow trains 1.8 times as fast as in one, and one otherwise.
        seed: Seed of data and training.

    Raises:
        ValueError: If a batch of 8 cannot be divided by the processes, or the network or the images are not those that
            the start allows.
    """

    output: Path
    num_slices: int = 9
    from_scratch: bool = False
    num_train: int = 0
    num_validation: int = 250
    num_test: int = 400
    whole_series: int = -1
    max_epochs: int = 0
    processes: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Fill in the numbers that depend on the start, and check them."""
        if not self.from_scratch and self.num_slices != NUM_SLICES:
            raise ValueError(
                f"Expected {NUM_SLICES} slices, those of the network in {START}, got {self.num_slices!r}: other "
                "numbers need --from_scratch."
            )
        if not self.from_scratch and self.seed in START_SEEDS:
            raise ValueError(f"Expected another seed than {self.seed}: {START} was trained on its images.")
        for name, unset, start, scratch in CHOICES:
            if getattr(self, name) == unset:
                object.__setattr__(self, name, scratch if self.from_scratch else start)
        if self.processes == 0:
            cores = 1 if torch.cuda.is_available() else torch.get_num_threads()
            object.__setattr__(self, "processes", min(cores, 2))
        if self.processes < 1 or BATCH % self.processes:
            raise ValueError(f"Expected a number of processes that divides {BATCH}, got {self.processes!r}.")

    @property
    def data(self) -> Path:
        """Folder of the data set."""
        return self.output / "synthetic"

    @property
    def scans(self) -> Path:
        """Folder of the CTs for trying the weights; the truth of each is next to it as JSON."""
        return self.data / "scans"

    @property
    def marked(self) -> Path:
        """Folder of the lesions that were marked in them, a folder for each."""
        return self.output / "scans"

    @property
    def training(self) -> Path:
        """Folder of the training run."""
        return self.output / "training"

    @property
    def weights(self) -> Path:
        """The best weights of the training run."""
        return self.training / "model.pt"


def make_data(plan: Plan) -> None:
    """Write the synthetic data set, or keep the one there if it is the same.

    Raises:
        FileExistsError: If the folder has other content.
        OSError: If writing fails.
    """
    sizes = {"num_train": plan.num_train, "num_validation": plan.num_validation, "num_test": plan.num_test}
    # Nine slices at 2.5 mm reach 10 mm from the key slice: more is never read.
    settings = {**sizes, "margin_mm": 10.0, "num_scans": NUM_SCANS, "whole_series": plan.whole_series}
    marker = plan.data / SYNTHETIC
    wanted = json.loads(json.dumps(description(resolve("small", settings), plan.seed)))
    if marker.is_file() and json.loads(marker.read_text()) == wanted:
        print(f"Keeping the synthetic data set in {plan.data}.", flush=True)
        return
    generate(plan.data, "small", seed=plan.seed, overwrite=marker.is_file(), **settings)


def bundle_command(workflow: str, configs: Sequence[str], options: Mapping[str, Any], processes: int = 1) -> list[str]:
    """Command line of ``python -m monai.bundle run``, in more than one process by torchrun."""
    files = configs[0] if len(configs) == 1 else str(list(configs))
    words = [sys.executable, "-m", "monai.bundle", "run", workflow, "--config_file", files]
    if processes > 1:
        # By number, because a machine's own name need not have an address.
        together = ["torch.distributed.run", "--standalone", "--local_addr=127.0.0.1", f"--nproc_per_node={processes}"]
        words[1:1] = ["-m", *together]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    return words


def run(title: str, command: Sequence[str], threads: int | None = None) -> float:
    """Print and run a command.

    Args:
        title: What it does.
        command: Its words.
        threads: Threads of each of its processes, as torchrun would choose them with a warning; as many as by default
            if None.

    Returns:
        Seconds it took.

    Raises:
        SystemExit: If it fails.
    """
    print(f"\n== {title}\n{shlex.join(['python', *command[1:]])}\n", flush=True)
    start = time.monotonic()
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    status = run_command(command, environment)
    if status:
        sys.exit(f"The demo stopped: {title.lower()} ended with exit status {status}; its message is above.")
    return time.monotonic() - start


def settings_command(plan: Plan) -> list[str]:
    """Command line that stores thresholds and calibration for inference with the weights."""
    words = [sys.executable, "-m", "scripts.operating_points", "--checkpoint", str(plan.weights)]
    default = SCRATCH_FPS_PER_IMAGE if plan.from_scratch else SCAN_FPS_PER_IMAGE
    words += ["--evaluation", str(plan.training / "validation"), "--default", str(default)]
    return [*words, "--box_threshold", str(BOX_THRESHOLD)]


def overlay_paths(plan: Plan) -> list[str]:
    """Config files of the training run, in order."""
    several = ["configs/multi_gpu_train.json"] if plan.processes > 1 else []
    names = OVERLAYS if plan.from_scratch else (*OVERLAYS, START_OVERLAY)
    return ["configs/train.json", *several, *(f"configs/variants/{name}.yaml" for name in names)]


def train(plan: Plan) -> dict[str, float]:
    """Train, then choose thresholds and a calibration on the validation split.

    Returns:
        Seconds by step.
    """
    options = {"dataset_dir": plan.data, "seed": plan.seed, "num_slices": plan.num_slices}
    training = {**options, "output_dir": plan.training, "max_epochs": plan.max_epochs, "notice": NOTICE}
    if plan.whole_series:
        training["background_fraction"] = BACKGROUND
    if plan.processes > 1:
        training |= {"batch_size": BATCH // plan.processes, "num_workers": 1}
    command = bundle_command("training", overlay_paths(plan), training, plan.processes)
    title = "Training from scratch" if plan.from_scratch else f"Training further from {START}"
    seconds = {"training": run(title, command, 1 if plan.processes > 1 else None)}
    seconds["validation"] = run("Scoring on the validation split", _evaluation(plan, "validation"))
    seconds["thresholds"] = run("Storing thresholds and a calibration with the weights", settings_command(plan))
    return seconds


def _evaluation(plan: Plan, split: str) -> list[str]:
    folder = plan.output if split == "test" else plan.training / split
    options = {"dataset_dir": plan.data, "checkpoint": plan.weights, "split": split, "output_dir": folder}
    more: dict[str, Any] = {"batch_size": BATCH}
    if split != "test":
        more |= {"gallery_images": 0, "bootstrap_resamples": 0}
    return bundle_command("evaluating", ["configs/evaluate.json"], {**options, **more})


def outcome_in_scans(plan: Plan) -> tuple[int, int, int]:
    """Compare the marked lesions with the true ones of the scans, by the overlap of the 3D protocol.

    Returns:
        Lesions found, lesions in the scans, and marks without a lesion.
    """
    found = lesions = false = 0
    for path in sorted(plan.scans.glob("*.json")):
        truth = json.loads(path.read_text())["lesions"]
        marked = json.loads((plan.marked / path.stem / "lesions.json").read_text())["lesions"]
        overlaps = pairwise_overlap(
            np.array([lesion["box_lps_mm"] for lesion in marked]),
            np.array([lesion["box_lps_mm"] for lesion in truth]),
            dimension="3D",
            overlap=OFFICIAL.overlap,
            extra=0.0,
        )
        hits = overlaps >= OFFICIAL.threshold
        found, lesions = found + int(hits.any(axis=0).sum()), lesions + len(truth)
        false += int((~hits.any(axis=1)).sum())
    return found, lesions, false


def summarise(plan: Plan, seconds: Mapping[str, float]) -> str:
    """The closing lines: figures, pictures, times."""
    metrics = json.loads((plan.output / "metrics.json").read_text())
    hits, lesions, false_marks = outcome_in_scans(plan)
    found = ", ".join(f"{100 * metrics['sensitivity'][fps]:.1f} % at {fps}" for fps in ("0.5", "1", "2", "4"))
    return "\n".join(
        [
            "",
            f"Done in {sum(seconds.values()) / 60:.1f} min: " + ", ".join(f"{k} {v:.0f} s" for k, v in seconds.items()),
            f"Lesions found on the synthetic test split, by false positives per image: {found}.",
            f"In {NUM_SCANS} synthetic CTs outside the splits: {hits} of {lesions} lesions found, {false_marks} false "
            f"marks (3D IoBB {OFFICIAL.threshold}).",
            *([] if plan.from_scratch else [f"The network started from {START}, trained on other synthetic images."]),
            "All of this is synthetic and has no relation to accuracy on DeepLesion or on patients.",
            f"Look at {plan.output}: froc.png, gallery/index.html and metrics.json for the test split; report.html, "
            "lesions.json, detections.json and overlays/ for each scan in scans/; "
            "`tensorboard --logdir training/tensorboard`.",
        ]
    )


def main(output: str = "../runs/demo", *, from_scratch: bool = False, keep_weights: str = "", **sizes: int) -> None:
    """Train, score and run a small detector on synthetic CT.

    Args:
        output: Folder for everything; the same command resumes a run that was interrupted.
        from_scratch: Start a narrower network at random in place of ``models/synthetic.pt``; takes three times as long.
        keep_weights: File to copy the weights to, e.g. models/demo.pt; none if empty.
        sizes: num_slices (odd; others than 9 from scratch), num_train, num_validation, num_test, whole_series,
            max_epochs, processes, seed (of data and training).

    Raises:
        ValueError: If a number is impossible, an option is unknown, or the working folder is not the bundle's.
        OSError: If the data cannot be written.
        SystemExit: If a step fails.
    """
    known = [field.name for field in dataclasses.fields(Plan) if field.name not in ("output", "from_scratch")]
    unknown = sorted(set(sizes) - set(known))
    if unknown:
        raise ValueError(f"Expected options among {', '.join(known)}, got {unknown[0]!r}.")
    if not Path("configs/train.json").is_file():
        raise ValueError(f"Expected the bundle's folder as the working folder of the demo, got {Path.cwd()}.")
    plan = Plan(Path(output), from_scratch=from_scratch, **sizes)
    start = time.monotonic()
    print(
        f"== Synthetic data: {plan.num_train + plan.num_validation + plan.num_test} key slices and {NUM_SCANS} scans",
        flush=True,
    )
    make_data(plan)
    seconds = {"data": time.monotonic() - start, **train(plan)}
    seconds["test"] = run("Scoring on the test split", _evaluation(plan, "test"))
    options = {"input": plan.scans, "checkpoint": plan.weights, "output_dir": plan.marked}
    seconds["inference"] = run(
        "Marking lesions in scans", bundle_command("inferring", ["configs/inference.json"], options)
    )
    if keep_weights:
        shutil.copyfile(plan.weights, keep_weights)
    print(summarise(plan, seconds))
