"""The options of all workflows: what each of them may be, stated once and checked before data are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from ..command_words import MARKS
from ..data.scans.scan_shards import shard_numbers
from ..data.slabs.z_lattice import LATTICES

# Top-level keys that hold a path, a list of paths or another text, and are taken as the user typed them.
TEXTS = (
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "checkpoint", "pretrained", "imagenet", "input"),
    *("annotations", "labels", "predictions", "images", "train_annotations", "train_images", "val_annotations"),
    *("val_images", "series", "model_name", "notice", "tags", "review", "shard", "mined", "hard_negatives"),
)


@dataclass(frozen=True)
class Rule:
    """What an option may be.

    Attributes:
        words: That in words, after "Expected".
        fits: Whether a value is so.
    """

    words: str
    fits: Callable[[Any], bool]


def whole(low: int, high: int | None = None) -> Rule:
    """A whole number within bounds, both included; True is not one."""
    words = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    return Rule(words, lambda value: type(value) is int and low <= value and (high is None or value <= high))


def number(low: float, high: float = math.inf, *, above: bool = False) -> Rule:
    """A finite number within bounds, both included; with ``above`` the lower one is not."""
    first = f"above {low:g}" if above else f"of at least {low:g}"
    words = f"a number {first}" + ("" if math.isinf(high) else f" and at most {high:g}")

    def fits(value: Any) -> bool:
        real = type(value) in (int, float) and abs(value) < 1e300
        return real and (low < value if above else low <= value) and value <= high

    return Rule(words, fits)


def several(rule: Rule, *, least: int = 0, most: int | None = None) -> Rule:
    """A list whose entries all follow a rule."""
    count = "" if not least else f" ({least} of them)" if most == least else f" (at least {least})"

    def fits(value: Any) -> bool:
        sized = isinstance(value, (list, tuple)) and least <= len(value) <= (len(value) if most is None else most)
        return sized and all(rule.fits(entry) for entry in value)

    return Rule(f"a list{count}, each entry {rule.words}", fits)


def one_of(*names: str) -> Rule:
    """One of some words."""
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def optional(rule: Rule) -> Rule:
    """What a rule says, or None."""
    return Rule(f"{rule.words}, or None", lambda value: value is None or rule.fits(value))


def either(first: Rule, second: Rule) -> Rule:
    """What one of two rules says."""
    return Rule(f"{first.words}, or {second.words}", lambda value: first.fits(value) or second.fits(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, PathLike)) and bool(str(value).strip())


def _is_share(value: str) -> bool:
    try:
        return bool(shard_numbers(value))
    except ValueError:
        return False


SWITCH = Rule("True or False", lambda value: type(value) is bool)
PATH = Rule("a path", _is_text)
PATHS = Rule(
    "a path or a list of paths",
    lambda value: all(map(_is_text, value)) if isinstance(value, (list, tuple)) else value == "" or _is_text(value),
)
TEXT = Rule("a text", lambda value: isinstance(value, str))
SHARE = number(0, 1)
SHARE_OF_A_LIST = Rule(
    "a share i/n with i from 0 to n - 1, such as 0/4", lambda value: isinstance(value, str) and _is_share(value)
)
LENGTH = number(0, 1000, above=True)
PIXELS = whole(1, 16384)
ODD = Rule("an odd number of slices, at least 1", lambda value: type(value) is int and value > 0 and value % 2 == 1)
SEED = whole(0, 2**32 - 1)

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "checkpoint", "labels"), PATH),
    **dict.fromkeys(("images", "train_annotations", "train_images", "val_annotations", "val_images"), PATH),
    **dict.fromkeys(("pretrained", "imagenet", "predictions", "annotations", "tags", "review"), optional(PATH)),
    **dict.fromkeys(("mined", "hard_negatives"), optional(PATH)),
    "mined_as": optional(one_of("ignored", "lesions")),
    "mined_score": optional(SHARE),
    "mask_targets": optional(one_of("ellipses", "grabcut")),
    "input": PATHS,
    "series": optional(TEXT),
    "shard": optional(SHARE_OF_A_LIST),
    "send": optional(TEXT),
    "model_name": optional(TEXT),
    "notice": optional(TEXT),
    "pretrained_parts": one_of("body", "all"),
    "pretrained_transfer": one_of("fresh", "centre", "interpolated"),
    **dict.fromkeys(("seed", "subset_seed"), SEED),
    "frozen_stages": whole(0, 4),
    "body_rate": number(0),
    "early_stopping": optional(whole(1)),
    "num_slices": ODD,
    "num_classes": whole(1),
    "z_mode": one_of(*LATTICES),
    **dict.fromkeys(
        ("keep_noisy", "patients", "progress", "slice_overlays", "any_geometry", "overwrite", "read_ahead"), SWITCH
    ),
    **{
        name: Rule(f"{name} to be True or False", lambda value: str(value).lower() in ("true", "false"))
        for name in ("amp", "device_transforms")
    },
    "amp_dtype": one_of("float16", "bfloat16"),
    "precision": one_of("auto", "float32", "bfloat16"),
    "engine": one_of("auto", "torch", "openvino", "onnx", "tensorrt"),
    "missing_images": one_of("raise", "drop", "ignore"),
    # Label files of sub-volumes name their parts as they like; the readers name those that there are.
    "split": Rule("the name of a part of the data set", _is_text),
    "train_fraction": number(0, 1, above=True),
    "background_fraction": optional(number(0, 0.99)),
    "train_scales": several(PIXELS, least=1),
    **dict.fromkeys(("test_scale", "image_size"), PIXELS),
    **dict.fromkeys(("longest_side", "random_window"), optional(PIXELS)),
    **dict.fromkeys(("crop_border", "native_slices"), SWITCH),
    **dict.fromkeys(("flips#horizontal", "flips#vertical", "flips#z"), SHARE),
    **dict.fromkeys(
        ("batch_size", "accumulation_steps", "max_epochs", "val_interval", "log_interval", "sw_batch_size"), whole(1)
    ),
    **dict.fromkeys(("num_workers", "bootstrap_resamples", "gallery_images", "overlays"), whole(0)),
    "checkpoint_interval": optional(whole(0)),
    "images_per_pass": optional(whole(1)),
    "milestones": several(whole(1)),
    "recomputed_stages": several(whole(1, 4)),
    "epoch_length": Rule(
        "an expression, as an epoch is one pass over the training images (--train_fraction takes fewer of them),",
        lambda value: False,
    ),
    "base_learning_rate": number(0, above=True),
    # The one part that a plain number may replace: it is then the rate itself.
    "learning_rate": either(
        number(0, above=True), Rule("the part that computes it", lambda value: isinstance(value, Mapping))
    ),
    "max_gradient_norm": optional(number(0, above=True)),
    "slice_spacing": LENGTH,
    "pixel_spacing": optional(LENGTH),
    "spacing": optional(several(LENGTH, least=3, most=3)),
    "result_names": one_of("series", "place"),
    "hu_offset": optional(number(-100000, 100000)),
    "max_gigabytes": number(0, above=True),
    **dict.fromkeys(("box_threshold", "score_threshold"), SHARE),
    "patient_age": optional(number(0, 130, above=True)),
    "patient_sex": optional(one_of("M", "F")),
    "tag_threshold": optional(either(SHARE, several(SHARE, least=1))),
    "extent": one_of("best", "enclosing"),
    "linking#min_iou": SHARE,
    "linking#max_gap": whole(0),
}


def rule_of(name: str, bases: list[Any]) -> Rule | None:
    """The rule of an option, or of the one that it stands for.

    Args:
        name: Its id, with ``#``.
        bases: Its values in the bundle's own configs: ``train#dataloader#batch_size`` is ``@batch_size`` there.
    """
    names = [name, *(base[1:].replace("::", "#") for base in bases if isinstance(base, str) and base[:1] == "@")]
    return next((RULES[known] for known in names if known in RULES), None)


def misfits(name: str, value: Any, bases: list[Any]) -> Iterator[str]:
    """Yield a complaint if a value is not what its key holds.

    Args:
        name: Id of the key, with ``#``.
        value: Its value; references and expressions pass.
        bases: Its values in the bundle's own configs.
    """
    if isinstance(value, str) and value.startswith(MARKS):
        return
    rule = rule_of(name, bases) or _plain_rule(name, bases)
    if rule is not None and not rule.fits(value):
        got = "no value" if isinstance(value, bool) and rule in (PATH, PATHS, RULES["pretrained"]) else repr(value)
        yield f"expected {rule.words} for config key {name}, got {got}"


def is_group(value: Any) -> bool:
    """Whether a value is a group of plain options, such as the chances of the flips: all its keys belong together."""
    plain = (bool, int, float, type(None))
    return isinstance(value, Mapping) and bool(value) and all(isinstance(each, plain) for each in value.values())


def _plain_rule(name: str, bases: list[Any]) -> Rule | None:
    """The rule that the kind of the bundle's own values makes, None if they are of several kinds."""
    # What one config computes, another one gives: the number of slices, for example.
    bases = [base for base in bases if not (isinstance(base, str) and base.startswith(MARKS))]
    finite = number(-math.inf)
    for kinds, rule in (
        ((bool,), SWITCH),
        ((int,), Rule("a whole number", lambda value: type(value) is int)),
        ((int, float), Rule("a number", finite.fits)),
    ):
        if bases and all(type(base) in kinds for base in bases):
            return rule
    groups = [base for base in bases if isinstance(base, Mapping) and "_target_" not in base]
    if groups and len(groups) == len(bases):
        names = ", ".join(sorted({str(key) for group in groups for key in group}))
        if not all(map(is_group, groups)):
            return Rule(f"the keys {names}", lambda value: isinstance(value, Mapping))
        key, one = next(iter(groups[0].items()))
        return Rule(
            f"the keys {names} (one alone is --{name}#{key} {one})",
            lambda value: isinstance(value, Mapping) and any(set(value) == set(group) for group in groups),
        )
    parts = [base for base in bases if isinstance(base, Mapping) and "_target_" in base]
    if parts and len(parts) == len(bases):
        names = ", ".join(sorted({str(key) for part in parts for key in part if key != "_target_"}))
        words = f"a part of the program and not a plain value (its settings, after a #: {names or 'none'})"
        return Rule(words, lambda value: value is None or isinstance(value, Mapping))
    return None
