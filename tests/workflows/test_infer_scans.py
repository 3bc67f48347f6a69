"""`run inferring`: a list of scans, one failure stopping no other; MONAI's contract; errors in one line."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigWorkflow
from pydicom.uid import RLELossless

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import ScanSource, find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.error_lines import root_error
from scripts.inference.detections import link_boxes
from scripts.inference.outputs.html.report_page import ReportWriter
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.weights import build_network, load_network, save_weights
from scripts.workflows.infer_scans import ScanRunner, reason_of
from support.clean_processes import python
from support.fake_dicom import write_ct
from support.fake_scans import BlobDetector, ball_scan
from support.fake_weights import weights_of
from support.narrow_networks import NARROW

BUNDLE = Path(__file__).resolve().parents[2] / "mp3d_bundle"


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow extends the path and hooks uncaught errors: not for the next test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def write_scan(path: Path, hu: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    hu = ball_scan() if hu is None else hu
    # RAS to LPS turns x and y around.
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    info = {"name": "narrow", "notice": "Random weights.", "inference": {"score_threshold": 0.01, "pixel_spacing": 1.5}}
    path = tmp_path_factory.mktemp("weights") / "narrow.pt"
    return save_weights(path, build_network(NARROW), NARROW, info)


def runner(inputs: Any, output: Path) -> ScanRunner:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    weights = weights_of(BlobDetector(), {"name": "blob"})
    return ScanRunner(find_scans(inputs), detector, weights, ResultWriter(output))


def test_one_scan_goes_straight_into_the_output_folder(tmp_path: Path) -> None:
    run = runner(write_scan(tmp_path / "scan.nii.gz"), tmp_path / "out")
    run.main()
    assert run.failures == []
    (lesion,) = json.loads((tmp_path / "out" / "lesions.json").read_text())["lesions"]
    np.testing.assert_allclose(lesion["center_lps_mm"], (30, 16, 15), atol=1.1)
    assert (tmp_path / "out" / "overlays" / "lesion_001.png").is_file()


def test_failing_scans_stop_no_other_and_are_summed_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "in" / "b.nii.gz")
    write_scan(tmp_path / "in" / "deep" / "c.nii.gz")
    mask = write_scan(tmp_path / "in" / "a_mask.nii", np.zeros((4, 5, 6), dtype=np.uint8))
    cut = write_scan(tmp_path / "in" / "cut.nii")
    cut.write_bytes(cut.read_bytes()[:1000])
    run = runner([tmp_path / "in", tmp_path / "absent.nii"], tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        run.main()
    lines = str(stopped.value.code).splitlines()
    assert lines[0] == "3 of 5 scans failed:"
    assert len(lines) == 4
    for line, name in zip(lines[1:], (mask, cut, tmp_path / "absent.nii"), strict=True):
        assert str(name) in line
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("lesions.json")}
    assert written == {"in/b/lesions.json", "in/deep/c/lesions.json"}
    # Nothing was begun for the scans that failed.
    assert {path.name for path in (tmp_path / "out" / "in").iterdir()} == {"b", "deep"}
    assert caplog.text.count("the next scan follows") == 3


def hostile_inputs(folder: Path) -> dict[str, str]:
    """A folder of scans that cannot be used; what has to be said of each, by its path."""
    hu = ball_scan()
    wanted = {}

    def bad(name: str, message: str) -> Path:
        wanted[name] = message
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        return folder / name

    path = write_scan(bad("cut.nii.gz", "complete and undamaged file"))
    path.write_bytes(path.read_bytes()[:500])
    cut = write_ct(bad("cut_dicom", "could not read|cannot read|cut short"), hu[:3]) / "IM0002.dcm"
    cut.write_bytes(cut.read_bytes()[:-900])
    mixed = write_ct(bad("mixed", "slices of one size"), hu[:3])
    write_ct(mixed / "more", hu[:1, :30], origin=(-12, 30, -50))
    (mixed / "more" / "IM0001.dcm").rename(mixed / "odd.dcm")
    gap = write_ct(bad("gap", r"gap of 5\.00 mm .*a slice is missing"), hu[:5]) / "IM0003.dcm"
    gap.unlink()
    write_ct(bad("zero", "positive voxel spacings"), hu[:3], PixelSpacing=[0, 0])
    write_scan(bad("nan.nii", "finite voxel values"), np.where(hu > 300, np.nan, hu).astype(np.float32))
    write_scan(bad("eight_bit.nii", "8-bit values"), np.zeros((4, 5, 6), dtype=np.uint8))
    write_scan(bad("mr.nii", "an MR"), np.abs(hu))
    bad("broken.zip", "complete zip archive").write_bytes(b"PK\3\4 not really")
    bad("pngs/001.png", "spacing of slices 1 to 1").write_bytes(b"x")
    wanted["pngs"] = wanted.pop("pngs/001.png")
    return wanted


def test_hostile_scans_get_a_line_each_and_the_good_ones_are_done(tmp_path: Path) -> None:
    wanted = hostile_inputs(tmp_path / "in")
    write_scan(tmp_path / "in" / "one_slice.nii", ball_scan()[6:7])
    many = np.tile(ball_scan(shape=(12, 24, 24), centre_mm=(12, 12, 15)), (250, 1, 1))
    write_scan(tmp_path / "in" / "slices_3000.nii", many)
    write_ct(tmp_path / "in" / "good", ball_scan(), SeriesInstanceUID="1.2.9")
    run = runner(tmp_path / "in", tmp_path / "out")
    run.link = lambda found: link_boxes(found)[:3]
    run.writer = ResultWriter(tmp_path / "out", overlays=1)
    with pytest.raises(SystemExit) as stopped:
        run.main()
    heading, *lines = str(stopped.value.code).splitlines()
    assert heading == f"{len(wanted)} of {len(wanted) + 3} scans failed:"
    assert len(lines) == len(wanted)
    for name, message in wanted.items():
        (line,) = [line for line in lines if re.search(rf"in/{re.escape(name)}(?!\.?\w)", line)]
        assert re.search(message, line), line
    done = {str(path.parent.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("lesions.json")}
    assert done == {"one_slice", "slices_3000", "1.2.9"}
    assert json.loads((tmp_path / "out" / "slices_3000" / "lesions.json").read_text())["lesions"]


def test_an_entry_of_a_list_that_is_not_a_ct_is_a_failure(tmp_path: Path) -> None:
    write_ct(tmp_path / "mr", ball_scan()[:3], Modality="MR")
    write_ct(tmp_path / "ct", ball_scan())
    with pytest.raises(SystemExit, match=r"(?s)1 of 2 scans failed.*modality CT, got 3 MR"):
        runner([tmp_path / "mr", tmp_path / "ct"], tmp_path / "out").main()
    assert len(list((tmp_path / "out").rglob("lesions.json"))) == 1


def test_what_was_left_out_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_ct(tmp_path / "in", ball_scan())
    write_ct(tmp_path / "other", ball_scan(), SeriesInstanceUID="5.6", SeriesDescription="lung")
    write_ct(
        tmp_path / "scout", ball_scan()[:1], SeriesInstanceUID="5.7", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    for place in ("other", "scout"):
        for path in (tmp_path / place).iterdir():
            path.rename(folder / f"{place}_{path.name}")
    run = runner(folder, tmp_path / "out")
    run.main()
    assert caplog.text.count("Left out scout_IM0001.dcm: a localizer.") == 1
    for name in ("1.2.3.4", "5.6"):
        document = json.loads((tmp_path / "out" / name / "lesions.json").read_text())
        assert "Left out 1 file of series 5.7: a localizer." in document["input"]["notes"]
        assert len(document["lesions"]) == 1


def test_folders_without_ct_next_to_a_ct_are_no_failures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ct(tmp_path / "in" / "ct", ball_scan())
    write_ct(tmp_path / "in" / "mr", ball_scan(), SeriesInstanceUID="5.6", Modality="MR")
    localizer = {"SeriesInstanceUID": "5.7", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_ct(tmp_path / "in" / "scout", ball_scan()[:1], **localizer)
    runner(tmp_path / "in", tmp_path / "out").main()
    assert len(list((tmp_path / "out").rglob("lesions.json"))) == 1
    assert "mr: Left out" in caplog.text
    assert "scout: Left out IM0001.dcm: a localizer." in caplog.text
    # Alone they are.
    with pytest.raises(SystemExit, match="modality CT, got 1 CT localizer"):
        runner(tmp_path / "in" / "scout", tmp_path / "out").main()


def test_a_scan_of_which_nothing_was_examined_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scan(tmp_path / "air.nii", np.full((1, 40, 56), -1000, dtype=np.int16))
    runner(tmp_path / "air.nii", tmp_path / "out").main()
    notes = json.loads((tmp_path / "out" / "lesions.json").read_text())["input"]["notes"]
    for words in ("No slice shows a body", "Only one slice"):
        assert words in caplog.text
        assert any(words in note for note in notes)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(torch.OutOfMemoryError("out of memory"), "out of memory"), (TypeError("no len()"), "TypeError: no len()")],
)
def test_any_error_is_a_failure_of_one_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, reason: str
) -> None:
    monkeypatch.setenv("MP3D_TRACEBACK", "1")
    write_scan(tmp_path / "in" / "a.nii")
    write_scan(tmp_path / "in" / "b.nii")
    run = runner(tmp_path / "in", tmp_path / "out")
    link, calls = run.link, []

    def exhausted(found: Any) -> list:
        calls.append(found)
        if len(calls) == 1:
            raise error
        return link(found)

    run.link = exhausted
    assert [reason for _, reason in run.run()] == [f"{tmp_path / 'in' / 'a.nii'}: {reason}"]
    assert (tmp_path / "out" / "b" / "lesions.json").is_file()
    assert caplog.text.count("Traceback") == 1


def test_names_that_are_not_utf8_are_done_or_rejected_in_a_line(tmp_path: Path) -> None:
    odd = os.fsdecode(b"scan\xff")
    write_scan(tmp_path / "in" / f"{odd}.nii")
    write_ct(tmp_path / "in" / "dicom", ball_scan()[:2]).rename(tmp_path / "in" / f"dicom_{odd}")
    packed = write_ct(tmp_path / "in" / "packed", ball_scan()[:1], SeriesInstanceUID="5.6")
    one = pydicom.dcmread(packed / "IM0001.dcm")
    one.compress(RLELossless)
    one.save_as(packed / "IM0001.dcm")
    packed.rename(tmp_path / "in" / f"packed_{odd}")
    run = runner(tmp_path / "in", tmp_path / "out")
    run.writer = ResultWriter(tmp_path / "out", extra={"report": ReportWriter()})
    ((_, reason),) = run.run()
    assert re.fullmatch(r"Expected a name in UTF-8, got .*packed_scan\\udcff.*", reason), reason
    assert (tmp_path / "out" / "1.2.3.4" / "lesions.json").is_file()
    assert json.loads((tmp_path / "out" / odd / "lesions.json").read_text())["input"]["name"] == "scan\\udcff.nii"
    assert (tmp_path / "out" / odd / "report.html").is_file()


def loads(run: ScanRunner, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with a word each time that a run loads its network."""
    found: list[str] = []
    load = run.weights.load
    monkeypatch.setattr(run.weights, "load", lambda: (found.append("loaded"), load())[1])
    return found


