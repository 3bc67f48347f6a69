"""Configs: overlays change what exists, one axis each; the entry configs agree with one another."""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser

from scripts.configuration.read_keys import SHARED
from scripts.configuration.running_config import check_config
from scripts.error_lines import root_error

CONFIGS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "configs"
VARIANTS = [
    path for path in sorted(CONFIGS.glob("variants/*.yaml")) if not path.stem.startswith(("recipe_", "narrow_"))
]
ENTRIES = ["train", "evaluate", "evaluate_volumes", "inference"]
# These take the network from the weights file, whatever it is.
FROM_WEIGHTS = {"evaluate_volumes", "inference"}
# What the entry configs are for, so what they may differ in.
OWN = {"_desc_", "imports", "initialize", "run", "finalize", "output_dir", "handlers", "evaluator", "dataset"} | {
    "dataloader", "preprocessing", "postprocessing", "inferer", "key_metric", "network", "slab_reader", "linking",
    # Training gives the weights a recipe; the others take these from it.
    "recipe", "num_slices", "slice_spacing", "z_mode", "test_scale", "pixel_spacing", "window",
    "crop_border", "longest_side",
}  # fmt: skip


LOCATOR = ComponentLocator()
# Put on top of overlays of several axes, so no axis itself.
COMBINATIONS = {"demo"}
# The baselines bring a 2D network, a head and a number of slices of their own: they take the place of these axes.
FLAT = {"fpn", "retinanet"}
# The other published systems bring a whole network: nothing that shapes or starts one goes with them.
WHOLE = {"msb", "mvpnet", "3dce", "mulan", "alignshift", "tsm", "a3d", "satr"}
# What makes them narrow, which `size_narrow` cannot.
NARROW = {n: "narrow_dense" if n in ("alignshift", "tsm", "a3d", "mulan") else f"narrow_{n}" for n in WHOLE}
NOT_FLAT = {"slices", "head", "backbone", "pooling", "conversion", "pairs"}


def load(path: Path) -> dict[str, Any]:
    return ConfigParser.load_config_file(path)


def leaves(path: Path) -> dict[str, Any]:
    """What an overlay sets, key by key; "+KEY" sets each entry of its value under KEY."""
    found: dict[str, Any] = {}
    for key, value in load(path).items():
        if key == f"+{SHARED}":
            continue
        if key.startswith("+"):
            found |= {f"{key[1:]}#{name}": entry for name, entry in value.items()}
        else:
            found[key] = value
    return found


def variant(name: str) -> Path:
    return CONFIGS / "variants" / f"{name}.yaml"


def entry(name: str) -> ConfigParser:
    return ConfigParser(load(CONFIGS / f"{name}.json"))


def fits(base: ConfigParser, key: str) -> bool:
    """Whether ``key`` exists in ``base``, or is an argument of the target above it."""
    if key in base:
        return True
    parent, _, name = key.replace("#", "::").rpartition("::")
    node = base.get(parent) if parent else None
    if not isinstance(node, dict) or "_target_" not in node:
        return False
    component = ConfigComponent(dict(node), locator=LOCATOR)
    target: Any = locate(component.resolve_module_name())
    # A class that hands its keywords on to its base takes the base's arguments too.
    takers = [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)] if isinstance(
        target, type
    ) else [target]  # fmt: skip
    return any(name in inspect.signature(taker).parameters for taker in takers)


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node


def axis(path: Path) -> str:
    return path.stem.split("_")[0]


def combine(first: Path, second: Path) -> bool:
    """Whether two overlays are declared compatible; docs/rows.md has the rule."""
    axes = {axis(first), axis(second)}
    if COMBINATIONS & {first.stem, second.stem} or len(axes) == 1 or axes == FLAT:
        return False
    if axes & WHOLE and (axes <= WHOLE or axes & (FLAT | NOT_FLAT | {"size", "init"})):
        return False
    if {first.stem, second.stem} & {"init_imagenet"}:
        return not axes & NOT_FLAT
    return not (axes & FLAT and (axes & NOT_FLAT or "init_coco" in (first.stem, second.stem)))


