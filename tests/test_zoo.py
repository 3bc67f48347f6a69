"""The checks of MONAI's model zoo, on the released bundle: its verifier and the pattern of its unit tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import download_large_files, verify_metadata

from scripts.data.synthetic import generate
from support.clean_processes import python as clean_python
from support.fake_scans import ball_scan
from support.packed_bundle import DEMO, REPOSITORY, load_tool, unpack

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "mp3d_bundle"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
# As the zoo's unit tests do it, with a narrow network and little data: in one process, from the zoo's folder.
UNIT_TEST = """
import json, sys
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

set_determinism(123)
override = json.loads(sys.argv[1])
scan, root = override.pop("scan"), override["bundle_root"]
configs = f"{root}/configs"
sys.path.append(root)


def check(files, kind, **settings):
    workflow = ConfigWorkflow(
        workflow_type=kind,
        config_file=[f"{configs}/{file}.json" for file in files],
        logging_file=f"{configs}/logging.conf",
        meta_file=f"{configs}/metadata.json",
        **settings,
    )
    workflow.initialize()
    missing = workflow.check_properties()
    if missing:
        raise ValueError(f"properties of {files}: {missing}")
    workflow.run()
    workflow.finalize()


check(["train"], "train", **override)
# What only training reads is rejected elsewhere.
override.pop("max_epochs"), override.pop("train_scales")
check(["train", "evaluate"], "train", **override, bootstrap_resamples=5, gallery_images=2)
check(["inference"], "infer", bundle_root=root, input=scan, device="cpu", progress=False)
"""
NARROW: dict[str, Any] = {
    "network_def#fpn_channels": 32,
    "network_def#body": {"_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 8},
    "network_def#head": {"_target_": "scripts.networks.TwoStageHead", "fc_channels": 16, "proposals": 50},
    "train_scales": [96],
    "test_scale": 96,
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as in the zoo's repository: `models/NAME`; the demo's weights replace trained ones."""
    folder = tmp_path_factory.mktemp("zoo")
    unpack(load_tool().make_bundle(folder, weights=DEMO), folder / "models")
    return folder


@pytest.fixture(scope="module")
def bundle(zoo: Path) -> Path:
    return zoo / "models" / NAME


@pytest.fixture(scope="module")
def metadata(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return clean_python(*arguments, cwd=cwd, environment=ENVIRONMENT)


@pytest.mark.parametrize(
    "name", ["LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/data_license.txt"]
)
def test_files_that_the_zoo_asks_for(bundle: Path, name: str) -> None:
    assert (bundle / name).stat().st_size > 100


def test_large_files_are_there_with_their_hashes(bundle: Path) -> None:
    """Without a network: a file with another hash would be asked for at an address that does not exist."""
    download_large_files(bundle_path=str(bundle))


def test_version_is_in_the_changelog(metadata: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert metadata["version"] in metadata["changelog"]


def test_metadata_is_verified_offline(bundle: Path, shared: Path) -> None:
    schema = bundle / "eval" / "schema.json"
    schema.parent.mkdir(exist_ok=True)
    shutil.copy(shared / "data" / "schema" / "meta_schema_20240725.json", schema)
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    broken = bundle / "eval" / "broken.json"
    broken.write_text(json.dumps({**metadata, "network_data_format": 3}))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(broken), filepath=str(schema))


def test_names_are_snake_case(bundle: Path) -> None:
    named = [bundle, *bundle.glob("configs/**/*"), *bundle.glob("scripts/**/*.py")]
    assert not [path.name for path in named if not re.fullmatch(r"_*[a-z0-9]+(_+[a-z0-9]+)*_*", path.stem)]


def test_no_file_of_the_repository_is_large(bundle: Path) -> None:
    files = [path for path in bundle.rglob("*") if path.is_file() and path.name != "model.pt"]
    assert not [path.name for path in files if path.stat().st_size > 25e6]


def pinned(metadata: dict[str, Any]) -> dict[str, str]:
    """Every package that the zoo installs before its tests."""
    own = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    return {name: metadata[key] for name, key in own.items()} | metadata["required_packages_version"]


def test_packages_are_those_of_the_lock_file(metadata: dict[str, Any]) -> None:
    """They install together because the lock file, resolved as a whole, names these versions."""
    locked = re.findall(r"^([\w.-]+)==([\w.]+) ", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    for name, version in pinned(metadata).items():
        assert re.fullmatch(r"\d+(\.\d+)+", version), f"{name}: the zoo writes {name}=={version}"
        assert (name, version) in locked


def test_packages_are_those_of_the_project(metadata: dict[str, Any]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    # What some platforms have no wheel of is done without there: the zoo does not ask for it.
    wanted = {re.split(r"[<>=!~\[; ]", line)[0] for line in project["dependencies"] if ";" not in line}
    assert set(pinned(metadata)) == wanted
    assert project["version"] == metadata["version"]


def test_every_module_imports_from_the_bundle_alone(bundle: Path) -> None:
    modules = [
        ".".join(path.relative_to(bundle).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((bundle / "scripts").rglob("*.py"))
    ]
    assert len(modules) > 50
    code = f"import importlib; [importlib.import_module(name) for name in {modules}]"
    done = python("-c", code, cwd=bundle)
    assert done.returncode == 0, done.stderr


def test_outputs_have_labels_for_viewers(metadata: dict[str, Any]) -> None:
    (prediction,) = metadata["network_data_format"]["outputs"].values()
    assert prediction["channel_def"] == {"0": "background", "1": "lesion"}
    assert next(iter(metadata["network_data_format"]["inputs"])) == "image"
    assert next(iter(metadata["network_data_format"]["outputs"])) == "pred"


def test_results_that_nobody_measured_are_not_claimed(metadata: dict[str, Any], bundle: Path) -> None:
    assert "not measured" in metadata["eval_metrics"]["DeepLesion"]
    assert "not a medical device" in metadata["intended_use"].lower()
    card = (bundle / "docs" / "README.md").read_text()
    headings = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert headings == [
        *("Intended use", "Out of scope", "Model", "Data", "Results", "How to use it", "Limits", "Licence", "Citation"),
    ]


def test_unit_tests_of_the_zoo(zoo: Path, tmp_path: Path) -> None:
    generate(tmp_path / "data", "small", seed=1, workers=1, num_train=2, num_validation=1, num_test=1)
    hu = ball_scan()
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), tmp_path / "scan.nii.gz")
    override = {
        "bundle_root": f"models/{NAME}",
        "dataset_dir": str(tmp_path / "data"),
        "scan": str(tmp_path / "scan.nii.gz"),
        "max_epochs": 1,
        "num_workers": 0,
        "device": "cpu",
        **NARROW,
    }
    (tmp_path / "unit_test.py").write_text(UNIT_TEST)
    done = python(str(tmp_path / "unit_test.py"), json.dumps(override), cwd=zoo)
    assert done.returncode == 0, done.stderr[-3000:]
    root = zoo / "models" / NAME
    assert (root / "models" / "last.pt").is_file()
    assert (root / "eval" / "metrics.json").is_file()
    assert (root / "eval" / "lesions.json").is_file()
