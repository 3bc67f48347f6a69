"""Run record: the merged config and what it ran on, one entry for each start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ignite.engine import Events
from monai.bundle import ConfigParser

from scripts.training.resuming.run_record import RunRecord
from support.fake_engines import Run


def test_config_seed_versions_and_epoch_are_kept_for_each_start(tmp_path: Path) -> None:
    parser = ConfigParser(
        {
            "_meta_": {"version": "1.2.3"},
            "seed": 5,
            "rate": "$0.1 * 2",
            "record": {
                "_target_": "scripts.training.resuming.run_record.RunRecord",
                "directory": str(tmp_path),
                "seed": "@seed",
                "facts": {"train_images": 17},
            },
        }
    )
    Run(tmp_path, epochs=1, handlers=(parser.get_parsed_content("record"),)).run()
    Run(tmp_path, epochs=2, handlers=(parser.get_parsed_content("record"),)).run()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rate"] == "$0.1 * 2"
    assert "_meta_" not in config
    first, second = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert (first["seed"], first["bundle"], first["epochs_done"]) == (5, "1.2.3", 0)
    assert second["epochs_done"] == 1
    assert second["train_images"] == 17
    assert (first["epochs_ended"], second["epochs_ended"]) == (1, 2)
    assert first["time"] <= first["ended"] <= second["time"]
    assert (second["gpu_peak_bytes"] is None) == (second["gpu"] is None)
    assert {"python", "torch", "monai", "numpy"} <= set(first["versions"])


def test_a_run_with_nothing_left_to_train_leaves_the_config_of_its_weights(tmp_path: Path) -> None:
    def run(notice: str) -> None:
        record = {"_target_": "scripts.training.resuming.run_record.RunRecord", "directory": str(tmp_path), "seed": 0}
        parser = ConfigParser({"notice": notice, "record": record})
        Run(tmp_path, epochs=1, handlers=(parser.get_parsed_content("record"),)).run()

    run("made them")
    run("came later")
    assert json.loads((tmp_path / "config.json").read_text())["notice"] == "made them"
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b'{"starts": [{"seed": 5}', b"[1]", b'{"starts": 3}', b'{"starts": [3]}', b"null", b"\xff\x00", b"[" * 10**5]
)  # fmt: skip
def test_a_damaged_record_is_kept_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    record = {"_target_": "scripts.training.resuming.run_record.RunRecord", "directory": str(tmp_path), "seed": 0}
    for epochs in (1, 2):
        (tmp_path / "run.json").write_bytes(content)
        parser = ConfigParser({"record": record})
        Run(tmp_path, epochs=epochs, handlers=(parser.get_parsed_content("record"),)).run()
        assert f"{tmp_path / 'run.json'} is damaged; kept it as run.json.damaged" in caplog.text
        (start,) = json.loads((tmp_path / "run.json").read_text())["starts"]
        assert (start["epochs_done"], start["epochs_ended"]) == (epochs - 1, epochs)
    assert (tmp_path / "run.json.damaged").read_bytes() == (tmp_path / "run.json.damaged2").read_bytes() == content


def test_folders_in_the_place_of_the_files_are_kept(tmp_path: Path) -> None:
    record = {"_target_": "scripts.training.resuming.run_record.RunRecord", "directory": str(tmp_path), "seed": 0}
    for name in ("run.json", "config.json"):
        (tmp_path / name).mkdir()
    Run(tmp_path, epochs=1, handlers=(ConfigParser({"record": record}).get_parsed_content("record"),)).run()
    assert (tmp_path / "run.json").is_file()
    assert (tmp_path / "config.json").is_file()
    assert (tmp_path / "config.json.damaged").is_dir()


def test_a_record_that_is_removed_during_a_run_is_written_again(tmp_path: Path) -> None:
    record = {"_target_": "scripts.training.resuming.run_record.RunRecord", "directory": str(tmp_path), "seed": 0}
    run = Run(tmp_path, epochs=1, handlers=(ConfigParser({"record": record}).get_parsed_content("record"),))
    run.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: (tmp_path / "run.json").unlink())
    run.run()
    assert json.loads((tmp_path / "run.json").read_text())["starts"][0]["epochs_ended"] == 1


def test_a_run_without_a_config_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="built from a config"):
        RunRecord(tmp_path, seed=0)
