"""The folder of weights: its README names what is shipped, with the hash that the file has."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from scripts.boxes import pairwise_iou
from scripts.data.intensity import IntensityWindow
from scripts.weights import load_network

MODELS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "models"


def test_the_readme_gives_the_hash_of_every_shipped_file_and_of_no_other() -> None:
    text = (MODELS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^\| `([\w./-]+)` \|(.*)$", text))
    told = {name: re.findall(r"\b[0-9a-f]{64}\b", row) for name, row in rows.items()}
    listed = subprocess.run(["git", "ls-files", "*.pt", "*.pth"], cwd=MODELS, capture_output=True, text=True)
    # Without git every file here counts as shipped.
    shipped = listed.stdout.split() or [path.name for path in MODELS.glob("*.pt*")]
    hashes = {name: [hashlib.sha256((MODELS / name).read_bytes()).hexdigest()] for name in shipped}
    assert hashes
    assert {name: found for name, found in told.items() if found} == hashes


def test_the_weights_of_sarcomas_are_small_and_name_their_patients_and_their_licence() -> None:
    path = MODELS / "sarcoma.pt"
    assert path.stat().st_size < 5_000_000
    _, info = load_network(path)
    assert {"10.7937/K9/TCIA.2015.7GO2GSKS", "CC BY 3.0", "Not a medical device"} <= {
        part for part in ("10.7937/K9/TCIA.2015.7GO2GSKS", "CC BY 3.0", "Not a medical device")
        if part in info["notice"]
    }  # fmt: skip
    assert info["recipe"]["pixel_spacing"] == 1.95312
    assert len(info["calibration"]["scores"]) == len(info["calibration"]["probabilities"])
    assert 0 < info["inference"]["score_threshold"] < 1


def test_the_weights_of_sarcomas_find_one_in_a_patient_they_have_not_seen(shared: Path) -> None:
    folder = shared / "data" / "real" / "sarcoma" / "STS_022"
    volumes = [np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj).T for name in ("ct", "tumour")]  # type: ignore[attr-defined]
    # The widest slice and its neighbours, 3.27 mm apart; columns run to the left and rows to the back, as in slabs.
    widest = int((volumes[1] > 0).sum(axis=(1, 2)).argmax())
    slab = IntensityWindow()(torch.from_numpy(volumes[0][widest - 4 : widest + 5].astype(np.float32)))
    halved = torch.nn.functional.interpolate(slab[None], scale_factor=0.5, mode="bilinear")[0]
    rows, columns = np.nonzero(volumes[1][widest] > 0)
    tumour = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]) / 2
    network, _ = load_network(MODELS / "sarcoma.pt")
    with torch.inference_mode():
        found = network.eval()(halved[None])[0]
    best = found["boxes"][found["scores"].argmax()][None].numpy()
    assert found["scores"].max() > 0.5
    assert pairwise_iou(best, tumour)[0, 0] > 0.5
