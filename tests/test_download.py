"""What a user gets from a release: downloaded from a local server, then run and loaded from its own folder alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.apps.utils import HashCheckError
from monai.bundle import download, download_large_files
from monai.bundle import scripts as monai_scripts

from scripts.data.synthetic import generate
from scripts.storage.atomic_files import sha256
from scripts.weights import load_network
from support.clean_processes import python as clean_python
from support.fake_scans import ball_scan
from support.packed_bundle import DEMO, REPOSITORY, load_tool

tool = load_tool()
VERSION = tool.checked_version(REPOSITORY)
GUIDE = (REPOSITORY / "mp3d_bundle" / "docs" / "download.md").read_text(encoding="utf-8")
# Without what would let the repository's own code in.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Drop the line."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a server with a release; its `model.pt` is the demo's."""
    folder = tmp_path_factory.mktemp("served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    tool.make_bundle(folder, releases=address)
    release = folder / f"v{VERSION}"
    release.mkdir()
    shutil.copy(DEMO, release / "model.pt")
    for name in tool.SHIPPED:
        shutil.copy(DEMO.with_name(Path(name).name), release)
    yield address, folder
    server.shutdown()


@pytest.fixture(scope="module")
def bundle(served: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as MONAI's own command leaves it."""
    folder = tmp_path_factory.mktemp("downloads")
    url = f"{served[0]}/mp3d_bundle_v{VERSION}.zip"
    done = python(
        *("-m", "monai.bundle", "download", "--name", "mp3d_bundle", "--url", url, "--bundle_dir", str(folder)),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "metadata file not found" not in done.stderr + done.stdout
    return folder / "mp3d_bundle"


def python(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return clean_python(*arguments, cwd=cwd, environment=ENVIRONMENT | variables)


def documented_loads(folder: Path) -> str:
    """The code in the guide, for the bundle in ``folder``."""
    first, second = (block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if " load(" in block)
    return f"{first}\nloaded = [network]\n{second}\nloaded.append(network)\n".replace('"D', f'"{folder}')


# What the code in the guide must have brought.
LOADED = """
import torch

for network, name in zip(loaded, ("model", "demo"), strict=True):
    content = torch.load(f"{sys.path[0]}/models/{name}.pt", weights_only=True)["model"]
    state = network.state_dict()
    assert set(state) == set(content) and len(state) > 50
    assert all(torch.equal(state[key].cpu(), tensor) for key, tensor in content.items())
    assert type(network).__module__ == "scripts.networks.two_stage"
    assert sys.modules["scripts"].__file__.startswith(sys.path[0]), sys.modules["scripts"].__file__
    with torch.no_grad():
        (found,) = network(torch.zeros(1, 9, 96, 96, device=next(network.parameters()).device))
    print(name, tuple(found["boxes"].shape)[1:])
"""


def infer(bundle: Path, folder: Path) -> dict[str, Any]:
    """``run inferring`` from another working folder; returns ``lesions.json``."""
    hu = ball_scan()
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), folder / "scan.nii.gz")
    done = python(
        *("-m", "monai.bundle", "run", "inferring", "--config_file", str(bundle / "configs" / "inference.json")),
        *("--bundle_root", str(bundle), "--input", "scan.nii.gz", "--output_dir", "out", "--progress", "False"),
        *("--device", "cpu"),
        cwd=folder,
        PYTHONPATH=str(bundle),
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out" / "lesions.json").read_text())


def train(bundle: Path, folder: Path) -> None:
    """``run training`` from the bundle's folder, results where they go by default."""
    generate(folder / "data", "small", seed=1, workers=1, num_train=2, num_validation=1, num_test=1)
    files = "['configs/train.json','configs/variants/size_narrow.yaml']"
    done = python(
        *("-m", "monai.bundle", "run", "training", "--config_file", files, "--device", "cpu", "--num_slices", "1"),
        *("--dataset_dir", str(folder / "data"), "--max_epochs", "1", "--num_workers", "0", "--log_interval", "1"),
        cwd=bundle,
    )
    assert done.returncode == 0, done.stderr
    assert "loss_classifier" in done.stdout
    assert "Epoch[1] Metrics -- ap50: " in done.stdout


def test_a_download_finds_lesions_loads_in_python_and_trains(bundle: Path, tmp_path: Path) -> None:
    assert sha256(bundle / "models" / "model.pt") == sha256(DEMO)
    found = infer(bundle, tmp_path)
    assert found["model"]["sha256"] == sha256(DEMO)
    assert any("synthetic images" in notice and "no real lesions" in notice for notice in found["notices"])

    (tmp_path / "load.py").write_text(documented_loads(bundle.parent) + LOADED)
    done = python(str(tmp_path / "load.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-3:] == ["model (4,)", "demo (4,)", ""]

    copy = shutil.copytree(bundle, tmp_path / "mp3d_bundle")
    train(copy, tmp_path)
    _, info = load_network(copy / "models" / "model.pt")
    assert info["name"] == "MP3D FPN"
    assert not info["notice"]


def test_weights_are_fetched_again_and_checked(served: tuple[str, Path], bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "mp3d_bundle")
    (copy / "models" / "model.pt").unlink()
    download_large_files(bundle_path=str(copy))
    assert sha256(copy / "models" / "model.pt") == sha256(DEMO)
    # Another file under the same address is rejected.
    (copy / "models" / "model.pt").unlink()
    listed = (copy / "large_files.yml").read_text()
    (served[1] / "other.pt").write_bytes(b"other")
    (copy / "large_files.yml").write_text(listed.replace(f"v{VERSION}/model.pt", "other.pt"))
    with pytest.raises(HashCheckError, match="hash check of downloaded file failed"):
        download_large_files(bundle_path=str(copy))
    assert not (copy / "models" / "model.pt").exists()


def test_files_that_are_there_need_no_network() -> None:
    """The address in the repository is a placeholder: with the demo's weights in place it is never asked."""
    download_large_files(bundle_path=str(REPOSITORY / "mp3d_bundle"))


def test_release_of_github_by_name(served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(url: str, filepath: Path, **_: Any) -> None:
        asked.append(url)
        shutil.copy(served[1] / url.rsplit("/", 1)[1], filepath)

    monkeypatch.setattr(monai_scripts, "download_url", fetch)
    tag = f"v{VERSION}"
    download("mp3d_bundle", version=VERSION, source="github", repo=f"OWNER/REPOSITORY/{tag}", bundle_dir=tmp_path)
    # The same address as the route by address has.
    written = "https://github.com/OWNER/REPOSITORY/releases/download/vX.Y.Z/mp3d_bundle_vX.Y.Z.zip"
    assert written in GUIDE
    assert asked == [written.replace("X.Y.Z", VERSION)]
    assert (tmp_path / "mp3d_bundle" / "models" / "model.pt").is_file()


def test_hugging_face_by_name(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        """Stands in for the package, which is not needed otherwise."""

        @staticmethod
        def snapshot_download(repo_id: str, revision: str, local_dir: str) -> None:
            """Copy what the hub would send."""
            assert (repo_id, revision) == ("OWNER/mp3d_bundle", VERSION)
            shutil.copytree(bundle, local_dir)

    monkeypatch.setattr(monai_scripts, "huggingface_hub", Hub)
    download("mp3d_bundle", version=VERSION, source="huggingface_hub", repo="OWNER/mp3d_bundle", bundle_dir=tmp_path)
    assert (tmp_path / "mp3d_bundle" / "configs" / "metadata.json").is_file()
