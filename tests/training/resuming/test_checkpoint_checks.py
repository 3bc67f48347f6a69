"""What a training does not resume from: a checkpoint of another run, and one without its best weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.fake_engines import Run


def test_a_damaged_or_foreign_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=str(path)):
        Run(tmp_path, epochs=1).run()
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="Expected a checkpoint of a run with definition, got one without"):
        Run(tmp_path, epochs=1).run()


def test_a_run_with_another_part_is_named(tmp_path: Path) -> None:
    Run(tmp_path, epochs=1).run()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    del content["optimizer"]
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"a checkpoint of a run with optimizer, got one without in .*last\.pt"):
        Run(tmp_path, epochs=2).run()


def test_a_run_without_its_best_weights_does_not_resume(tmp_path: Path) -> None:
    best = tmp_path / "model.pt"
    Run(tmp_path, epochs=2).run()
    epoch, whole = torch.load(tmp_path / "last.pt", weights_only=True)["best_metric_epoch"], best.read_bytes()
    advice = rf"of epoch {epoch}.*Put the file back, or remove {tmp_path / 'last.pt'}"
    best.write_bytes(whole[:1000])
    # Finished or not: a later epoch need not be better.
    for epochs in (2, 3):
        with pytest.raises(ValueError, match=rf"cannot read {best}.*{advice}"):
            Run(tmp_path, epochs=epochs).run()
    best.unlink()
    with pytest.raises(ValueError, match=rf"of epoch {epoch}, in {best}, found no file\. Put the file back"):
        Run(tmp_path, epochs=2).run()
    best.write_bytes(whole)
    Run(tmp_path, epochs=2).run()
