"""The stress of the image: changes that leave alone what they should, and figures that repeat."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _image_changes as changes
from benchmarks import image_stress
from benchmarks._image_changes import CHANGES, Stack
from benchmarks.image_stress import TABLE, ChangedReader, Stress, draw, seen, table
from scripts.data.deeplesion.splits import load_records
from scripts.data.slabs.slab_reader import SlabReader
from scripts.data.synthetic import generate

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
NOTHING = {"noise": 0, "shift": 0, "scale": 1, "thickness": 2.5, "spacing": 2.5, "pixels": 1, "field of view": 2}
NOTHING |= {"streaks": 0, "missing slices": 0}


def stack(count: int = 9) -> Stack:
    hu = np.random.default_rng(0).uniform(-150, 300, (count, 24, 32)).astype(np.float32)
    return Stack(hu, 2.5 * (np.arange(count) - count // 2))


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("name", CHANGES)
def test_no_strength_is_no_change_and_the_same_numbers_come_again(name: str) -> None:
    change, strengths, _ = CHANGES[name]
    before = stack()
    same = change(before, NOTHING[name], generator())
    np.testing.assert_array_equal(same.positions, before.positions)
    np.testing.assert_allclose(same.hu, before.hu, atol=1e-3)
    strong = [change(before, strengths[-1], generator()) for _ in range(2)]
    np.testing.assert_array_equal(strong[0].hu, strong[1].hu)
    assert strong[0].positions[strong[0].key] == 0
    assert strong[0].hu.shape != before.hu.shape or np.abs(strong[0].hu - before.hu).max() > 1
    np.testing.assert_array_equal(before.hu, stack().hu)


def test_values_of_the_changes() -> None:
    before = stack()
    assert np.std(changes.noise(before, 40, generator()).hu - before.hu) == pytest.approx(40, rel=0.05)
    np.testing.assert_allclose(changes.scale(before, 1.2, generator()).hu, 1.2 * before.hu, rtol=1e-6)
    # 5 mm: a slice and its neighbours at 2.5 mm; the outermost slices have one.
    thick = changes.thickness(before, 5, generator()).hu
    np.testing.assert_allclose(thick[4], before.hu[3:6].mean(axis=0), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(thick[0], before.hu[:2].mean(axis=0), rtol=1e-4, atol=1e-2)
    assert changes.spacing(before, 5, generator()).positions.tolist() == [-10, -5, 0, 5, 10]
    assert changes.spacing(before, 1, generator()).positions.tolist() == before.positions.tolist()
    left = changes.missing(before, 0.5, generator())
    assert (len(left.hu), 0.0 in left.positions) == (5, True)
    assert changes.missing(before, 1, generator()).positions.tolist() == [0]
    view = changes.field_of_view(before, 0.5, generator()).hu
    assert (view[:, 0] == changes.AIR_HU).all()
    np.testing.assert_array_equal(view[:, 10:14, 14:18], before.hu[:, 10:14, 14:18])
    rays = np.abs(changes.streaks(before, 100, generator()).hu - before.hu)
    assert (rays > 20).any(axis=(1, 2)).all()


def test_lesions_outside_of_the_view_do_not_count() -> None:
    boxes = np.array([[45, 45, 55, 55], [0, 0, 8, 8], [94, 40, 120, 60]], np.float32)
    record = {"image_size": (100, 100), "instances": {"boxes": boxes, "labels": np.ones(3, np.int64)}}
    assert seen(record, 0.9)["instances"]["boxes"].tolist() == boxes[:1].tolist()
    assert len(record["instances"]["boxes"]) == 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stress") / "set"
    sizes = {"num_train": 1, "num_validation": 1, "num_test": 4, "margin_mm": 20.0}
    generate(folder, "small", seed=1, workers=1, edge_fraction=0.0, **sizes)
    return folder


def test_unchanged_slabs_are_those_of_the_reader(dataset: Path) -> None:
    reader = SlabReader(9)
    for record in load_records(str(dataset), "test"):
        np.testing.assert_allclose(ChangedReader(reader)(record), reader(record), atol=1e-3)


def test_figures_repeat_and_are_written(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BUNDLE)
    kept = {name: (CHANGES[name][0], CHANGES[name][1][-1:], CHANGES[name][2]) for name in ("shift", "missing slices")}
    monkeypatch.setattr(image_stress, "CHANGES", kept)
    first, again = (list(Stress(dataset, "models/demo.pt").rows()) for _ in range(2))
    assert first == again
    assert [row["change"] for row in first] == ["none", "shift", "missing slices"]
    assert all(0 <= row["sensitivity"] <= 1 and row["images"] == 4 for row in first)
    # At the threshold of one false positive an image: not more, on the unchanged images.
    assert first[0]["fixed_fps"] <= 1
    assert first[0]["difference"] == [0, 0]
    assert first[2]["sensitivity"] < first[0]["sensitivity"]


def rows() -> list[dict[str, object]]:
    plain = {"change": "none", "strength": 0.0, "images": 4, "lesions": 5, "sensitivity": 0.8, "interval": [0.7, 0.9]}
    plain |= {"difference": [0.0, 0.0], "fixed_sensitivity": 0.8, "fixed_fps": 1.0}
    own = [{**plain, "change": name, "strength": value} for name in CHANGES for value in CHANGES[name][1]]
    return [plain, *own]


def test_table_and_figure_hold_every_row(tmp_path: Path) -> None:
    text = table(rows(), "what it is")
    assert text.count("\n| ") == len(rows()) + 2
    assert "| unchanged | 5 | 80.0 % (70 to 90) |  | 80.0 % | 1.00 |" in text
    assert "| 80 HU more noise | 5 | 80.0 % (70 to 90) | +0 to +0 |" in text
    for name in ("a.png", "b.png"):
        draw(rows(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    page = "a\n<!-- image_stress -->\nold\n<!-- /image_stress -->\nb\n"
    new = TABLE.sub(lambda _: text, page)
    assert new == f"a\n<!-- image_stress -->\n{text}<!-- /image_stress -->\nb\n"
    assert len(TABLE.findall(image_stress.PAGE.read_text(encoding="utf-8"))) == 1


def test_the_command_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        def __init__(self, *_: object) -> None:
            pass

        def rows(self) -> list[dict[str, object]]:
            return rows()

    page, figure = tmp_path / "page.md", tmp_path / "figure.png"
    page.write_text("<!-- image_stress -->\n<!-- /image_stress -->\n")
    for name, value in {"Stress": Fixed, "PAGE": page, "FIGURE": figure, "generate": lambda *_, **__: None}.items():
        monkeypatch.setattr(image_stress, name, value)
    for name, text in {"OUTPUT": str(tmp_path / "out"), "IMAGES": "7", "DOCS": "1"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(tmp_path)
    image_stress.main()
    written = json.loads((tmp_path / "out" / "image_stress.json").read_text())
    assert written["rows"] == rows()
    with (tmp_path / "out" / "image_stress.csv").open(newline="") as file:
        assert [row["change"] for row in csv.DictReader(file)] == [row["change"] for row in rows()]
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert "7 key slices of `small`, seed 1, with `demo.pt` (SHA-256 " in page.read_text()
