"""The command that writes the stand-in of natural images."""

from __future__ import annotations

from pathlib import Path

import pytest

from research.natural_images import main


def test_it_writes_a_folder_and_does_not_replace_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(str(tmp_path / "set"), num_train=2, num_validation=1)
    assert "Wrote" in capsys.readouterr().out
    assert len(list((tmp_path / "set" / "train2017").iterdir())) == 2
    with pytest.raises(FileExistsError, match="Expected a new or empty folder"):
        main(str(tmp_path / "set"), num_train=2, num_validation=1)
    main(str(tmp_path / "set"), num_train=3, num_validation=1, overwrite=True)
    assert len(list((tmp_path / "set" / "train2017").iterdir())) == 3
    with pytest.raises(ValueError, match="image_size of at least 32"):
        main(str(tmp_path / "other"), image_size=4)
