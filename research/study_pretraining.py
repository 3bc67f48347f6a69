"""The study's own pre-training: on a synthetic stand-in of natural images, for when no weights are available."""

from __future__ import annotations

import sys

from research.natural_images_set import ABOUT, CLASSES
from research.study_commands import EPOCHS_1X, PRETRAINING, Planner, Run, bundle_words, overlay_file


def pretraining_run(planner: Planner) -> Run:
    """The run that makes the weights from which the profile's pre-trained rows start (paper section 2.2).

    Coloured images are drawn and a detector with three slices, the colour channels, learns to find and name the
    shapes in them; see `research.natural_images_set`.
    """
    places, profile = planner.places, planner.profile
    folder = places.output / PRETRAINING
    overlays = [name for name in profile.overlays if name != "demo"]
    # 72 epochs in the paper, as many as the 6x schedule.
    epochs = planner.study.schedules["6x"] * (planner.epochs_1x or EPOCHS_1X)
    options = {"dataset_dir": places.natural, "output_dir": folder / "training", "notice": ABOUT}
    options |= {"num_classes": len(CLASSES), **profile.training_options}
    options |= {"max_epochs": epochs, "val_interval": epochs}
    configs = ["configs/train.json", "configs/pretrain_coco.json", *map(overlay_file, overlays)]
    draw = (sys.executable, "-m", "research.natural_images", "--output", str(places.natural))
    return Run(PRETRAINING, folder, {"images": draw, "training": bundle_words("training", configs, options)})
