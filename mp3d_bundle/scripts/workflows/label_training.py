"""Train served weights further on scans whose lesions were boxed in a viewer, and put the result in their place.

    python -m scripts.workflows.label_training --order ORDER.json --answer ANSWER.json

Run from the bundle's folder; MONAI Label's app runs it for ``POST /train``. ORDER.json holds a `TrainingRequest`. The
training is that of ``configs/train.json`` with the network, the pixel size and the weights of the served file. The
weights that were there before stay next to it as ``previous.pt``.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, TypedDict

import fire
import numpy as np
from monai.bundle import ConfigWorkflow

from ..data.deeplesion.dataset_from_scans import LabelledScan, read_labelled, write_labelled
from ..error_lines import root_error
from ..inference.volume_detector import PlaneScale
from ..recipe import KEY, Recipe, fit_for, stored_recipe
from ..storage.atomic_files import replacing, sha256
from ..storage.output_folder import scratch_folder
from ..training.resuming.stopping import Stopped
from ..weights import build_network, load_state, read_weights, save_weights

logger = logging.getLogger(__name__)

PREVIOUS = "previous.pt"
ADDED = " Trained further on "
# What still holds for weights that were trained further; thresholds by false positives and probabilities were
# measured with the weights as they were before.
KEPT = ("pixel_spacing", "image_size", "box_threshold", "score_threshold")
WARMUP = 20
# Next to the weights: slices of patients and the run, while a training runs.
SCRATCH = ".label_training"


class TrainingRequest(TypedDict):
    """What to train on and how.

    Attributes:
        items: The scans, each an ``image``, a CT, and a ``label``, Slicer markups.
        weights: Weights file to begin with and to replace.
        max_epochs: Epochs.
        val_split: Share of the scans for validation.
        learning_rate: Learning rate of a batch.
        batch_size: Images of a batch.
        device: Where the network is trained.
    """

    items: list[dict[str, Any]]
    weights: str
    max_epochs: int
    val_split: float
    learning_rate: float
    batch_size: int
    device: str


@dataclass(frozen=True)
class Served:
    """A weights file and what it holds.

    Attributes:
        path: The file.
        definition: Of its network.
        model: Its tensors.
        info: What it says of itself.
    """

    path: Path
    definition: Mapping[str, Any]
    model: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What inference needs to know of these weights."""
        return self.info.get("inference", {})

    @cached_property
    def recipe(self) -> Recipe:
        """What the network sees, on CT.

        Raises:
            ValueError: If the definition builds no network, or the recipe cannot be used.
        """
        network = build_network(self.definition, str(self.path), device="meta")
        found = stored_recipe(self.info, str(self.path), network=network)
        return fit_for(found, str(self.path), photographs=False)

    @property
    def plane(self) -> PlaneScale:
        """How large a slice is shown to the network."""
        spacing = self.settings.get("pixel_spacing", self.recipe.pixel_spacing)
        size = self.settings.get("image_size", self.recipe.test_scale)
        return PlaneScale(spacing, size, self.recipe.stored_size if size == self.recipe.test_scale else None)


def read_served(path: str | Path) -> Served:
    """Read a weights file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a weights file.
    """
    content = read_weights(path)
    return Served(Path(path), content["network"], content["model"], content["info"])


def choose_validation(count: int, share: float, seed: int = 0) -> set[int]:
    """Which of ``count`` scans are for validation: ``share`` of them, at least one left to train on."""
    chosen = min(round(count * share), count - 1)
    return {int(index) for index in np.random.default_rng(seed).permutation(count)[:chosen]}


def train(request: TrainingRequest) -> dict[str, Any]:
    """Run a training request.

    Args:
        request: What to train on and how.

    Returns:
        Counts of what was trained on, and facts of the new weights.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If labels, scans or weights cannot be used, or the weights distinguish several classes.
        Stopped: If SIGTERM or Ctrl-C ends it; the served weights are then as they were.
    """
    names = read_served(request["weights"]).recipe.classes  # before a lock is put next to them
    if len(names) > 1:
        raise ValueError(
            f"Expected weights of one class to train, as boxes drawn in MONAI Label have no class, got weights of "
            f"{len(names)}: {', '.join(names)}."
        )
    # Of two trainings that begin with the same weights, the second would replace what the first has learnt.
    with scratch_folder(Path(request["weights"]).parent, SCRATCH, "a training of MONAI Label") as folder:
        return _train(request, folder)


