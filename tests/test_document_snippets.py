"""The documents' Python: every block runs, here or in the test that is named for it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.inference.outputs.result_writer import ResultWriter
from scripts.tools.export_detector import export
from support.fake_evaluations import image_cases
from support.fake_results import parts, results_of
from support.fake_scans import ball_scan, scan_of
from support.packed_bundle import DEMO, REPOSITORY

DOCS = REPOSITORY / "mp3d_bundle" / "docs"
# Blocks of a page, and what runs the others.
ELSEWHERE = {"extending.md": "test_extending_page.py", "download.md": "test_download.py"}


def blocks(page: str) -> list[str]:
    """Python blocks of a page."""
    return re.findall(r"(?ms)^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"))


def ran(block: str, **names: Any) -> dict[str, Any]:
    """The names of a block after it ran."""
    exec(compile(block, "snippet", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_page_has_python_that_nothing_runs() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if blocks(str(path.relative_to(DOCS)))}
    assert pages == {"evaluation.md", "export.md", "inference.md", "outputs.md", *ELSEWHERE}
    assert all((REPOSITORY / "tests" / name).is_file() for name in ELSEWHERE.values())


def test_evaluation_writes_a_report(folder: Path) -> None:
    [block] = blocks("evaluation.md")
    metrics = ran(block, cases=image_cases())["metrics"]
    assert json.loads((folder / "runs" / "evaluation" / "metrics.json").read_text())["ap50"] == metrics["ap50"]


def test_results_are_valid_by_the_schema(folder: Path) -> None:
    pytest.importorskip("jsonschema")
    [block] = blocks("outputs.md")
    (folder / "mp3d_bundle").symlink_to(REPOSITORY / "mp3d_bundle")
    results = results_of(scan_of(ball_scan()), [(24.0, 10.0, 4.0, 37.0, 23.0, 9.0)], (0.9,))
    ResultWriter(folder / "DIR", outputs=["json"])(*parts(results))
    ran(block)
    document = json.loads((folder / "DIR" / "lesions.json").read_text())
    (folder / "DIR" / "lesions.json").write_text(json.dumps({**document, "lesions": [{"score": 2}]}))
    with pytest.raises(Exception, match="is a required property"):
        ran(block)


def test_weights_are_loaded_and_detect(folder: Path) -> None:
    block = blocks("download.md")[2]
    assert "load_network" in block
    (folder / "D" / "mp3d_bundle" / "models").mkdir(parents=True)
    shutil.copy(DEMO, folder / "D" / "mp3d_bundle" / "models" / "model.pt")
    found = ran(block, slabs=torch.zeros(1, 9, 96, 96))
    assert set(found["detections"][0]) == {"boxes", "scores", "labels"}
    assert found["info"]["name"]


def test_lesions_are_found_in_an_array(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = blocks("inference.md")
    monkeypatch.chdir(REPOSITORY / "mp3d_bundle")
    block = block.replace("models/model.pt", str(DEMO))
    hu = ball_scan()
    done = ran(block, hu=hu)
    lesions = done["lesions"]
    assert lesions
    plain = ConfigParser(ConfigParser.load_config_file("configs/inference.json"))
    plain.update({"checkpoint": str(DEMO), "progress": False})
    inferer, link = plain.get_parsed_content("inferer"), plain.get_parsed_content("linking")
    expected = link(inferer(scan_of(hu, (0.8, 0.8, 2.5)), plain.get_parsed_content("trained").load()))
    assert [lesion.box.tolist() for lesion in lesions] == [lesion.box.tolist() for lesion in expected]
    x1, y1, z1, x2, y2, z2 = done["box"]
    depth, height, width = hu.shape
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    assert 0 <= z1 < z2 <= depth
    np.testing.assert_allclose(done["millimetres"], np.multiply((x2 - x1, y2 - y1, z2 - z1), (0.8, 0.8, 2.5)))


@pytest.mark.slow
def test_exported_files_detect(folder: Path) -> None:
    onnx, torchscript = blocks("export.md")
    (folder / "models").mkdir()
    slabs = torch.randn(1, 9, 96, 96)
    for block, target, form in ((onnx, "model.onnx", "onnx"), (torchscript, "model.ts", "torch")):
        export(str(DEMO), f"models/{target}", form)
        found = ran(block, slabs=slabs.numpy() if form == "onnx" else slabs)
        assert tuple(found["boxes"].shape[::2]) == (1, 4)
        assert tuple(found["scores"].shape) == tuple(found["labels"].shape) == tuple(found["boxes"].shape[:2])
