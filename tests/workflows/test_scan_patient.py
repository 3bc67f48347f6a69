"""What a scan's patient is to a network: options, then headers, then unknown; no name is kept."""

from __future__ import annotations

import functools
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import read_scan
from scripts.data.scans.scan_tensors import scan_tensor
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import link_boxes
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.networks import Patient, mulan
from scripts.workflows.infer_scans import ScanRunner
from scripts.workflows.monai_label import Choice, LesionDetector
from scripts.workflows.scan_patient import PatientOptions, facts_read
from support.fake_dicom import write_ct
from support.fake_scans import ball_scan, scan_of
from support.fake_weights import weights_of

HU = ball_scan()[:2]


class Asked(nn.Module):
    """Finds nothing, and keeps what it was told of patients."""

    def __init__(self, *facts: str) -> None:
        super().__init__()
        self.patient_facts = facts
        self.told: list[Patient] = []

    def forward(self, slabs: Any, patients: list[Patient] | None = None) -> list[dict[str, Tensor]]:
        self.told += patients or []
        assert patients is None or len(patients) == len(slabs)
        return [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)} for _ in slabs]


def known(folder: Path, options: PatientOptions | None = None, *facts: str, **tags: Any) -> Any:
    scan = read_scan(write_ct(folder, HU, **tags))
    return (options or PatientOptions()).patient_of(scan, Asked(*(facts or ("patient",))))


@pytest.mark.parametrize(
    ("tags", "age", "age_from", "sex"),
    [
        ({"PatientAge": "061Y", "PatientSex": "F"}, 61.0, "PatientAge", "F"),
        ({"PatientAge": "018M", "PatientSex": "M"}, 1.5, "PatientAge", "M"),
        ({"PatientAge": "010D", "PatientSex": "O"}, 10 / 365.25, "PatientAge", None),
        ({"PatientBirthDate": "19500630", "StudyDate": "20200101"}, 69.0, "PatientBirthDate", None),
        ({"PatientAge": "000Y", "PatientBirthDate": "19500630", "StudyDate": "19490101"}, None, "unknown", None),
        ({"PatientAge": "999Y", "PatientBirthDate": "19501330", "StudyDate": "20200101"}, None, "unknown", None),
        ({"PatientAge": "", "PatientSex": ""}, None, "unknown", None),
    ],
)
def test_sex_and_age_are_read_from_the_header(
    tmp_path: Path, tags: dict[str, str], age: float | None, age_from: str, sex: str | None
) -> None:
    patient, said = known(tmp_path / "ct", PatientOptions(), "patient", **{"StudyDate": "", "PatientSex": "", **tags})
    assert said["age_years"] == (None if age is None else round(age, 2))
    assert (said["age_from"], said["sex"]) == (age_from, sex)
    assert math.isnan(patient.age) if age is None else patient.age == pytest.approx(age)
    assert patient.male == (1.0 if sex == "M" else 0.0) if sex else math.isnan(patient.male)
    assert math.isnan(patient.position)


def test_options_win_over_the_header(tmp_path: Path) -> None:
    options = PatientOptions(age=40, sex="M")
    patient, said = known(tmp_path / "ct", options, "patient", "position", PatientAge="061Y", PatientSex="F")
    assert patient[:2] == (1.0, 40.0)
    said_so = {"age_years": 40.0, "age_from": "option", "sex": "M", "sex_from": "option", "position": None}
    assert said == said_so


def test_a_network_is_told_what_it_reads(tmp_path: Path) -> None:
    assert known(tmp_path / "a", PatientOptions(), "position", PatientSex="F")[1] == {"position": None}
    scan = scan_of(HU)
    assert PatientOptions().patient_of(scan, Asked()) is None
    said = PatientOptions().patient_of(scan, Asked("patient"))
    assert said is not None
    assert said[1] == {"age_years": None, "age_from": "unknown", "sex": None, "sex_from": "unknown"}
    thin = {"num_slices": 3, "tags": 2, "growth": 8, "channels": 16, "fc_channels": 8, "layers": (1, 1, 1)}
    assert facts_read(mulan(**thin)) == ()
    assert facts_read(mulan(**thin, extras=("box", "position", "patient"))) == ("position", "patient")


def test_an_option_that_nothing_reads_is_rejected() -> None:
    PatientOptions(sex="F").check(Asked("patient"))
    PatientOptions().check(Asked())
    with pytest.raises(ValueError, match="Expected no --patient_age: the network of these weights does not read it"):
        PatientOptions(age=3).check(Asked("position"))


def test_results_say_what_was_used_and_no_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_ct(tmp_path / "ct", HU, PatientAge="061Y", PatientSex="F", PatientName="DOE^JANE")
    network = Asked("patient")

    def run(**options: Any) -> str:
        detector = VolumeDetector(SlabCutter(resample_z, num_slices=3), IntensityWindow(), progress=False)
        weights = weights_of(network, {"name": "asked"})
        writer = ResultWriter(tmp_path / "out", outputs=("json",))
        runner = ScanRunner(find_scans(folder), detector, weights, writer, patient=PatientOptions(**options))
        assert runner.run() == []
        return (tmp_path / "out" / "lesions.json").read_text()

    with caplog.at_level(logging.INFO):
        text = run()
    assert network.told
    assert set(network.told) == {network.told[0]}
    assert network.told[0][:2] == (0.0, 61.0)
    said = json.loads(text)["settings"]["patient"]
    assert said == {"age_years": 61.0, "age_from": "PatientAge", "sex": "F", "sex_from": "PatientSex"}
    assert "DOE" not in text
    assert "scores are refined with sex F (PatientSex), age 61 (PatientAge)" in caplog.text
    # The same patient again is done already; another age is not.
    network.told.clear()
    run()
    assert not network.told
    with pytest.raises(AssertionError):
        run(age=30)


def test_monai_label_tells_the_network_what_a_run_does(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "ct", HU, PatientAge="061Y", PatientSex="F")
    detector = VolumeDetector(SlabCutter(resample_z, num_slices=3), IntensityWindow(), progress=False)
    for facts, told in ((("patient",), [0.0, 61.0]), ((), None)):
        network = Asked(*facts)
        weights = weights_of(network, {"name": "asked"})
        label = LesionDetector(
            detector,
            functools.partial(link_boxes),
            choice=Choice(weights, 0.5),
            weights=weights,
            settings={"box_threshold": 0.1, "score_threshold": 0.5},
        )
        label.network = network
        (answer,) = label(scan_tensor(read_scan(folder))[None])
        assert (list(network.told[0][:2]) if network.told else None) == told
        said = {"age_years": 61.0, "age_from": "PatientAge", "sex": "F", "sex_from": "PatientSex"}
        assert answer["document"]["settings"].get("patient") == (said if facts else None)
