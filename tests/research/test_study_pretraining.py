"""The study's own pre-training: its commands agree with the stand-in of natural images."""

from __future__ import annotations

from pathlib import Path

from research.natural_images_set import CLASSES
from research.study_pretraining import pretraining_run
from support.fake_runs import planner_in


def test_the_commands_fit_together(tmp_path: Path) -> None:
    planner = planner_in(tmp_path, epochs_1x=2)
    run = pretraining_run(planner)
    images, training = (list(words) for words in run.steps.values())
    assert images[images.index("--output") + 1] == training[training.index("--dataset_dir") + 1]
    assert training[training.index("--num_classes") + 1] == str(len(CLASSES))
    assert training[training.index("--max_epochs") + 1] == "12"
    weights = Path(training[training.index("--output_dir") + 1]) / "model.pt"
    assert weights == planner.places.pretrained
    setting = planner.study.resolve("4", "pretrained_2x", planner.profile)
    assert planner.run(setting, 0).needs == weights