def test_weights_are_loaded_once_and_only_for_a_scan_that_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scan(tmp_path / "in" / "a.nii")
    write_scan(tmp_path / "in" / "b.nii")
    (tmp_path / "in" / "cut.nii").write_bytes(b"x")
    for wanted in (["loaded"], []):
        run = runner(tmp_path / "in", tmp_path / "out")
        found = loads(run, monkeypatch)
        (failure,) = run.run()
        assert failure[0].name == "cut.nii"
        assert found == wanted


def test_weights_that_cannot_be_loaded_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scan(tmp_path / "in" / "a.nii")
    write_scan(tmp_path / "in" / "b.nii")

    def broken() -> Any:
        raise ValueError("Expected finite weights.")

    for begin in (lambda run: run.main(), lambda run: run.start()):
        run = runner(tmp_path / "in", tmp_path / "out")
        monkeypatch.setattr(run.weights, "load", broken)
        with pytest.raises((SystemExit, ValueError), match=r"^Expected finite weights\.$"):
            begin(run)
        assert run.failures == []
    assert not list((tmp_path / "out").rglob("*.json"))


def test_single_failure_is_a_single_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        runner(tmp_path / "absent.nii", tmp_path / "out").main()
    message = str(stopped.value.code)
    assert "\n" not in message
    assert str(tmp_path / "absent.nii") in message
    assert "--input PATH" in message
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--input PATH"):
        runner("", tmp_path).main()


