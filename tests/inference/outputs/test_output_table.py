"""The results that are written: by name, all or none, without stale files next to them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from scripts.data.scans.scan import read_scan
from scripts.inference.outputs.lesions_document import bundle_version
from scripts.inference.outputs.result_folder import RECORD
from scripts.inference.outputs.result_writer import ResultWriter, choose_outputs
from scripts.storage.result_files import DICOM_OUTPUTS, OUTPUTS, file_names
from support.fake_dicom import write_ct
from support.fake_results import parts, results_of
from support.fake_scans import ball_scan, scan_of

CONFIG = Path(__file__).resolve().parents[3] / "mp3d_bundle" / "configs" / "inference.json"
OF = {
    "json": {"lesions.json", "detections.json"},
    "csv": {"lesions.csv"},
    "slicer": {"lesions.mrk.json"},
    "report": {"report.html"},
    "overlays": {"lesion_001.png"},
    "dicom": {"lesions_sr.dcm", "lesions_seg.dcm"},
    "gsps": {"lesions_pr.dcm"},
    "scene": {
        *("lesions.mrml", "lesion_colours.ctbl", "lesion_table.tsv", "lesion_boxes.nii.gz", "lesion_001_1.mrk.json"),
    },
    "labelmap": {"lesion_boxes.nii.gz"},
    "prompts": {"prompts.json"},
}
# Written only if a user asks for them.
ON_REQUEST = {"gsps", "scene", "labelmap", "prompts"}
BOXES = [(24.0, 10.0, 4.0, 37.0, 23.0, 9.0)]


def writer(output_dir: Path, **changes: Any) -> ResultWriter:
    """The writer of the config, with other settings."""
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    parser.update({"output_dir": str(output_dir), "checkpoint": "nowhere.pt", **changes})
    return parser.get_parsed_content("writer")


def files_in(folder: Path) -> set[str]:
    """Names of all files but the record, which is there whatever is written."""
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert RECORD in names
    return names - {RECORD}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = write_ct(tmp_path_factory.mktemp("series"), ball_scan(), spacing=(1.0, 1.0, 2.5))
    return parts(results_of(read_scan(folder), BOXES, (0.9,)))


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_name_writes_its_files_and_no_other(name: str, arguments: tuple, tmp_path: Path) -> None:
    if name in DICOM_OUTPUTS:
        pytest.importorskip("highdicom")
    writer(tmp_path, outputs=[name])(*arguments)
    assert files_in(tmp_path) == OF[name]


def test_every_file_says_that_it_is_no_medical_device(arguments: tuple, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    writer(tmp_path, outputs=list(OUTPUTS))(*arguments)
    assert files_in(tmp_path) == set.union(*OF.values())
    for path in tmp_path.rglob("*"):
        # Pictures say so in pixels, the label map in its compressed header: see their own tests.
        if path.is_file() and path.suffix not in (".png", ".gz"):
            assert b"ot a medical device" in path.read_bytes(), path.name


def test_default_is_everything_but_what_only_some_need(arguments: tuple, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    writer(tmp_path)(*arguments)
    assert files_in(tmp_path) == set.union(*(OF[name] for name in OUTPUTS if name not in ON_REQUEST))


def test_other_scans_than_dicom_get_no_dicom(tmp_path: Path) -> None:
    arguments = parts(results_of(scan_of(ball_scan()), BOXES, (0.9,)))
    writer(tmp_path, outputs=["json", "dicom"])(*arguments)
    assert files_in(tmp_path) == OF["json"]


def test_results_of_an_earlier_run_do_not_stay_beside_new_ones(arguments: tuple, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    writer(tmp_path, outputs=list(OUTPUTS))(*arguments)
    (tmp_path / "mine.txt").write_text("not ours")
    writer(tmp_path, outputs=["csv"])(*arguments)
    assert files_in(tmp_path) == {"lesions.csv", "mine.txt"}
    assert set(file_names()) == set.union(*OF.values()) - OF["overlays"] - {"lesion_001_1.mrk.json"}


def test_output_that_fails_leaves_nothing(arguments: tuple, tmp_path: Path) -> None:
    def broken(*_: object) -> dict[str, bytes]:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        ResultWriter(tmp_path / "out", extra={"broken": broken})(*arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [["csv", "report"], ("csv", "report"), "csv,report", "csv, report"])
def test_names_come_as_a_list_or_as_text(names: Any) -> None:
    assert choose_outputs(names) == ("csv", "report")


@pytest.mark.parametrize(("names", "got"), [(["json", "pdf"], "pdf"), ("html", "html"), ([], "none"), ("", "none")])
def test_unknown_names_are_rejected(names: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"^Expected outputs among json, csv, slicer, .*prompts.*, got '{got}'\.$"):
        choose_outputs(names)


def test_without_highdicom_the_rest_is_written(
    arguments: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "highdicom" else find(name))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    for name in [name for name in sys.modules if name.startswith("scripts.inference.outputs.dicom.")]:
        monkeypatch.delitem(sys.modules, name)
    writer(tmp_path, outputs=["csv", "dicom", "gsps"])(*arguments)
    assert files_in(tmp_path) == {"lesions.csv"}
    assert "highdicom, which is not installed" in caplog.text
    assert "scripts.inference.outputs.dicom.structured_report" not in sys.modules


def test_version_is_that_of_the_metadata() -> None:
    assert bundle_version() == json.loads(CONFIG.with_name("metadata.json").read_text())["version"]
