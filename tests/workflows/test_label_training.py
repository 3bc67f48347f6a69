"""Training from boxes drawn in a viewer: from a served weights file to the next one."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.utils import set_determinism

from scripts.weights import build_network, save_weights
from scripts.workflows.label_training import PREVIOUS, SCRATCH, choose_validation, main
from support.fake_labels import NARROW, NOTICE, write_ball, write_scan, write_weights

BUNDLE = Path(__file__).resolve().parents[2] / "mp3d_bundle"


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(BUNDLE)
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    set_determinism(None)


def order(folder: Path, scans: int = 1, **changes: Any) -> list[str]:
    """An order on disk, as the arguments of `main`."""
    names = [write_scan(folder / f"scan_{number}.nii.gz") for number in range(scans)]
    label = write_ball(folder / "ball.json")
    content = {
        "items": [{"image": str(name), "label": str(label)} for name in names],
        "weights": str(folder / "model.pt"),
        **{"max_epochs": 1, "val_split": 0.2, "learning_rate": 0.01, "batch_size": 2, "device": "cpu"},
        **changes,
    }
    (folder / "order.json").write_text(json.dumps(content))
    return [str(folder / "order.json"), str(folder / "answer.json")]


def held(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_new_weights_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    served = write_weights(tmp_path / "model.pt", pixel_spacing=2.0)
    before = served.read_bytes()
    # What a training that was killed has left.
    (tmp_path / SCRATCH / "data").mkdir(parents=True)
    main(*order(tmp_path))
    assert not list(tmp_path.glob(f"{SCRATCH}*"))
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert (answer["scans"], answer["boxes"], answer["key_slices"], answer["validation_scans"]) == (1, 1, 3, 0)
    assert (tmp_path / PREVIOUS).read_bytes() == before
    old, new = held(tmp_path / PREVIOUS), held(served)
    assert new["network"] == old["network"]
    moved = [name for name in old["model"] if not torch.equal(old["model"][name], new["model"][name])]
    assert moved
    # Trained further, not afresh: one small epoch leaves the weights near to where they were.
    far = max(float((old["model"][name] - new["model"][name]).abs().max()) for name in moved)
    assert far < 0.1
    # What was measured with the old weights does not go with the new ones.
    assert new["info"]["inference"] == {"pixel_spacing": 2.0, "box_threshold": 0.02, "score_threshold": 0.5}
    assert new["info"]["notice"] == f"{NOTICE} Trained further on 1 scan(s) with 1 box(es) in MONAI Label."
    main(*order(tmp_path, scans=3, val_split=0.4))
    again = held(served)["info"]
    assert again["notice"] == f"{NOTICE} Trained further on 3 scan(s) with 3 box(es) in MONAI Label."
    assert again["label_training"]["validation_scans"] == 1
    assert "mean_sensitivity" in again


def test_a_definition_need_not_say_how_many_slices_it_reads(tmp_path: Path) -> None:
    silent = {name: value for name, value in NARROW.items() if name != "num_slices"}
    save_weights(tmp_path / "model.pt", build_network(silent), silent, {"inference": {"pixel_spacing": 2.0}})
    main(*order(tmp_path))
    # Key slices need their four neighbours on each side.
    assert json.loads((tmp_path / "answer.json").read_text())["key_slices"] == 3
    assert "num_slices" not in held(tmp_path / "model.pt")["network"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": []}, "at least one box"),
        ({"weights": "nowhere.pt"}, "no file nowhere.pt"),
        ({"items": [{"image": "no.nii.gz", "label": "no.json"}]}, "no.json"),
    ],
)
def test_an_order_that_cannot_be_done_ends_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    served = write_weights(tmp_path / "model.pt")
    before = served.read_bytes()
    with pytest.raises(SystemExit) as stopped:
        main(*order(tmp_path, **changes))
    assert message in str(stopped.value.code)
    assert "\n" not in str(stopped.value.code)
    assert served.read_bytes() == before
    assert not (tmp_path / PREVIOUS).exists()
    assert not (tmp_path / "answer.json").exists()


def test_boxes_without_a_class_do_not_train_weights_of_several(tmp_path: Path) -> None:
    two = {**NARROW, "num_classes": 2}
    save_weights(tmp_path / "model.pt", build_network(two), two, {"inference": {"pixel_spacing": 2.0}})
    with pytest.raises(SystemExit, match=r"^Expected weights of one class to train, .* weights of 2: class 1, class 2"):
        main(*order(tmp_path))
    assert not (tmp_path / PREVIOUS).exists()


@pytest.mark.parametrize(
    ("count", "share", "chosen"), [(1, 0.2, 0), (1, 0.9, 0), (2, 0.2, 0), (5, 0.2, 1), (4, 0.9, 3)]
)
def test_one_scan_is_always_left_to_train_on(count: int, share: float, chosen: int) -> None:
    picked = choose_validation(count, share)
    assert len(picked) == chosen
    assert picked <= set(range(count))