# Overlays that differ in a number only; one of each represents all in the tests of every pair.
SERIES = {
    "slices": "slices_5",
    "subset": "subset_20",
    "schedule": "schedule_6x",
    "fpn": "fpn_3dce_9",
    "mvpnet": "mvpnet_3",
    "3dce": "3dce_3",
}
REPRESENTATIVES = [path for path in VARIANTS if SERIES.get(axis(path), path.stem) == path.stem]
PAIRS = [pair for pair in itertools.combinations(REPRESENTATIVES, 2) if combine(*pair)]
# Axes that change the network, so that pairs of them are worth building.
SHAPING = {"backbone", "conversion", "pooling", "slices", "head", "fpn", "retinanet", "size", "pairs"}


@pytest.mark.parametrize("path", [*VARIANTS, *CONFIGS.glob("multi_gpu_*.json")], ids=lambda path: path.stem)
def test_every_overlay_key_exists_in_an_entry_config(path: Path) -> None:
    # What init_imagenet sets is a matter of the 2D networks.
    bases = [*(entry(name) for name in ENTRIES), *(merged(variant(name)) for name in ("fpn_3dce_9", "retinanet_3"))]
    for key in leaves(path) if path in VARIANTS else load(path):
        assert key == "imports" or any(fits(base, key) for base in bases), key


def test_a_misspelt_overlay_key_would_be_noticed() -> None:
    base = entry("train")
    assert fits(base, "network_def#conversion")
    assert not fits(base, "network_def#convertion")
    assert not fits(base, "num_slice")
    assert not fits(base, "train#trainr#max_epochs")
    assert fits(base, "train#dataloader#prefetch_factor")
    assert not fits(base, "train#dataloader#prefetch")
    assert fits(base, "network_def#body#stem#depth")
    assert not fits(base, "network_def#body#stem#deep")
    assert not fits(base, "network_def#body#widht")


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_overlays_are_short_and_say_what_they_are(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 11
    assert sum(not line.startswith(("#", f"+{SHARED}")) for line in lines) <= 7
    for text in strings(load(path)):
        assert not re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", text), f"YAML reads {text} as text: write 1.0e-4"


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_overlays_of_a_row_name_table_row_and_number_at_once(path: Path) -> None:
    head = " ".join(line for line in path.read_text().splitlines()[:2] if line.startswith("#"))
    assert re.search(r"Tables? [1-5]\b|No row of the paper", head), head
    assert "No row" in head or re.search(r"\b[5-9]\d\.\d\d\b", head), head


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_several_gpus_start_as_one_does(name: str) -> None:
    steps = [load(CONFIGS / file)["initialize"] for file in (f"multi_gpu_{name}.json", f"{name}.json")]
    several, alone = ([step["_target_"] for step in each if isinstance(step, dict)] for each in steps)
    assert several == alone


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda path: path.stem)
def test_overlays_of_different_axes_do_not_disagree(first: Path, second: Path) -> None:
    ours, theirs = leaves(first), leaves(second)
    for key, value in ours.items():
        for other, wanted in theirs.items():
            assert key != other or value == wanted, key
            # A key that holds another one would win or lose by the order of the files.
            assert not f"{key}#".startswith(f"{other}#") or key == other, (key, other)
            assert not f"{other}#".startswith(f"{key}#") or key == other, (key, other)


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_one_of_a_series_stands_for_all(path: Path) -> None:
    assert set(leaves(path)) == set(leaves(variant(SERIES.get(axis(path), path.stem))))


@pytest.mark.parametrize("names", [("conversion_ctm", "pooling_isotropic"), ("fpn_3dce_9", "slices_9")])
def test_pairs_are_what_they_should_be(names: tuple[str, str]) -> None:
    """The rule itself: isotropic pooling crops too, and a baseline has its own number of slices."""
    first, second = (variant(name) for name in names)
    assert combine(first, second) == (names[0] == "conversion_ctm")


def test_most_overlays_combine() -> None:
    rows = {tuple(sorted((first.stem, second.stem))) for first, second in PAIRS}
    for pair in (
        ("backbone_mr3d", "slices_5"),
        ("fpn_3dce_9", "size_narrow"),
        ("init_coco", "subset_20"),
        ("fpn_3dce_9", "init_imagenet"),
        ("retinanet_3", "size_narrow"),
        ("backbone_mr3d", "pooling_isotropic"),
        ("schedule_6x", "subset_20"),
    ):
        assert pair in rows


