"""docs/extending.md: its blocks, applied unchanged to a copy of the bundle, do what the page says."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.configuration.overlay_order import overlay_complaints
from support.clean_processes import python
from support.fake_scans import ball_scan

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLE = REPOSITORY / "mp3d_bundle"
PAGE = (BUNDLE / "docs" / "extending.md").read_text(encoding="utf-8")
STEP = re.compile(
    r"^(?:New file `(?P<new>[\w/.]+)`|In `(?P<old>[\w/.]+)`, below `(?P<anchor>[^`]+)`|(?P<trial>Try it)[^\n]*):\n\n"
    r"```(?:python|text|yaml)\n(?P<text>.*?)```$",
    re.MULTILINE | re.DOTALL,
)


HEADINGS = re.findall(r"(?m)^## (.*)$", PAGE)
# Runs each trial by itself and prints, as JSON, what it printed.
DRIVER = """
import contextlib, io, json, sys
found = {}
for name, trial in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as text:
        exec(compile(trial, name, "exec"), {"__name__": "__main__"})
    found[name] = text.getvalue()
print(json.dumps(found))
"""


class Step(NamedTuple):
    """One block of the page: a new file, lines below another line, or a trial."""

    new: str | None
    old: str | None
    anchor: str | None
    trial: str | None
    text: str


def steps_of(heading: str) -> list[Step]:
    """The blocks under a heading, in order."""
    section = re.split(r"(?m)^## ", PAGE.split(f"\n## {heading}\n", 1)[1], maxsplit=1)[0]
    return [Step(*match.group("new", "old", "anchor", "trial", "text")) for match in STEP.finditer(section)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with all additions of the page, and a scan in it."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("configs", "scripts"):
        shutil.copytree(BUNDLE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "models").mkdir()
    shutil.copy(BUNDLE / "models" / "demo.pt", folder / "models")
    affine = np.diag([-1.0, -1.0, 2.5, 1.0])
    nibabel.save(nibabel.Nifti1Image(ball_scan().transpose(2, 1, 0), affine), folder / "scan.nii.gz")
    for heading in HEADINGS:
        for step in steps_of(heading):
            if step.new:
                assert not (folder / step.new).exists()
                (folder / step.new).write_text(step.text, encoding="utf-8")
            elif step.old:
                lines = (folder / step.old).read_text(encoding="utf-8").split("\n")
                lines.insert(lines.index(str(step.anchor)) + 1, step.text.rstrip("\n"))
                (folder / step.old).write_text("\n".join(lines), encoding="utf-8")
    return folder


def code_lines(text: str) -> int:
    """Lines of a Python block without blanks, comments and docstrings."""
    tree = ast.parse(text)
    documented = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    quiet = {
        line
        for node in documented
        if ast.get_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and line.strip()[0] != "#" and number not in quiet for number, line in lines)


@pytest.fixture(scope="module")
def printed(bundle: Path) -> dict[str, str]:
    """What the trial of each section prints; they share a process, as PyTorch and MONAI take seconds to import."""
    trials = {heading: step.text for heading in HEADINGS for step in steps_of(heading) if step.trial}
    assert list(trials) == HEADINGS
    variables = {**os.environ, "PYTHONPATH": str(bundle), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = python("-c", DRIVER, json.dumps(trials), cwd=bundle, environment=variables)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_block_of_the_page_is_used() -> None:
    assert HEADINGS == ["An output", "A head", "A detector", "A body", "A data set", "Parts of a training"]
    assert sum(len(steps_of(heading)) for heading in HEADINGS) == len(re.findall(r"(?m)^```\w+$", PAGE))


@pytest.mark.parametrize("heading", HEADINGS)
def test_examples_are_short(heading: str) -> None:
    steps = steps_of(heading)
    python = [step for step in steps if not step.trial and not str(step.new).endswith(".yaml")]
    assert sum(code_lines(step.text) if step.new else len(step.text.splitlines()) for step in python) < 20


def test_an_output_writes_a_row_for_each_lesion_and_slice(bundle: Path, printed: dict[str, str]) -> None:
    text = (bundle / "out" / "lesion_slices.csv").read_text(encoding="utf-8")
    assert text in printed["An output"]
    rows = list(csv.DictReader(text.splitlines()))
    listed = json.loads((bundle / "out" / "detections.json").read_text(encoding="utf-8"))["detections"]
    own = [entry for entry in listed if entry["lesion"] is not None]
    assert own
    assert [(int(row["lesion"]), int(row["slice"])) for row in rows] == [(one["lesion"], one["slice"]) for one in own]
    assert [[float(row[key]) for key in ("i1", "j1", "k1", "i2", "j2", "k2")] for row in rows] == [
        one["box_voxel"] for one in own
    ]
    assert all("ot a medical device" in row["notice"] for row in rows)


def test_a_head_is_trained_and_gives_each_box_its_field(printed: dict[str, str]) -> None:
    loss, kinds = printed["A head"].split(" ", 1)
    assert 0 < float(loss) < 10
    assert set(map(int, re.findall(r"\d+", kinds))) <= set(range(1, 9))
    assert kinds.startswith("tensor([")


def test_a_detector_is_saved_and_built_again(printed: dict[str, str]) -> None:
    assert re.search(r"torch\.Size\(\[\d+, 4\]\)", printed["A detector"])


def test_a_body_learns_but_for_its_frozen_stages_and_is_built_again(printed: dict[str, str]) -> None:
    learns, tensors, boxes = printed["A body"].split(" ", 2)
    # Four tensors a stage, two of the stem.
    assert (int(learns), int(tensors)) == (8, 18)
    assert re.search(r"torch\.Size\(\[\d+, 4\]\)", boxes)


def test_a_data_set_gives_records_and_slabs(printed: dict[str, str]) -> None:
    assert [float(number) for number in re.findall(r"[\d.]+", printed["A data set"])] == [100, 120, 140, 150, 40]


def test_parts_of_a_training_take_part(bundle: Path, printed: dict[str, str]) -> None:
    found = re.findall(r"(?m)^(\d+) (\S+) (\S+)$", printed["Parts of a training"])
    lines = [[float(number) for number in line] for line in found]
    assert [line[0] for line in lines] == [1, 2, 3, 4]
    # Half a cosine over four iterations, from the rate of two images a step.
    assert [line[2] for line in lines] == pytest.approx([0.0025 * share for share in (1, 0.854, 0.5, 0.146)], rel=0.01)
    assert (bundle / "run" / "model.pt").is_file()
    curves = EventAccumulator(str(bundle / "run" / "tensorboard")).Reload()
    counts = [event.value for event in curves.Scalars("boxes_per_image")]
    assert len(counts) == 2
    assert all(0 <= count <= 100 for count in counts)


def test_an_overlay_that_replaces_a_body_goes_after_the_narrow_one(bundle: Path) -> None:
    files = [bundle / "configs" / name for name in ("train.json", "variants/size_narrow.yaml", "body_plain.yaml")]
    named = [(file.name, ConfigParser.load_config_file(file)) for file in files]
    assert list(overlay_complaints(named)) == []
    del named[-1][1]["_replaces_"]
    assert list(overlay_complaints(named))
