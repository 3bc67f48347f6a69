"""From settings to commands: each profile says schedule, start, share and rate in its own way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from research.study_commands import (
    BUNDLE,
    ROOT,
    Places,
    Planner,
    Run,
    bundle_file,
    bundle_words,
    data_fingerprint,
    folder_of,
    overlay_file,
    text_of,
)
from research.study_pretraining import pretraining_run
from support.fake_runs import planner_in


def run_of(planner: Planner, table: str, name: str, **options: float) -> Run:
    return planner.run(planner.study.resolve(table, name, planner.profile), 1, **options)


def option(words: tuple[str, ...], name: str) -> str | None:
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else None


def configs(words: tuple[str, ...]) -> list[str]:
    text = option(words, "config_file") or ""
    return [name.strip("[]'").rpartition("/")[2].partition(".")[0] for name in text.split(",")]


def test_full_rows_are_the_papers(tmp_path: Path) -> None:
    planner = planner_in(tmp_path, profile="full")
    training = run_of(planner, "1", "mp3d_9").steps["training"]
    assert configs(training) == ["train"]
    assert option(training, "pretrained") == "models/coco_mp3d63.pt"
    assert option(training, "max_epochs") is None
    assert configs(run_of(planner, "4", "scratch_6x").steps["training"]) == ["train", "schedule_6x"]
    assert option(run_of(planner, "4", "scratch_6x").steps["training"], "pretrained") is None
    shared = run_of(planner, "5", "fpn_3dce_9@40")
    assert configs(shared.steps["training"]) == ["train", "fpn_3dce_9", "init_imagenet", "subset_40"]
    assert configs(shared.steps["evaluating"]) == ["evaluate", "fpn_3dce_9", "init_imagenet"]
    assert run_of(planner, "1", "mr3d_9").needs == Path("models/coco_mr3d.pt")


def test_reduced_rows_are_short_and_narrow(tmp_path: Path) -> None:
    planner = planner_in(tmp_path, epochs_1x=3)
    training = run_of(planner, "2", "mp3d_5").steps["training"]
    assert configs(training)[:2] == ["train", "size_narrow"]
    assert "slices_5" in configs(training)
    assert (option(training, "max_epochs"), option(training, "val_interval")) == ("6", "6")
    assert option(run_of(planner, "4", "scratch_6x").steps["training"], "max_epochs") == "18"
    assert "init_imagenet" not in configs(run_of(planner, "1", "fpn_3dce_9").steps["training"])
    pretrained = run_of(planner, "4", "pretrained_1x")
    assert pretrained.made_here
    assert option(pretrained.steps["training"], "pretrained") == str(planner.places.pretrained)


def test_a_network_that_comes_whole_is_narrowed_after_its_overlay(tmp_path: Path) -> None:
    steps = run_of(planner_in(tmp_path), "1", "mulan_9").steps
    assert configs(steps["training"]) == ["train", "optimizer_adamw", "demo", "mulan", "narrow_dense"]
    assert configs(steps["evaluating"]) == ["evaluate", "mulan", "narrow_dense"]
    full = run_of(planner_in(tmp_path, profile="full"), "1", "mulan_9").steps
    assert configs(full["training"]) == ["train", "mulan"]


def test_retinanet_with_masks_runs_like_the_one_without(tmp_path: Path) -> None:
    planner = planner_in(tmp_path)
    plain, masks = (run_of(planner, "1", name).steps for name in ("retinanet_3", "retinanet_masks_3"))
    assert configs(masks["training"])[:2] == ["train", "size_narrow"]
    for step in ("training", "evaluating"):
        assert "retinanet_masks" in configs(masks[step])
        for key in ("strides", "scales"):
            fine = option(masks[step], f"network_def#anchors#{key}")
            assert fine is not None
            assert fine == option(plain[step], f"network_def#anchors#{key}")


def test_a_rate_goes_to_every_key_that_holds_it(tmp_path: Path) -> None:
    planner = planner_in(tmp_path)
    run = run_of(planner, "1", "mp3d_9", rate=0.006)
    assert option(run.steps["training"], "optimizer#lr") == option(run.steps["training"], "lr_scheduler#max_lr")
    assert run.folder != run_of(planner, "1", "mp3d_9").folder
    assert option(run.steps["evaluating"], "optimizer#lr") is None


def test_extra_overlays_and_options_reach_the_training(tmp_path: Path) -> None:
    planner = planner_in(tmp_path, extra=("amp_bf16", "mine/own.yaml"), training={"num_workers": 0})
    steps = run_of(planner, "1", "mp3d_9").steps
    assert configs(steps["training"])[-2:] == ["amp_bf16", "own"]
    assert configs(steps["evaluating"])[-2:] == ["amp_bf16", "own"]
    assert option(steps["training"], "num_workers") == "0"


def test_all_overlays_of_the_tables_exist(tmp_path: Path, bundle_root: Path) -> None:
    for profile in ("full", "reduced"):
        planner = planner_in(tmp_path, profile=profile)
        for name, table in planner.study.tables.items():
            for row in table.rows:
                for words in run_of(planner, name, row.id).steps.values() if row.setting else ():
                    for config in (option(words, "config_file") or "").strip("[]").replace("'", "").split(","):
                        assert (bundle_root / config).is_file(), config


def test_the_fingerprint_is_of_the_commands_and_the_data_not_of_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (planner_in(tmp_path / name) for name in "ab")
    marks = [run_of(planner, "1", "mp3d_9").fingerprint(planner.places) for planner in (one, other)]
    assert marks[0] == marks[1]
    assert run_of(one, "1", "mp3d_1").fingerprint(one.places) != marks[0]
    near = replace(one, places=Places(tmp_path / "a" / "data", tmp_path / "a" / "da"))
    assert run_of(near, "1", "mp3d_9").fingerprint(near.places) == marks[0]
    (tmp_path / "a" / "data" / "synthetic.json").write_text('{"about": "other"}')
    assert run_of(one, "1", "mp3d_9").fingerprint(one.places) != marks[0]


def test_records_from_before_a_module_moved_stay_valid(tmp_path: Path) -> None:
    planner = planner_in(tmp_path)
    run = pretraining_run(planner)
    before = {name: tuple(word.replace("research.", "scripts.") for word in words) for name, words in run.steps.items()}
    assert before != run.steps
    assert replace(run, steps=before).fingerprint(planner.places) == run.fingerprint(planner.places)


def test_commands_run_where_their_modules_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = planner_in(tmp_path)
    images, training = pretraining_run(planner).steps.values()
    assert (folder_of(images), folder_of(training)) == (ROOT, BUNDLE)
    assert (ROOT / "research" / "natural_images.py").is_file()
    monkeypatch.chdir(ROOT)
    assert bundle_file("mp3d_bundle/models/demo.pt") == "models/demo.pt"
    assert bundle_file("runs/x.pt") == str(ROOT / "runs" / "x.pt")
    assert bundle_file(tmp_path / "x.pt") == str(tmp_path / "x.pt")


def test_a_data_set_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a data set folder at .*none, but the folder does not exist"):
        data_fingerprint(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="is it a data set"):
        data_fingerprint(tmp_path)


def test_commands_are_those_of_a_user() -> None:
    words = bundle_words("training", ["a.json", "b.yaml"], {"seed": 3, "optimizer#lr": 0.1})
    assert text_of(words) == (
        "python -m monai.bundle run training --config_file \"['a.json','b.yaml']\" --seed 3 '--optimizer#lr' 0.1"
    )
    assert bundle_words("training", ["a.json"], {})[-1] == "a.json"
    assert overlay_file("slices_5") == "configs/variants/slices_5.yaml"
    assert overlay_file("x/y.yaml") == "x/y.yaml"
