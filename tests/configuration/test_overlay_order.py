"""Overlays that undo each other: logged where a key changes, rejected where one is lost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from monai.bundle.scripts import create_workflow

from scripts.configuration.overlay_order import overlay_complaints
from scripts.configuration.running_config import CONFIGS
from scripts.error_lines import root_error

BASE = ("train.json", {"run": [], "network_def": {"body": {"layers": [3, 4, 6, 3]}}, "max_epochs": 24})


def of(*overlays: dict[str, Any]) -> list[str]:
    return list(overlay_complaints([BASE, *((f"dir/{number}.yaml", each) for number, each in enumerate(overlays))]))


def bundled(*names: str) -> list[str]:
    files = [CONFIGS / "train.json", *(CONFIGS / "variants" / f"{name}.yaml" for name in names)]
    return list(overlay_complaints([(str(file), ConfigParser.load_config_file(file)) for file in files]))


@pytest.mark.parametrize(
    ("first", "second", "lost"),
    [
        ({"network_def#width": 8}, {"network_def": {"_target_": "other"}}, "network_def#width"),
        ({"+network_def": {"width": 8}}, {"network_def": {"_target_": "other"}}, "network_def#width"),
        ({"+network_def#body": {"width": 8}}, {"network_def#body": {"layers": [1]}}, "network_def#body#width"),
        ({"optimizer::lr": 0.1}, {"optimizer": {"lr": 0.2}}, "optimizer#lr"),
        ({"a#b#c": 1}, {"a#b": None}, "a#b#c"),
    ],
)
def test_a_key_that_a_later_overlay_removes_is_an_error(first: dict, second: dict, lost: str) -> None:
    (found,) = of(first, second)
    assert found.startswith(f"config key {lost} of 0.yaml is lost: 1.yaml comes later and replaces ")
    assert of(second, first) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"network_def#width": 8}, {"network_def": {"_target_": "other", "width": 8}}),
        ({"+network_def": {"width": 8}}, {"+network_def": {"depth": 3}}),
        ({"num_slices": 3}, {"num_slices": 3}),
        ({"_own_": 1}, {"_own_": 2}),
        ({"+_shared_": {"a": "training"}}, {"+_shared_": {"b": "training"}}),
        ({"+handlers": [1]}, {"+handlers": [2]}),
        ({"widths": 8}, {"width": 9}),
    ],
)
def test_overlays_that_keep_each_others_keys_pass(first: dict, second: dict, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert of(first, second) == of(second, first) == []
    assert caplog.text == ""


@pytest.mark.parametrize("separator", ["#", "::"])
def test_what_an_overlay_replaces_on_purpose_is_not_lost(separator: str) -> None:
    narrow, place = {"+network_def#body": {"width": 8}}, f"network_def{separator}body"
    assert of(narrow, {"network_def#body": {"_target_": "other"}, "_replaces_": [place]}) == []
    # It excuses that part alone, and that overlay alone.
    assert of(narrow, {"network_def": {"_target_": "other"}, "_replaces_": [place]})
    assert of(narrow, {"_replaces_": [place]}, {"network_def#body": {"_target_": "other"}})


def test_a_config_behind_its_overlays_loses_them(caplog: pytest.LogCaptureFixture) -> None:
    overlay = ("own.yaml", {"network_def#width": 8, "max_epochs": 8})
    assert list(overlay_complaints([BASE, overlay])) == []
    assert caplog.text == ""
    (found,) = overlay_complaints([overlay, BASE])
    assert found.startswith("config key network_def#width of own.yaml is lost: train.json comes later")
    assert "max_epochs: train.json sets 24 in place of 8 from own.yaml." in caplog.text


def test_a_key_that_is_set_otherwise_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert of({"max_epochs": 8}, {"max_epochs": 6}, {"max_epochs": 6}) == []
    assert [record.getMessage() for record in caplog.records] == [
        "max_epochs: 1.yaml sets 6 in place of 8 from 0.yaml."
    ]
    caplog.clear()
    assert of({"network_def": {"body": {"width": 8}}}, {"+network_def#body": {"width": 16}}) == []
    assert "network_def#body#width: 1.yaml sets 16 in place of 8 from 0.yaml." in caplog.text


@pytest.mark.parametrize("network", ["mulan", "msb", "mvpnet_9", "3dce_27", "alignshift", "tsm", "a3d", "satr"])
@pytest.mark.parametrize("shape", ["size_narrow", "backbone_mr3d", "pairs_a3d", "conversion_ctm", "init_imagenet"])
def test_what_shapes_a_network_is_not_lost_silently(shape: str, network: str) -> None:
    found = bundled(shape, network)
    assert found
    assert all(f" of {shape}.yaml is lost: {network}.yaml " in each for each in found)


def test_a_run_ends_in_that_line(tmp_path: Path) -> None:
    files = [str(CONFIGS / "train.json"), *(str(CONFIGS / "variants" / f"{n}.yaml") for n in ("size_narrow", "mulan"))]
    with pytest.raises(RuntimeError) as caught:
        create_workflow(config_file=files, run_id="training", dataset_dir=str(tmp_path), logging_file=False)
    assert "network_def#body#layers of size_narrow.yaml is lost: mulan.yaml" in str(root_error(caught.value))
