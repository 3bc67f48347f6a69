"""Which ids of a config are reached, and which were set in vain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scripts.configuration.read_keys import changes, ids_read, is_read, item, normal, unread

BASE: dict[str, Any] = {
    "rate": 0.1,
    "steps": 3,
    "note": "write to me@home",
    "optimizer": {"_target_": "Optimizer", "lr": "@rate"},
    "flips": {"x": 0.5, "z": 0.5},
    "train": {"trainer": {"_target_": "T", "optimizer": "@optimizer", "flips": ["@flips#x", "$@flips#z * @steps"]}},
    "run": ["$@train#trainer.run()"],
}


def test_references_and_expressions_are_followed() -> None:
    found = ids_read(normal(BASE), ["run"])
    assert found == {"run", "train::trainer", "optimizer", "rate", "flips::x", "flips::z", "steps"}


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("rate", True),
        ("optimizer::lr", True),
        ("flips", True),
        ("flips::x", True),
        ("flips::y", False),
        ("train", True),
        ("train::trainr", False),
        ("note", False),
        ("home", False),
        ("step", False),
    ],
)
def test_what_lies_above_or_below_a_read_id_is_read(name: str, read: bool) -> None:
    assert is_read(name, ids_read(normal(BASE), ["run"])) == read


def test_a_circle_of_references_ends() -> None:
    assert ids_read({"run": "$@a", "a": "$@b", "b": "$@a"}, ["run"]) == {"run", "a", "b"}


def test_changes_are_the_lowest_ids_that_differ() -> None:
    config = {**BASE, "flips": {"x": 0.5, "z": 1}, "new": 1, "_own": 2, "steps": True, "rate": np.zeros(2)}
    assert set(changes(config, [BASE])) == {"flips::z", "new", "steps", "rate"}
    assert list(changes(BASE, [BASE])) == []
    assert list(changes({"a": {"b": 1}}, [{"a": 2}])) == ["a"]


def test_items_are_found_by_id() -> None:
    assert item(normal(BASE), "train::trainer::flips::0") == "@flips::x"
    assert item(BASE, "train::nothing::x") is None


def test_a_key_of_a_file_is_excused_and_an_option_is_not() -> None:
    config = {**BASE, "mine": 1, "_shared_": {"mine": "training"}}
    arguments: dict[str, Any] = {"used": ["base"], "roots": ["run"]}
    assert list(unread(config, {"base": BASE}, **arguments)) == []
    assert list(unread(config, {"base": BASE}, **arguments, given=["mine"])) == ["unknown config key mine"]
    config["optimizer"] = {"_target_": "Other", "lr": 1}
    (complaint,) = unread(config, {"base": BASE}, **arguments, given=["rate"])
    assert complaint.startswith("config key rate has no effect")