def _train(request: TrainingRequest, folder: Path) -> dict[str, Any]:
    served = read_served(request["weights"])
    plane, recipe = served.plane, served.recipe
    scans = read_labelled(request["items"], plane.size)
    validation = choose_validation(len(scans), float(request["val_split"]))
    reach = recipe.num_slices // 2 * (recipe.slice_spacing or 0.0)
    smooth = plane.pixel_spacing is not None
    side = write_labelled(folder / "data", scans, validation=validation, reach_mm=reach, smooth=smooth)
    if not validation:
        logger.info("Too few scans to keep one for validation: the weights of the last epoch are taken.")
    _run(served, request, folder, side, validated=bool(validation))
    return _adopt(served, folder / "run" / "model.pt", scans, validation)


def _run(served: Served, request: TrainingRequest, folder: Path, side: int, *, validated: bool) -> None:
    """Train with the bundle's own config, from the served weights."""
    epochs, recipe = int(request["max_epochs"]), served.recipe
    changes = {
        "network_def": dict(served.definition),
        "num_slices": recipe.num_slices,
        "z_mode": recipe.z_mode,
        "slab_reader#spacing": recipe.slice_spacing,
        "window": {
            "_target_": "scripts.data.intensity.IntensityWindow",
            "low": recipe.window[0],
            "high": recipe.window[1],
            "mean": recipe.mean,
            "std": recipe.std,
        },
        "dataset_dir": str(folder / "data"),
        "output_dir": str(folder / "run"),
        "device": str(request["device"]),
        "max_epochs": epochs,
        "lr_scheduler#milestones": [max(1, 2 * epochs // 3)],
        "val_interval": 1 if validated else epochs + 1,
        "log_interval": 10,
        "base_learning_rate": float(request["learning_rate"]),
        "learning_rate#reference_batch": int(request["batch_size"]),
        "lr_scheduler#warmup_iterations": WARMUP,
        "batch_size": int(request["batch_size"]),
        "train_scales": [side],
        "test_scale": side,
        "num_workers": 0,
        # The run's folder does not outlive this process.
        "checkpoint_interval": 0,
        "notice": served.info.get("notice"),
    }
    flow = ConfigWorkflow(
        config_file="configs/train.json",
        meta_file="configs/metadata.json",
        logging_file=False,
        run_id="training",
        workflow_type="train",
        **changes,
    )
    flow.initialize()
    load_state(flow.parser.get_parsed_content("network_def"), served.model, str(served.path))
    flow.run()
    flow.finalize()


def _adopt(served: Served, new: Path, scans: Sequence[LabelledScan], validation: set[int]) -> dict[str, Any]:
    """Put new weights in the place of the served ones, which stay next to them."""
    trained = read_served(new)
    network = build_network(trained.definition, str(new))
    load_state(network, trained.model, str(new))
    counts = {
        "scans": len(scans),
        "boxes": sum(len(scan.boxes) for scan in scans),
        "key_slices": sum(len(scan.keys) for scan in scans),
        "validation_scans": len(validation),
    }
    before = str(served.info.get("notice") or "").split(ADDED)[0]
    notice = f"{before}{ADDED}{counts['scans']} scan(s) with {counts['boxes']} box(es) in MONAI Label.".strip()
    inference = {name: served.settings[name] for name in KEPT if name in served.settings}
    # Labels were drawn at the pixel size that the weights were made for, however few scans there are.
    recipe = served.recipe.plain()
    info = {**trained.info, KEY: recipe, "notice": notice, "inference": inference, "label_training": counts}
    with replacing(served.path.with_name(PREVIOUS)) as part:
        shutil.copy2(served.path, part)
    save_weights(served.path, network, trained.definition, info)
    facts = {name: info[name] for name in ("epoch", "mean_sensitivity") if name in info}
    return {**counts, **facts, "weights": served.path.name, "sha256": sha256(served.path), "notice": notice}


def main(order: str, answer: str) -> None:
    """Run a training request.

    Args:
        order: JSON file with the request.
        answer: JSON file to write.

    Raises:
        SystemExit: With one line, if it cannot be done.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # The folder of the run is removed then too.
    signal.signal(signal.SIGTERM, _stop)
    try:
        done = train(json.loads(Path(order).read_text(encoding="utf-8")))
    except Stopped as stop:
        sys.stderr.write(f"Training {stop}; the weights are as they were.\n")
        raise
    except Exception as error:
        cause = root_error(error)
        if not isinstance(cause, (OSError, ValueError, ArithmeticError)):
            raise
        sys.exit(" ".join(str(cause).split()))
    Path(answer).write_text(json.dumps(done), encoding="utf-8")


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    fire.Fire(main)
