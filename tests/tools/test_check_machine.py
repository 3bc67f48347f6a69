"""`python -m scripts.doctor`: ten lines, each with what to do about a failure, whatever is missing or broken."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.data.deeplesion import dl_info
from scripts.tools import check_machine
from scripts.tools.check_machine import CHECKS, FAIL, NOTE, OK, Finding, Places, doctor, find

BUNDLE = Path(__file__).resolve().parents[2] / "mp3d_bundle"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "data", tmp_path / "model.pt", tmp_path / "out")


def test_ten_lines_and_status_0_where_everything_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(check_machine, "MEMORY_GIB", 0.01)
    monkeypatch.setattr(check_machine, "DISK_GIB", 0.001)
    doctor(None, str(BUNDLE / "models" / "demo.pt"), str(tmp_path / "out"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS) == 10
    assert [line.split()[1] for line in lines] == list(CHECKS)
    assert {line.split()[0] for line in lines} <= {OK, NOTE}
    assert "synthetic" in lines[-1]
    assert not (tmp_path / "out").exists()


def test_every_check_is_made_though_all_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, package: str | None = None) -> Any:
        raise ImportError("libcudart.so.12: cannot open shared object file\nno such file")

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))
    with pytest.raises(SystemExit, match=r"^\d+ of 10 checks failed\.$"):
        doctor()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("FAIL Python")
    assert "broken: torch (ImportError: libcudart.so.12" in lines[1]
    assert "pip install --upgrade" in lines[1]
    assert lines[2].startswith("FAIL pairs     ImportError: libcudart.so.12")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("no\n file"), "no file"),
        (KeyError("no\n key"), r"KeyError: 'no\n key'"),
        (RuntimeError(" a \n b"), "RuntimeError: a b"),
        (ValueError(), "ValueError"),
        (RuntimeError("\n"), "RuntimeError"),
    ],
)
def test_an_error_is_one_line_and_names_its_kind_unless_it_explains_itself(
    monkeypatch: pytest.MonkeyPatch, places: Places, error: Exception, text: str
) -> None:
    def fails(places: Places) -> Any:
        raise error

    monkeypatch.setitem(CHECKS, "Python", fails)
    assert find("Python", places).text == text


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "pycocotools":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0.0" if name == "scipy" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    finding = find("packages", places)
    assert (finding.state, finding.text) == (FAIL, "missing: pycocotools")
    assert "pip install --upgrade pycocotools" in finding.advice
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0.0" if name == "scipy" else version(name))
    finding = find("packages", places)
    assert finding.state in (OK, NOTE)
    assert "scipy 1.0.0 (tested with" in finding.text


def test_a_torchvision_of_another_torch_is_a_failure(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("pairs", places).state == OK
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy", "torch==2.7.1"])
    finding = find("pairs", places)
    assert finding.state == FAIL
    assert "made for torch 2.7.1: install both in one command" in finding.advice


@pytest.mark.parametrize(
    ("capability", "found", "text"),
    [
        ("AVX512", True, "run on PyTorch"),
        ("AVX2", True, "run on PyTorch"),
        ("AVX2", None, "run on PyTorch"),
        ("DEFAULT", True, "run on OpenVINO"),
    ],
)
def test_the_engine_that_auto_takes_on_a_cpu(
    places: Places, monkeypatch: pytest.MonkeyPatch, capability: str, found: bool | None, text: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    assert text in find("device", places).text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ("openvino" in find("device", places).advice) == (capability == "DEFAULT")


@pytest.mark.parametrize("computes", [True, False])
def test_emulated_bfloat16_is_said(places: Places, monkeypatch: pytest.MonkeyPatch, computes: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("scripts.number_formats.cpu_has_bfloat16", lambda: computes)
    finding = find("half", places)
    assert finding.state == OK
    assert ("emulated: networks compute in float32" in finding.text) is not computes


@pytest.mark.parametrize("factor", [1.5, float("nan")])
def test_wrong_convolutions_in_half_precision_are_noticed(
    places: Places, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    assert find("half", places).state == OK
    convolve = torch.nn.functional.conv3d

    def wrong(slab: torch.Tensor, weight: torch.Tensor, **options: Any) -> torch.Tensor:
        """As some releases do: right in float32, wrong in half precision for one shape of kernel."""
        right = convolve(slab, weight, **options)
        return right * factor if slab.dtype != torch.float32 and tuple(weight.shape[2:]) == (1, 3, 3) else right

    monkeypatch.setattr(torch.nn.functional, "conv3d", wrong)
    finding = find("half", places)
    assert finding.state == FAIL
    assert "--precision float32" in finding.advice


@pytest.mark.parametrize(
    ("cores", "quota", "threads", "state", "number"),
    [(8, float("inf"), 8, OK, ""), (8, float("inf"), 16, NOTE, "8"), (64, 2.0, 64, NOTE, "2"), (4, 0.5, 1, OK, "")],
)
def test_more_threads_than_cores(
    places: Places, monkeypatch: pytest.MonkeyPatch, cores: int, quota: float, threads: int, state: str, number: str
) -> None:
    monkeypatch.setattr(check_machine, "_cores", lambda: cores)
    monkeypatch.setattr(check_machine, "_quota", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    finding = find("threads", places)
    assert finding.state == state
    assert (f"OMP_NUM_THREADS={number}:" in finding.advice) == bool(number)


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000\n", float("inf")), ("150000 100000\n", 1.5), ("", float("inf"))]
)
def test_the_quota_of_a_container(tmp_path: Path, text: str, quota: float) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert check_machine._quota(tmp_path / "cpu.max") == quota
    assert check_machine._quota(tmp_path / "absent") == float("inf")


def test_memory_within_the_limit_of_a_container(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    8388608 kB\n")
    free = check_machine._free_memory
    assert free(tmp_path) == 8 << 30
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text(str(1 << 30))
    (group / "memory.max").write_text("max\n")
    assert free(tmp_path) == 8 << 30
    (group / "memory.max").write_text(str(3 << 30))
    assert free(tmp_path) == 2 << 30
    assert free(tmp_path / "absent") is None
    monkeypatch.setattr(check_machine, "_free_memory", lambda: 2 << 30)
    assert find("memory", places) == Finding(
        FAIL, "2.0 GiB free", "A scan with the full network wants 3 GiB: close other programs or raise the limit."
    )
    monkeypatch.setattr(check_machine, "_free_memory", lambda: None)
    assert find("memory", places).state == NOTE


def test_full_disks_and_small_shared_memory(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"/dev/shm": 64 << 20}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, space.get(str(path), 9 << 30)))
    if Path("/dev/shm").is_dir():
        finding = find("disk", places)
        assert finding.state == NOTE
        assert "--num_workers 0" in finding.advice
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1 << 20))
    assert find("disk", places).state == FAIL


def test_a_file_in_the_place_of_the_output_folder(places: Places) -> None:
    places.output_dir.write_text("")
    finding = find("disk", places)
    assert finding.state == FAIL
    assert "found a file at" in finding.text


HEADER = ",".join(dl_info.COLUMNS)
ROW = (
    '{name},{patient},1,1,5,"10, 12, 40, 12, 20, 5, 20, 30","10, 5, 40, 30","30, 20","0.5, 0.5, 0.5",-1,0,"1, 9",'
    '"0.8, 0.8, 5","512, 512","-175, 275",M,50,1'
)


def write_data(folder: Path, patients: int) -> list[Path]:
    """A data set of some key slices in the form of DeepLesion."""
    rows, images = [HEADER], []
    for number in range(1, patients + 1):
        rows.append(ROW.format(name=f"{number:06d}_01_01_005.png", patient=number))
        images.append(folder / "Images_png" / f"{number:06d}_01_01" / "005.png")
        images[-1].parent.mkdir(parents=True)
        images[-1].write_bytes(b"")
    (folder / "DL_info.csv").write_text("\n".join(rows) + "\n")
    return images


def test_counts_of_the_data_set(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = find("data", places)
    assert (finding.state, "--dataset_dir DIR" in finding.advice) == (FAIL, True)
    monkeypatch.setattr(check_machine, "DATA", places.dataset_dir)
    assert find("data", places) == replace(finding, state=NOTE)
    images = write_data(places.dataset_dir, 3)
    counts = "3 boxes on 3 key slices of 3 patients, 3 of the images are there"
    assert find("data", places) == Finding(NOTE, f"{counts}; the complete DeepLesion has 32735 boxes")
    monkeypatch.setattr(dl_info, "COMPLETE_ROWS", 3)
    monkeypatch.setattr(dl_info, "COMPLETE", {"train": (3, 3), "validation": (0, 0), "test": (0, 0)})
    assert find("data", places) == Finding(OK, f"DeepLesion, complete: {counts}")
    images[0].unlink()
    finding = find("data", places)
    assert finding.state == FAIL
    assert "2 of the images are there" in finding.text
    shutil.rmtree(places.dataset_dir / "Images_png")
    assert "0 of the images are there" in find("data", places).text


def test_labels_in_json_are_a_data_set(places: Places) -> None:
    write_data(places.dataset_dir, 3)[1].unlink()
    (places.dataset_dir / "DL_info.csv").unlink()
    for number, split in enumerate(("train", "val"), start=1):
        image = {"id": 1, "file_name": f"{number:06d}_01_01/005.png", "height": 512, "width": 512, "spacing": 0.8}
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 30, 25], "noisy": 0}
        content = {"images": [image | {"slice_intv": 5}], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
        (places.dataset_dir / f"deeplesion_{split}.json").write_text(json.dumps(content))
    finding = find("data", places)
    assert finding.state == FAIL
    assert finding.text == "2 boxes on 2 key slices of 2 patients, 1 of the images are there"


def test_a_damaged_label_file_is_a_failure_in_one_line(places: Places) -> None:
    write_data(places.dataset_dir, 1)
    (places.dataset_dir / "DL_info.csv").write_text("File_name,x\n1,2\n")
    finding = find("data", places)
    assert finding.state == FAIL
    assert "DL_info.csv" in finding.text
    assert "\n" not in finding.text


def test_weights_that_are_absent_or_damaged(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = find("weights", places)
    assert finding.state == FAIL
    with monkeypatch.context() as patch:
        patch.setattr(check_machine, "WEIGHTS", places.checkpoint)
        assert find("weights", places) == replace(finding, state=NOTE)
    assert "demo.pt" in finding.advice
    content = bytearray((BUNDLE / "models" / "demo.pt").read_bytes())
    content[len(content) // 2] ^= 4
    places.checkpoint.write_bytes(bytes(content))
    finding = find("weights", places)
    assert finding.state == FAIL
    assert str(places.checkpoint) in finding.text


def test_the_versions_it_compares_with_are_those_of_the_metadata() -> None:
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    named = {"torch", "monai", "numpy", *metadata["required_packages_version"]}
    for name in named:
        module = check_machine._MODULES.get(name, name)
        assert importlib.util.find_spec(module), module


def test_nothing_heavy_is_imported_before_the_first_line() -> None:
    code = "import sys, scripts.tools.check_machine as m; print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