def test_shared_keys_are_equal() -> None:
    configs = {name: load(CONFIGS / f"{name}.json") for name in ENTRIES}
    for first in ENTRIES:
        for second in ENTRIES:
            own = OWN | ({"network_def"} if FROM_WEIGHTS & {first, second} else set())
            for key in (set(configs[first]) & set(configs[second])) - own:
                assert configs[first][key] == configs[second][key], f"{key} in {first} and {second}"


@pytest.mark.parametrize(("name", "verb"), [("train", "training"), ("evaluate", "evaluating")])
def test_run_is_an_alias(name: str, verb: str) -> None:
    config = load(CONFIGS / f"{name}.json")
    assert config["run"] == config[verb]


@pytest.mark.parametrize("path", [CONFIGS / f"{name}.json" for name in ENTRIES] + VARIANTS, ids=lambda path: path.stem)
def test_no_macros(path: Path) -> None:
    assert not [text for text in strings(load(path)) if text.startswith("%")]


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_configs_pass_their_own_check(name: str) -> None:
    check_config(entry(name))


def test_the_papers_numbers_stand_in_the_config() -> None:
    config = load(CONFIGS / "train.json")
    assert (config["max_epochs"], config["base_learning_rate"], config["max_gradient_norm"]) == (24, 0.02, 35.0)
    assert config["learning_rate"]["reference_batch"] == 16
    assert (config["optimizer"]["momentum"], config["optimizer"]["weight_decay"]) == (0.9, 1e-4)
    assert config["milestones"] == [16, 22]
    assert config["flips"] == {"horizontal": 0.5, "vertical": 0.0, "z": 0.5}
    assert (config["train_scales"], config["test_scale"]) == ([448, 512, 576], 512)


def merged(*overlays: Path) -> ConfigParser:
    """The training config with the overlays on top; a 2D network for an overlay that is about 2D networks."""
    if variant("init_imagenet") in overlays and not FLAT & {axis(path) for path in overlays}:
        overlays = (variant("fpn_3dce_9"), *overlays)
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in (CONFIGS / "train.json", *overlays)]))
    parser["device"] = "cpu"
    return parser


def narrow(*overlays: Path) -> ConfigParser:
    """The training config with a small network, the overlays on top."""
    own = [variant(NARROW[axis(path)]) for path in overlays if axis(path) in NARROW]
    return merged(*([] if own else [variant("size_narrow")]), *overlays, *own)


def run_both_ways(parser: ConfigParser) -> None:
    """Losses, their gradients, and detections of one slab."""
    network = parser.get_parsed_content("network")
    precision = parser.get_parsed_content("arithmetic")
    slab = torch.zeros(parser["num_slices"], 64, 96)
    targets = [{"boxes": torch.tensor([[10.0, 20.0, 40.0, 50.0]]), "labels": torch.ones(1, dtype=torch.int64)}]
    targets[0]["masks"] = torch.ones(1, 28, 28)
    with precision.autocast():
        losses = network.train()([slab], targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(losses) >= 2
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(each.grad is not None for each in network.parameters() if each.requires_grad)
    with torch.no_grad(), precision.autocast():
        (found,) = network.eval()([slab])
    assert found["boxes"].shape == (len(found["scores"]), 4)


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_an_overlay_lists_what_only_training_reads(path: Path) -> None:
    files = [CONFIGS / "evaluate.json", *([variant("fpn_3dce_9")] if path.stem == "init_imagenet" else []), path]
    check_config(ConfigParser(ConfigParser.load_config_files(files)))
    shared = load(path).get(f"+{SHARED}", {})
    assert set(shared) <= set(leaves(path))
    assert set(shared.values()) <= {"training"}
    for key in shared:
        assert key in entry("train")
        config = ConfigParser.load_config_files(files)
        del config[SHARED][key]
        with pytest.raises(ValueError, match=key):
            check_config(ConfigParser(config))


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda path: path.stem)
def test_two_overlays_pass_the_check_together(first: Path, second: Path) -> None:
    check_config(merged(first, second))


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_every_overlay_builds_and_runs_both_ways(path: Path) -> None:
    parser = narrow(path)
    check_config(parser)
    run_both_ways(parser)
    for name in ("slab_reader", "froc_rule", "load_slab"):
        assert parser.get_parsed_content(name) is not None
    transforms = parser.get_parsed_content("train#preprocessing").transforms
    assert len(transforms) == 7 + (parser["mask_targets"] == "grabcut")


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda path: path.stem)
def test_two_overlays_give_the_same_config_in_any_order(first: Path, second: Path) -> None:
    assert merged(first, second).get() == merged(second, first).get()


