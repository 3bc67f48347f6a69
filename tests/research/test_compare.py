"""Comparing evaluations: what was written is read back, and only like is compared with like."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from research.compare import compare, read_evaluation
from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.evaluation_files import Evaluated
from scripts.metrics.froc import froc_curve, sensitivity_at
from scripts.metrics.image.image_report import write_report


def cases(seed: int, count: int = 12) -> list[dict]:
    """Images with one lesion each, found by some of the boxes."""
    generator = np.random.default_rng(seed)
    made = []
    for index in range(count):
        corner = generator.uniform(0, 60, (6, 2))
        boxes = np.hstack([corner, corner + 20])
        made.append(
            {
                "id": f"{index}.png", "patient": str(index), "width": 96, "height": 90, "boxes": boxes,
                "scores": generator.uniform(size=6), "true_boxes": boxes[:1] + 1,
            }
        )  # fmt: skip
    return made


def report(folder: Path, seed: int, **options: object) -> Path:
    made = cases(seed, **options)  # type: ignore[arg-type]
    write_report(made, folder, Evaluated("fakes test", "Made up."), bootstrap=Bootstrap(resamples=20))
    return folder


def test_curves_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    curve, metrics = read_evaluation(report(tmp_path / "a", 0))
    expected = sensitivity_at(froc_curve(cases(0)), (0.5, 1.0, 2.0, 4.0))
    np.testing.assert_allclose(sensitivity_at(curve, (0.5, 1.0, 2.0, 4.0)), expected, atol=1e-12)
    assert metrics["dataset"] == "fakes test"


def test_several_curves_go_into_one_figure(tmp_path: Path) -> None:
    report(tmp_path / "a", 0)
    report(tmp_path / "b", 1)
    compare(f"first={tmp_path / 'a'}", f"second={tmp_path / 'b'}", output=str(tmp_path / "both.png"))
    compare(f"first={tmp_path / 'a'}", output=str(tmp_path / "one.png"))
    both, one = (cv2.imread(str(tmp_path / name)) for name in ("both.png", "one.png"))
    assert both is not None
    assert one is not None
    assert both.shape != one.shape or (both != one).any()


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NAME=FOLDER"):
        compare()
    with pytest.raises(ValueError, match="NAME=FOLDER"):
        compare(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        compare(f"none={tmp_path}")
    report(tmp_path / "a", 0)
    report(tmp_path / "b", 0, count=7)
    with pytest.raises(ValueError, match="one data set"):
        compare(f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}")
    (tmp_path / "a" / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot read"):
        read_evaluation(tmp_path / "a")