def workflow(**changes: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        run_id="inferring",
        workflow_type="infer",
        **{"device": "cpu", "num_slices": 3, "progress": False, **changes},
    )


def test_no_property_is_missing() -> None:
    flow = workflow()
    flow.initialize()
    assert flow.check_properties() == []


def test_the_configs_network_is_that_of_the_weights_and_holds_them(checkpoint: Path) -> None:
    flow = workflow(checkpoint=str(checkpoint), num_slices=9)
    flow.initialize()
    network: Any = flow.network_def
    expected = load_network(checkpoint)[0].state_dict()
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    assert not network.training


def test_run_is_an_alias() -> None:
    config = json.loads((BUNDLE / "configs" / "inference.json").read_text())
    assert config["run"] == config["inferring"]


def test_config_runs_a_network_from_end_to_end(tmp_path: Path, checkpoint: Path) -> None:
    results = []
    for batch in (1, 5):
        flow = workflow(
            input=str(write_scan(tmp_path / "scan.nii.gz")),
            output_dir=str(tmp_path / str(batch)),
            checkpoint=str(checkpoint),
            sw_batch_size=batch,
        )
        flow.initialize()
        flow.run()
        flow.finalize()
        results.append(json.loads((tmp_path / str(batch) / "detections.json").read_text()))
    first, second = results
    assert first["notices"][1] == "Random weights."
    assert first["settings"]["pixel_spacing_mm"] == 1.5
    assert first["settings"]["score_threshold"] == 0.01
    assert first["settings"]["precision"] == "float32"
    assert first["detections"]
    boxes, others = (
        np.array([[*entry["box_lps_mm"], entry["score"]] for entry in result["detections"]]) for result in results
    )
    np.testing.assert_allclose(boxes, others, atol=1e-4)
    assert second["detections"][0]["box_voxel"][0] >= 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slices": 5}, "num_slices 3 as in the network's weights, got 5"),
        ({"num_slices": 4}, "odd number of slices, at least 1 for config key num_slices, got 4"),
        ({"sw_batch_size": 0}, "number of at least 1 for config key sw_batch_size, got 0"),
        ({"score_threshold": 2}, "number of at least 0 and at most 1 for config key score_threshold, got 2"),
        ({"inptu": "x"}, r"Unknown config key inptu \(did you mean input\?\)"),
        ({"checkpoint": "nowhere.pt"}, r"no file nowhere\.pt"),
    ],
)
def test_settings_that_cannot_be_end_in_one_line(
    tmp_path: Path, checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    settings = {"checkpoint": str(checkpoint), "input": str(write_scan(tmp_path / "scan.nii")), **changes}
    flow = workflow(output_dir=str(tmp_path / "out"), **settings)
    with pytest.raises((Exception, SystemExit)) as caught:  # noqa: PT012 - either of the two
        flow.initialize()
        flow.run()
    error = root_error(caught.value)
    assert re.search(message, str(error))
    assert "\n" not in str(error)
    assert not (tmp_path / "out").exists()


def test_command_line_ends_in_one_line_and_a_status(tmp_path: Path, checkpoint: Path) -> None:
    flat = tmp_path / "flat.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5), dtype=np.int16), np.eye(4)), flat)
    done = python(
        *("-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json"),
        *("--input", flat, "--output_dir", tmp_path / "out", "--checkpoint", checkpoint),
        *("--device", "cpu", "--num_slices", "3"),
        cwd=BUNDLE,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"Expected a volume of 3 dimensions, got 2 (shape (6, 5)) in {flat}."
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_reason_is_one_line_with_the_name_of_the_scan_once() -> None:
    source = ScanSource(Path("in") / "a\nb.nii")
    for error in (ValueError(f"Expected a CT, got none in {source.path}."), RuntimeError("no\n  memory")):
        reason = reason_of(error, source)
        assert reason.isprintable()
        assert reason.count("a\\nb.nii") == 1