@pytest.mark.parametrize(
    ("first", "second"),
    [pair for pair in PAIRS if {axis(path) for path in pair} <= SHAPING | {"init"} - {"size"}],
    ids=lambda path: path.stem,
)
def test_pairs_that_shape_the_network_build_and_run(first: Path, second: Path) -> None:
    run_both_ways(merged(first, second, variant("size_narrow")))


@pytest.mark.parametrize(("overlay", "conversions"), [("conversion_ctm", "CenterCrop"), ("slices_5", "GroupTransform")])
def test_an_overlay_changes_what_it_names(overlay: str, conversions: str) -> None:
    network = narrow(variant(overlay)).get_parsed_content("network_def")
    assert {type(module).__name__ for module in network.backbone.conversions} == {conversions}


@pytest.mark.parametrize("path", [variant("fpn_3dce_9"), variant("retinanet_3")], ids=lambda path: path.stem)
def test_baselines_become_narrow_in_any_order(path: Path) -> None:
    small = variant("size_narrow")
    for overlays in ((path, small), (small, path)):
        network = merged(*overlays).get_parsed_content("network_def")
        assert sum(parameter.numel() for parameter in network.parameters()) < 800_000


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("fpn_3dce_9", "slices_5"), "three times an odd number of slices.*got 5"),
        (("retinanet_3", "slices_9"), "3 slices"),
        (("fpn_3dce_9", "conversion_ctm"), "conversion"),
        (("fpn_3dce_9", "backbone_mr3d"), "block|depth"),
        (("init_imagenet",), "norm"),
    ],
)
def test_overlays_that_do_not_go_together_say_so(names: tuple[str, ...], message: str) -> None:
    files = [CONFIGS / "train.json", *(variant(name) for name in ("size_narrow", *names))]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("network_def")
    assert re.search(message, str(root_error(caught.value)))


@pytest.mark.parametrize(
    ("name", "epochs", "steps"),
    [("schedule_1x", 12, [8, 11]), ("schedule_2x", 24, [16, 22]), ("schedule_6x", 72, [65, 71])],
)
def test_schedules(name: str, epochs: int, steps: list[int]) -> None:
    parser = merged(variant(name))
    parser["epoch_length"], parser["learning_rate"] = 10, 1.0
    parser["optimizer"] = {
        "_target_": "torch.optim.SGD", "params": "$[torch.nn.Parameter(torch.zeros(1))]", "lr": "@learning_rate",
    }  # fmt: skip
    parser["lr_scheduler#warmup_iterations"] = 0
    (factor,) = parser.get_parsed_content("lr_scheduler").lr_lambdas
    assert parser.get_parsed_content("max_epochs") == epochs
    for index, step in enumerate(steps):
        assert factor(step * 10 - 1) == pytest.approx(0.1**index)
        assert factor(step * 10) == pytest.approx(0.1 ** (index + 1))


def test_every_json_config_is_plain_json() -> None:
    for path in CONFIGS.glob("*.json"):
        assert isinstance(json.loads(path.read_text()), dict)


@pytest.mark.parametrize(("length", "epochs"), [(1, 1), (2, 1), (10, 1), (10, 2), (250, 8)])
def test_the_schedule_of_short_runs_fits_any_length(length: int, epochs: int) -> None:
    parser = merged(variant("optimizer_adamw"))
    parser["epoch_length"], parser["max_epochs"] = length, epochs
    parser["optimizer"] = {
        "_target_": "torch.optim.SGD", "params": "$[torch.nn.Parameter(torch.zeros(1))]", "lr": 3.0e-3,
    }  # fmt: skip
    optimizer, schedule = parser.get_parsed_content("optimizer"), parser.get_parsed_content("lr_scheduler")
    rates = []
    for _ in range(length * epochs):
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert max(rates) <= 3.0e-3 * (1 + 1e-6)
    if length * epochs >= 10:
        assert max(rates) == pytest.approx(3.0e-3)
        assert rates[-1] < 1e-3 * max(rates)
