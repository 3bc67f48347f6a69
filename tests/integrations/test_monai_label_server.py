"""MONAI Label as its users meet it: a server, a folder of CTs, and requests over HTTP (`make test-label`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from support.fake_bundles import write_decoy
from support.fake_labels import write_ball, write_scan
from support.label_server import PYTHON, REPOSITORY, Server

pytestmark = pytest.mark.skipif("MP3D_LABEL_SERVER" not in os.environ, reason="`make test-label` starts servers")

BUNDLE = REPOSITORY / "mp3d_bundle"
DEMO = BUNDLE / "models" / "demo.pt"
OURS, DECOY, STOCK = "mp3d_bundle", "bright_segmentation", "mp3d_fpn_ct_detection"
REAL = {"sts_002": "STS_002/CT_image.nii.gz", "nnunet": "nnunet_example/example_ct_sm.nii.gz"}
THRESHOLD = 0.3


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scans: real ones where they are at hand, and a synthetic one."""
    folder = tmp_path_factory.mktemp("studies")
    volumes = Path(os.environ.get("MP3D_SHARED", REPOSITORY.parent / "shared")) / "data" / "volumes"
    for name, path in REAL.items():
        if (volumes / path).is_file():
            shutil.copyfile(volumes / path, folder / f"{name}.nii.gz")
    write_scan(folder / "ball.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 8, 7), dtype=np.uint8), np.eye(4)), folder / "mask.nii.gz")
    return folder


@pytest.fixture(scope="module")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Our app with our bundle and one of another kind."""
    folder = tmp_path_factory.mktemp("served")
    decoy = write_decoy(tmp_path_factory.mktemp("decoy") / DECOY)
    arguments = ("--studies", studies, "--folder", folder, "--weights", DEMO, "--beside", decoy)
    running = Server(folder / "server.log", *arguments)
    yield running
    running.close()


@pytest.fixture(scope="module")
def inferred(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``run inferring`` finds in the same folder, in this environment."""
    output = tmp_path_factory.mktemp("inferred")
    command = [sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json"]
    inputs = [str(path) for path in scans(studies)]
    settings = {"input": inputs, "output_dir": output, "checkpoint": DEMO, "score_threshold": THRESHOLD}
    settings |= {"outputs": ["json", "slicer"], "device": "cpu", "progress": False}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    # Several processes run; their threads would slow each other down.
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *words], cwd=BUNDLE, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def scans(studies: Path) -> list[Path]:
    return sorted(path for path in studies.glob("*.nii.gz") if path.name != "mask.nii.gz")


def ids(studies: Path) -> list[str]:
    return [path.name.removesuffix(".nii.gz") for path in scans(studies)]


def result(inferred: Path, image: str, name: str) -> Any:
    (path,) = [path for path in inferred.rglob(name) if image in path.parent.name]
    return json.loads(path.read_text())


def centres_and_sizes(lesions: list[dict[str, Any]]) -> np.ndarray:
    corners = np.array([lesion["box_lps_mm"] for lesion in lesions]).reshape(-1, 6)
    return np.hstack([(corners[:, :3] + corners[:, 3:]) / 2, corners[:, 3:] - corners[:, :3]])


def test_the_two_environments_have_the_two_numpys() -> None:
    told = subprocess.run([str(PYTHON), "-c", "import numpy; print(numpy.__version__)"], capture_output=True, text=True)
    assert told.stdout.startswith("1.26.")


def test_info_shows_detectors_and_their_parameters(server: Server) -> None:
    info = server.ask("GET", "/info/").json()
    assert set(info["models"]) == {OURS, DECOY}
    model = info["models"][OURS]
    assert (model["type"], model["labels"], model["dimension"]) == ("detection", {"lesion": 1}, 3)
    assert model["config"]["operating_point"][:2] == ["none", "0.004"]
    assert 0 < model["config"]["score_threshold"] < 1
    assert model["config"]["model_filename"] == ["model.pt"]
    assert info["models"][DECOY]["type"] == "segmentation"
    assert {"max_epochs", "val_split", "learning_rate"} <= set(info["trainers"][OURS]["config"])
    assert "research" in info["description"]


def test_the_datastore_lists_the_folder(server: Server, studies: Path) -> None:
    status = server.ask("GET", "/datastore/").json()
    assert (status["total"], status["completed"]) == (len(scans(studies)) + 1, 0)
    assert set(server.ask("GET", "/datastore/", output="all").json()["objects"]) == {*ids(studies), "mask"}
    assert server.ask("POST", "/activelearning/first", {}).json()["id"] in {*ids(studies), "mask"}


def test_lesions_as_json_are_those_of_run_inferring(server: Server, studies: Path, inferred: Path) -> None:
    total = 0
    for image in ids(studies):
        answer = server.infer(OURS, image, params={"score_threshold": THRESHOLD})
        assert answer.status == 200, answer.body
        given, expected = answer.json(), result(inferred, image, "lesions.json")
        lesions = expected["lesions"]
        total += len(lesions)
        np.testing.assert_allclose(
            np.array(given["box"]).reshape(-1, 6), centres_and_sizes(lesions), atol=0.01, err_msg=image
        )
        np.testing.assert_allclose(given["score"], [lesion["score"] for lesion in lesions], atol=1e-4)
        assert given["label"] == [1] * len(lesions)
        assert [lesion["key_slice"] for lesion in given["lesions"]] == [lesion["key_slice"] for lesion in lesions]
        assert given["notices"] == expected["notices"]
        assert given["image"] == f"{image}.nii.gz"
    assert total > 3


def test_lesions_as_markups_are_those_of_run_inferring(server: Server, studies: Path, inferred: Path) -> None:
    for image in ids(studies):
        params = {"score_threshold": THRESHOLD}
        markups = server.infer(OURS, image, "image", params).json()
        expected = result(inferred, image, "lesions.mrk.json")
        assert markups["@schema"] == expected["@schema"]
        for one, other in zip(markups["markups"], expected["markups"], strict=True):
            assert (one["type"], one["coordinateSystem"], one["name"]) == ("ROI", "LPS", other["name"])
            for key in ("center", "size", "orientation"):
                np.testing.assert_allclose(one[key], other[key], atol=0.01)


def test_an_answer_in_two_parts(server: Server) -> None:
    params = {"score_threshold": 0}
    parts = server.infer(OURS, "ball", "all", params).parts()
    markups = json.loads(parts["image"])["markups"]
    assert len(json.loads(parts["params"])["box"]) == len(markups) > 0


def test_parameters_choose_what_is_reported(server: Server) -> None:
    image = "ball"
    points = server.ask("GET", "/info/").json()["models"][OURS]["config"]["operating_point"]
    counts = [
        len(server.infer(OURS, image, params={"operating_point": point}).json()["box"])
        for point in (points[1], points[-1])
    ]
    assert counts[0] <= counts[-1]
    every = server.infer(OURS, image, params={"score_threshold": "0.0"}).json()
    assert len(every["box"]) > counts[0]
    # A form sends every field: without an operating point the threshold is used.
    form = {"operating_point": "none", "score_threshold": 0.0, "device": "cpu", "model_filename": "model.pt"}
    assert server.infer(OURS, image, params=form).json()["box"] == every["box"]


def test_nothing_found_is_an_answer_too(server: Server) -> None:
    params = {"score_threshold": 1}
    assert server.infer(OURS, "ball", params=params).json()["box"] == []
    assert server.infer(OURS, "ball", "image", params).json()["markups"] == []
    # Slicer cannot open an empty file of markups; it gets the answer alone.
    viewer = server.infer(OURS, "ball", "all", {**params, "client_id": "user-xyz"})
    assert (viewer.status, viewer.json()["lesions"]) == (200, [])


@pytest.mark.parametrize(
    ("model", "image", "params", "status", "message"),
    [
        (OURS, "absent", {}, 404, "id of an image in the datastore, got 'absent'"),
        (OURS, "/etc/passwd", {}, 404, "id of an image in the datastore"),
        ("absent", "ball", {}, 404, f"Expected a model among {DECOY}, {OURS}, got 'absent'"),
        (OURS, "ball", {"score_threshold": 2}, 400, "score_threshold from 0 to 1, got 2"),
        (OURS, "ball", {"score_threshold": "high"}, 400, "score_threshold from 0 to 1, got 'high'"),
        (OURS, "ball", {"score_threshold": "$import os"}, 400, "plain values as score_threshold, got '$import os'"),
        (OURS, "ball", {"operating_point": "3"}, 400, "operating_point to be one of none, 0.004"),
        (OURS, "ball", {"model_filename": "../x.pt"}, 400, "model_filename to be one of model.pt"),
        (OURS, "ball", {"device": "abacus"}, 400, "device among"),
        (OURS, "ball", b"score_threshold=1", 400, "params as a JSON object"),
        (OURS, "ball", b"[1]", 400, "params as a JSON object"),
        (OURS, "mask", {}, 422, "Hounsfield units in at least 16 bits, got 8-bit values in mask.nii.gz"),
    ],
)
def test_bad_requests_are_answered_with_a_message(
    server: Server, model: str, image: str, params: Any, status: int, message: str
) -> None:
    answer = server.infer(model, image, params=params)
    assert (answer.status, message in answer.json()["detail"]) == (status, True), answer.body
    assert server.ask("GET", "/info/").status == 200


def test_a_scan_can_be_sent_along(server: Server, studies: Path) -> None:
    scan = (studies / "ball.nii.gz").read_bytes()
    sent = server.ask("POST", f"/infer/{OURS}", {"params": b"{}", "file": ("x.nii.gz", scan)}, output="json")
    assert sent.status == 200, sent.body
    assert sent.json()["box"] == server.infer(OURS, "ball").json()["box"]


def test_another_bundle_with_its_own_scripts_does_not_get_in_the_way(server: Server, studies: Path) -> None:
    params = {"score_threshold": 0.0}
    before = server.infer(OURS, "ball", params=params).json()
    for _ in range(2):
        answer = server.infer(DECOY, "ball", "image")
        assert answer.status == 200, answer.body
        path = studies.parent / "bright.nii.gz"
        path.write_bytes(answer.body)
        bright = np.asarray(nibabel.load(path).dataobj) > 0  # type: ignore[attr-defined]
        hu = np.asarray(nibabel.load(studies / "ball.nii.gz").dataobj)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(bright, hu > 200)
        again = server.infer(OURS, "ball", params=params).json()
        assert (again["box"], again["score"]) == (before["box"], before["score"])


def test_training_from_boxes_gives_the_weights_of_the_next_inference(server: Server, tmp_path: Path) -> None:
    params = {"score_threshold": 0.0}
    before = server.infer(OURS, "ball", params=params).json()
    nothing = server.ask("POST", f"/train/{OURS}", {"max_epochs": 1}, run_sync="true")
    assert (nothing.status, "submitted labels (tag final)" in nothing.json()["detail"]) == (422, True)
    for wrong in ({"max_epochs": 0}, {"max_epochs": "ten"}, {"val_split": 1}):
        assert server.ask("POST", f"/train/{OURS}", wrong, run_sync="true").status == 400
    assert server.ask("POST", "/train/absent", {}, run_sync="true").status == 404
    label = {"label": ("lesions.json", write_ball(tmp_path / "ball.json").read_bytes())}
    assert server.ask("PUT", "/datastore/label", label, image="absent", tag="final").status == 404
    assert server.ask("PUT", "/datastore/label", label, image="ball", tag="final").status == 200
    assert server.ask("GET", "/datastore/").json()["completed"] == 1
    trained = server.ask("POST", f"/train/{OURS}", {"max_epochs": 1, "device": "cpu"}, run_sync="true")
    assert trained.status == 200, trained.body
    facts = trained.json()
    assert (facts["scans"], facts["boxes"], facts["epoch"]) == (1, 1, 1)
    after = server.infer(OURS, "ball", params=params).json()
    assert after["weights"]["sha256"] == facts["sha256"] != before["weights"]["sha256"]
    assert after["score"] != before["score"]
    assert "Trained further on 1 scan(s) with 1 box(es)" in after["notices"][1]
    # Thresholds that were measured with the old weights are no longer on offer.
    config = server.ask("GET", "/info/").json()["models"][OURS]["config"]
    assert config["operating_point"] == ["none"]
    # All labelled scans at once; the markups are kept next to the label.
    batch = server.ask("POST", f"/batch/infer/{OURS}", params, images="labeled", run_sync="true")
    assert batch.status == 200, batch.body
    assert batch.json()["ball"]["params"]["box"] == after["box"]
    assert set(server.ask("GET", "/datastore/", output="all").json()["objects"]["ball"]["labels"]) >= {
        "final",
        "original",
    }


CLIENT = """
import json, sys
from monailabel.client.client import MONAILabelClient, MONAILabelClientException
client = MONAILabelClient(sys.argv[1], sys.argv[2], "user-xyz")
config = client.info()["models"]["mp3d_bundle"]["config"]
# As the plug-in sends its table: the first of each list of choices.
sent = {name: value[0] if isinstance(value, list) else value for name, value in config.items()}
found, answer = client.infer("mp3d_bundle", "ball", {**sent, "score_threshold": 0.0})
nothing, _ = client.infer("mp3d_bundle", "ball", {**sent, "score_threshold": 1.0})
try:
    client.infer("mp3d_bundle", "ball", {**sent, "score_threshold": 3})
except MONAILabelClientException as error:
    message = error.msg
with open(found) as file:
    boxes = len(json.load(file)["markups"])
client.save_label("ball", found, "original", {"label_info": []})
print(json.dumps([found, boxes, len(answer["box"]), nothing, message]))
"""


def test_the_client_inside_slicers_plug_in(server: Server, tmp_path: Path) -> None:
    command = [str(PYTHON), "-c", CLIENT, server.address, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, boxes, answered, nothing, message = json.loads(done.stdout.splitlines()[-1])
    # The plug-in recognises boxes by this extension.
    assert found.endswith(".json")
    assert boxes == answered > 0
    assert nothing is None
    assert "score_threshold from 0 to 1, got 3" in message


@pytest.fixture(scope="module")
def stock(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MONAI Label's own app for bundles, with ours in a folder that names its kind."""
    folder = tmp_path_factory.mktemp("stock")
    arguments = ("--app", "monaibundle", "--studies", studies, "--folder", folder, "--weights", DEMO)
    running = Server(folder / "server.log", *arguments)
    yield running
    running.close()


def test_the_stock_app_serves_the_bundle_too(stock: Server, studies: Path, inferred: Path) -> None:
    model = stock.ask("GET", "/info/").json()["models"][STOCK]
    assert (model["type"], model["labels"]) == ("detection", {"lesion": 1})
    assert "score_threshold" in model["config"]
    for image in ids(studies):
        markups = stock.infer(STOCK, image, "image", {"score_threshold": THRESHOLD})
        assert markups.status == 200, markups.body
        boxes = [[*one["center"], *one["size"]] for one in markups.json()["markups"]]
        lesions = result(inferred, image, "lesions.json")["lesions"]
        np.testing.assert_allclose(np.array(boxes).reshape(-1, 6), centres_and_sizes(lesions), atol=0.01, err_msg=image)
    answer = stock.infer(STOCK, "ball", params={"operating_point": "4"})
    assert answer.status == 200, answer.body
    assert {"box", "label", "label_names"} <= set(answer.json())
