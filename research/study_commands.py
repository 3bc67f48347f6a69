"""From a setting to the commands of its training and evaluation, as a user would type them.

Commands of the bundle run from the bundle's folder, those of `research` from the repository's root. A file below the
bundle's folder is named relative to it; any other path is absolute, so that it holds in both.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from research.study_plan import Profile, Setting, Study
from scripts.storage.atomic_files import sha256

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "mp3d_bundle"
EPOCHS_1X = 12
PRETRAINING = "pretraining"
_LABELS = ("DL_info.csv", "deeplesion_train.json")
# Modules that have moved, so that records of runs from before stay valid.
_MOVED = {"research.natural_images": "scripts.natural_images"}


@dataclass(frozen=True)
class Places:
    """Where a study reads and writes.

    Attributes:
        dataset_dir: Folder of the data set, absolute.
        output: Folder of the study, absolute.
    """

    dataset_dir: Path
    output: Path

    @property
    def natural(self) -> Path:
        """Stand-in of natural images for a pre-training that the study makes itself."""
        return self.output / PRETRAINING / "images"

    @property
    def pretrained(self) -> Path:
        """Weights of that pre-training."""
        return self.output / PRETRAINING / "training" / "model.pt"


@dataclass(frozen=True)
class Options:
    """What the user asked of all runs.

    Attributes:
        extra: Overlay files put on top of everything.
        training: Options passed on to every training.
        evaluation: Options passed on to every evaluation.
        epochs_1x: Epochs of the 1x schedule in place of the profile's.
        weights: Weights file of the pre-trained rows in place of the profile's; rows that name one of their own, as
            that of another body, keep it.
        imagenet: File with torchvision's ResNet-50 for the 2D baselines; None to download it.
    """

    extra: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    epochs_1x: int | None = None
    weights: str | None = None
    imagenet: str | None = None


@dataclass(frozen=True)
class Run:
    """One training with its evaluation, or the pre-training.

    Attributes:
        key: Name of what is run.
        folder: Folder of everything that it writes.
        steps: Name and words of each command, in order.
        seed: Its seed.
        rate: Learning rate, None for that of the overlays.
        needs: File that has to be there first, relative to the bundle's folder.
        made_here: Whether an earlier run of the study makes that file.
    """

    key: str
    folder: Path
    steps: Mapping[str, tuple[str, ...]]
    seed: int = 0
    rate: float | None = None
    needs: Path | None = None
    made_here: bool = False

    def fingerprint(self, places: Places) -> str:
        """SHA-256 of the commands and of the data set's description, independent of where both lie."""
        commands = {
            name: [_placeless(_MOVED.get(word, word), places) for word in words[1:]]
            for name, words in self.steps.items()
        }
        text = json.dumps([commands, data_fingerprint(places.dataset_dir)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def files(self, places: Places) -> dict[str, str]:
        """SHA-256 by name of overlays, weights and labels of sets that the commands read, but the bundle's configs.

        Files that are not there yet are left out, as are those that the run makes itself.
        """
        found = {}
        for words in self.steps.values():
            for name in (name for word in words[1:] for name in _names(word)):
                path = folder_of(words) / name
                for file in (path, *(path / labels for labels in _LABELS)):
                    own = any(file.is_relative_to(folder) for folder in (self.folder, BUNDLE / "configs"))
                    if not own and os.path.isfile(file):
                        about = file.stat()
                        found[_placeless(str(file), places)] = _sha256(file, about.st_size, about.st_mtime_ns)
        return found


def _names(word: str) -> list[str]:
    """What may be the names of files in a word; a list of configs has several."""
    return re.findall(r"'([^']+)'", word) if word.startswith("[") else [word]


@lru_cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """The hash of a file as it is now; it is asked for with every look at a run."""
    del size, changed
    return sha256(path)


def _placeless(word: str, places: Places) -> str:
    # The longer path first: one of them may begin with the other.
    names = {str(places.output): "OUTPUT", str(places.dataset_dir): "DATA"}
    for path in sorted(names, key=len, reverse=True):
        word = word.replace(path, names[path])
    return word


def data_fingerprint(folder: Path) -> str:
    """SHA-256 of what identifies a data set: the description of a synthetic one, or the labels.

    Raises:
        FileNotFoundError: If the folder or its labels are not there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a data set folder at {folder}, but the folder does not exist.")
    names = ("synthetic.json", *_LABELS)
    for name in names:
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    raise FileNotFoundError(f"Expected one of {', '.join(names)} in {folder}, found none: is it a data set?")


def folder_of(words: Sequence[str]) -> Path:
    """The folder from which a command runs."""
    return ROOT if any(word.startswith(f"{__package__}.") for word in words[:3]) else BUNDLE


def bundle_file(path: str | Path) -> str:
    """A path as commands name it: relative to the bundle's folder where it lies below, absolute elsewhere.

    Args:
        path: Relative to the working folder.
    """
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(BUNDLE)) if absolute.is_relative_to(BUNDLE) else str(absolute)


def text_of(words: Sequence[str]) -> str:
    """A command as typed in a shell, with ``python`` for the interpreter."""
    return " ".join(_quoted("python" if word == sys.executable else word) for word in words)


def _quoted(word: str) -> str:
    """A word as a person would quote it: a list of configs in double quotes."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def overlay_file(name: str) -> str:
    """Path of an overlay, which may be given as a path or as a name in ``configs/variants``; see `bundle_file`."""
    return name if name.endswith((".yaml", ".json")) else f"configs/variants/{name}.yaml"


def bundle_words(workflow: str, configs: Sequence[str], options: Mapping[str, Any]) -> tuple[str, ...]:
    """Words of ``python -m monai.bundle run``."""
    files = configs[0] if len(configs) == 1 else "[" + ",".join(f"'{name}'" for name in configs) + "]"
    words = [sys.executable, "-m", "monai.bundle", "run", workflow, "--config_file", files]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    return tuple(words)


@dataclass(frozen=True)
class Planner:
    """Makes the runs of settings.

    Attributes:
        study: The tables.
        profile: How settings become commands.
        places: Where to read and write.
        options: What the user asked of all runs.
    """

    study: Study
    profile: Profile
    places: Places
    options: Options = field(default_factory=Options)

    @property
    def epochs_1x(self) -> int | None:
        """Epochs of the 1x schedule; None where the overlays say it."""
        return self.options.epochs_1x or self.profile.epochs_1x

    def run(self, setting: Setting, seed: int, rate: float | None = None) -> Run:
        """The run of a setting with one seed and learning rate."""
        folder = self.places.output / "runs" / setting.key / ("" if rate is None else f"rate_{rate:g}") / f"seed_{seed}"
        weights, made_here = self._weights(setting)
        return Run(
            key=setting.key,
            folder=folder,
            steps={
                "training": self._training(setting, folder / "training", seed=seed, rate=rate),
                "evaluating": self._evaluation(setting, folder, seed),
            },
            seed=seed,
            rate=rate,
            needs=weights,
            made_here=made_here,
        )

    def _overlays(self, setting: Setting, first: Sequence[str] = ()) -> list[str]:
        more = self.profile.imagenet_overlays if setting.start == "imagenet" else ()
        own = self.profile.own_sizes.get(setting.name)
        size = self.profile.size if own is None else ()
        return [*size, *first, *setting.overlays, *more, *(own or ())]

    def _weights(self, setting: Setting) -> tuple[Path | None, bool]:
        if setting.start != "pretrained":
            return None, False
        common = self.options.weights or self.profile.weights
        chosen = (setting.weights or common) if common else None
        return (Path(chosen), False) if chosen else (self.places.pretrained, True)

    def _training(self, setting: Setting, folder: Path, *, seed: int, rate: float | None) -> tuple[str, ...]:
        overlays = self._overlays(setting, self.profile.overlays)
        options: dict[str, Any] = {"dataset_dir": self.places.dataset_dir, "output_dir": folder, "seed": seed}
        options |= {**self.profile.training_options, **self.profile.setting_options.get(setting.name, {})}
        units = self.study.schedules[setting.schedule]
        if self.epochs_1x is not None:
            epochs = units * self.epochs_1x
            # One validation at the end: weights are those of the last epoch, as the schedule ends in a rate of zero.
            options |= {"max_epochs": epochs, "val_interval": epochs}
        elif setting.schedule != "2x":
            overlays.append(f"schedule_{setting.schedule}")
        if setting.share != 100:
            overlays.append(f"subset_{setting.share}")
        weights, _ = self._weights(setting)
        if weights is not None:
            options["pretrained"] = weights
        if setting.start == "imagenet" and self.options.imagenet is not None:
            options["imagenet"] = self.options.imagenet
        if rate is not None:
            options |= dict.fromkeys(self.profile.rate_keys, rate)
        configs = ["configs/train.json", *map(overlay_file, [*overlays, *self.options.extra])]
        return bundle_words("training", configs, {**options, **self.options.training})

    def _evaluation(self, setting: Setting, folder: Path, seed: int) -> tuple[str, ...]:
        overlays = [*self._overlays(setting), *self.options.extra]
        options = {
            "dataset_dir": self.places.dataset_dir,
            "checkpoint": folder / "training" / "model.pt",
            "output_dir": folder / "evaluation",
            "seed": seed,
        }
        configs = ["configs/evaluate.json", *map(overlay_file, overlays)]
        options |= {**self.profile.evaluation_options, **self.profile.setting_options.get(setting.name, {})}
        return bundle_words("evaluating", configs, {**options, **self.options.evaluation})
