"""The published schema of lesions.json accepts what is written, and nothing that is amiss."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest

from scripts.data.scans.scan import read_scan
from scripts.inference.outputs import lesions_document
from scripts.inference.outputs.result_writer import ResultWriter
from support.fake_results import parts, results_of
from support.fake_scans import ball_scan, scan_of

SCHEMA = json.loads(
    (Path(lesions_document.__file__).parent / "schema" / "lesions.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CALIBRATION = {"scores": [0.0, 1.0], "probabilities": [0.0, 0.5]}
MODEL = {"name": "demo", "notice": "Synthetic weights.", "path": "/somewhere/demo.pt", "sha256": "ab" * 32}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A file that the writer wrote."""
    folder = tmp_path_factory.mktemp("out")
    affine = np.diag([-1.0, -1.0, 2.5, 1.0])
    nibabel.save(nibabel.Nifti1Image(ball_scan().transpose(2, 1, 0), affine), folder / "scan.nii.gz")
    scan = read_scan(folder / "scan.nii.gz")
    results = results_of(scan, [(24, 10, 4, 37, 23, 9), (5, 6, 1, 9, 12, 2)], (0.9, 0.4))
    settings = {"score_threshold": 0.3, "precision": "float32", "pixel_spacing_mm": None}
    ResultWriter(folder, {**MODEL, "notice": None, "calibration": CALIBRATION}, settings)(
        *parts(results), timing={"read": 0.1}
    )
    return json.loads((folder / "lesions.json").read_text())


def test_schema_is_one_and_has_the_version_that_is_written() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"]["const"] == lesions_document.SCHEMA_VERSION
    assert SCHEMA["$id"].endswith(f":{lesions_document.SCHEMA_VERSION}")


def test_written_file_is_valid(written: dict[str, Any]) -> None:
    VALIDATOR.validate(written)
    assert [entry["probability"] for entry in written["lesions"]] == [0.45, 0.2]
    assert written["model"]["no_probability"] is None


def test_file_without_probabilities_says_why_and_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(b"the scan")
    arguments = parts(results_of(scan_of(ball_scan(), path=path), [(24, 10, 4, 37, 23, 9)], (0.9,)))
    for model, reason in (({}, "no calibration"), ({**MODEL, "calibration": CALIBRATION}, "notice of their own")):
        ResultWriter(tmp_path, model)(*arguments)
        content = json.loads((tmp_path / "lesions.json").read_text())
        VALIDATOR.validate(content)
        assert "probability" not in content["lesions"][0]
        assert reason in content["model"]["no_probability"]


def test_file_without_lesions_or_weights_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(b"the scan")
    ResultWriter(tmp_path)(*parts(results_of(scan_of(ball_scan(), path=path), [], [])))
    VALIDATOR.validate(json.loads((tmp_path / "lesions.json").read_text()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("notices"),
        lambda content: content["model"].pop("no_probability"),
        lambda content: content.update(notices=[]),
        lambda content: content.update(schema_version="2.0"),
        lambda content: content.update(remark="?"),
        lambda content: content["input"].update(spacing_mm=[1.0, 1.0, 0.0]),
        lambda content: content["input"].update(sha256="abc"),
        lambda content: content["input"]["index_to_lps_mm"].pop(),
        lambda content: content["lesions"][0].pop("score"),
        lambda content: content["lesions"][0].update(score=1.5),
        lambda content: content["lesions"][0]["box_voxel"].pop(),
        lambda content: content["lesions"][0].update(key_slice=2.5),
        lambda content: content["lesions"][0].update(lesion=0),
    ],
)
def test_what_is_amiss_is_rejected(written: dict[str, Any], spoil: Callable[[dict[str, Any]], object]) -> None:
    content = copy.deepcopy(written)
    spoil(content)
    assert not VALIDATOR.is_valid(content)


@pytest.mark.parametrize("fields", [{"age": 0.5}, {"tags": [0.1, 0.2], "noisy": True}, {"masks": [[0, 1], [1, 0]]}])
def test_further_fields_are_numbers_and_lists(written: dict[str, Any], fields: dict[str, Any]) -> None:
    changed = copy.deepcopy(written)
    changed["lesions"][0]["fields"] = fields
    VALIDATOR.validate(changed)
    for wrong in ({}, {"age": "old"}, {"age": None}, {"age": {"years": 1}}, [0.5]):
        changed["lesions"][0]["fields"] = wrong
        assert not VALIDATOR.is_valid(changed)
