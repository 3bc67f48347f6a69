"""The parts around MONAI Label that can be looked at without it: set-up, lock file, and what gets served."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
INTEGRATION = REPOSITORY / "integrations" / "monai_label"
BUNDLE = REPOSITORY / "mp3d_bundle"
SERVE = INTEGRATION / "serve.py"


def module(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def locked() -> dict[str, str]:
    text = (INTEGRATION / "requirements.lock").read_text()
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))


class Refused(Exception):
    """Stands in for FastAPI's error."""


def infer_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The app's inference with stand-ins for its parts of MONAI Label and FastAPI."""
    label = "monailabel"
    stand_ins = {
        "fastapi": {"HTTPException": Refused},
        f"{label}.interfaces.tasks.infer_v2": {"InferType": object},
        f"{label}.tasks.infer.bundle": {"BundleInferTask": object},
        f"{label}.utils.others.class_utils": {"unload_module": str},
        f"{label}.utils.others.generic": {"device_list": lambda: ["cpu", "cuda"], "name_to_device": str},
    }
    for name, content in stand_ins.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        vars(sys.modules[name]).update(content)
    return module(INTEGRATION / "app" / "mp3d_label_infer.py", monkeypatch)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("score_threshold", [0.5, "0.7", ""], "$exec('code')"),
        ("operating_point", ["none", 1, "0.5", None], "$exec('code')"),
        ("operating_point", ["none"], ["$exec('code')"]),
        ("model_filename", ["model.pt"], "../other.pt"),
        ("device", ["cpu", "cuda:0"], "$exec('code')"),
        ("device", ["cpu"], ["cuda"]),
    ],
)
def test_every_element_of_a_list_is_checked(
    monkeypatch: pytest.MonkeyPatch, name: str, good: list[object], bad: object
) -> None:
    check = infer_module(monkeypatch).check_parameters
    shown = {"operating_point": ["none", "0.5", 1], "model_filename": ["model.pt"]}
    for value in (good, [], *good):
        check({name: value}, shown)
    for value in ([*good, bad], [bad, *good], [bad]):
        with pytest.raises(Refused) as caught:
            check({name: value}, shown)
        assert repr(bad) in caught.value.args[1]


def test_the_lock_holds_what_monai_label_runs_with() -> None:
    versions = locked()
    assert versions["monailabel"] == "0.8.5"
    assert versions["numpy"].startswith("1.26.")
    assert versions["pydicom"].startswith("2.")
    assert versions["pynetdicom"].startswith("2.")
    assert versions["dicomweb-client"].startswith("0.59.")
    assert "sam2" not in versions


def test_the_lock_holds_what_the_bundle_needs() -> None:
    names = set(locked())
    project = (REPOSITORY / "pyproject.toml").read_text().split("[project.optional-dependencies]")[0]
    needed = re.findall(r'^    "([\w-]+)>=', project, re.MULTILINE)
    assert len(needed) > 10
    # It writes DICOM results, wants pydicom 3, and is not asked for here.
    assert set(needed) - names == {"highdicom"}


def test_the_lock_follows_from_what_is_asked_for() -> None:
    versions = locked()
    for line in (INTEGRATION / "requirements.in").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.split(r"[=<>]", line)[0] in versions, line


def test_setup_takes_pythons_that_have_distutils(tmp_path: Path) -> None:
    os.symlink(shutil.which("dirname") or "", tmp_path / "dirname")
    prelude = "import sys; sys.version_info = (3, 12, 1, 'final', 0)"
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{prelude}\n$2"\n')
    (tmp_path / "python3").chmod(0o755)
    command = ["/bin/sh", str(REPOSITORY / "tools" / "label_setup.sh")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "It needs Python 3.10 or 3.11" in done.stderr
    assert "python3 is Python 3.12.1, newer than 3.11: MONAI Label 0.8.5 needs distutils" in done.stderr
    assert "LABEL_PYTHON=" in done.stderr


def test_the_entry_of_a_package_is_cut_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_of = module(REPOSITORY / "tools" / "label_environment.py", monkeypatch).entry_of
    lock = "aa==1 \\\n    --hash=sha256:0\nmonailabel==2 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\nzz==3 \\\n"
    assert entry_of("monailabel", lock) == "monailabel==2 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n"
    assert entry_of("zz", lock) == "zz==3 \\\n"
    with pytest.raises(ValueError, match="Expected label in the lock"):
        entry_of("label", lock)


def serve(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SERVE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_is_served_is_a_copy_that_keeps_its_weights(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    done = serve("--prepare", "--folder", tmp_path, "--weights", first)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "mp3d" / "model" / "mp3d_bundle"
    models = bundle / "models"
    assert (tmp_path / "mp3d" / "main.py").is_file()
    assert (bundle / "scripts" / "workflows" / "monai_label.py").is_file()
    # Trained further in the meantime, and the code has moved on.
    (models / "model.pt").write_bytes(b"trained")
    (bundle / "scripts" / "gone.py").write_text("")
    done = serve("--prepare", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (models / "model.pt").read_bytes() == b"trained"
    assert not (bundle / "scripts" / "gone.py").exists()
    done = serve("--prepare", "--folder", tmp_path, "--weights", second)
    assert done.returncode == 0, done.stderr
    assert ((models / "model.pt").read_bytes(), (models / "previous.pt").read_bytes()) == (b"2", b"trained")
    # Back to what was served before.
    assert serve("--prepare", "--folder", tmp_path, "--weights", models / "previous.pt").returncode == 0
    assert ((models / "model.pt").read_bytes(), (models / "previous.pt").read_bytes()) == (b"trained", b"2")
    assert not list(models.glob(".*.part"))


def test_without_weights_of_its_own_the_demos_are_served_with_a_warning(tmp_path: Path) -> None:
    if (REPOSITORY / "mp3d_bundle" / "models" / "model.pt").is_file():
        pytest.skip("there are trained weights in models/")
    done = serve("--prepare", "--folder", tmp_path)
    assert "find no real lesions" in done.stdout


def test_what_is_allowed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    serving = module(SERVE, monkeypatch)

    def guarded(*words: str) -> dict[str, object]:
        return serving.guarded(serving.arguments(list(words)))

    assert serving.arguments([]).host == "127.0.0.1"
    assert guarded() == {"hosts": ["127.0.0.1"], "origins": [], "upload_mb": 4096}
    assert not capsys.readouterr().out
    assert guarded("--host", "0.0.0.0")["hosts"] == []
    assert "--allow_host NAME adds a name of this machine" in capsys.readouterr().out
    words = ("--host", "::1", "--allow_host", "Scanner.example", "--allow_origin", "https://Viewer.example/")
    allowed = guarded(*words, "--max_upload_mb", "10")
    assert allowed == {
        "hosts": ["scanner.example", "[::1]"],
        "origins": ["https://viewer.example"],
        "upload_mb": 10,
    }


def test_both_apps_are_guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = module(SERVE, monkeypatch)
    stock = tmp_path / "prefix" / "monailabel" / "sample-apps" / "monaibundle"
    stock.mkdir(parents=True)
    (stock / "main.py").write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    for kind in serving.NAMES:
        serving.prepare_app(kind, tmp_path / kind)
        assert {path.name for path in (tmp_path / kind).glob("*.py")} >= {"main.py", *serving.GUARD}
    assert '"--uvicorn_app", "mp3d_label_web:app"' in SERVE.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prepare", "--weights", "nowhere.pt"), "found no weights at nowhere.pt"),
        (("--prepare", "--allow_origin", "*"), "Expected an origin such as"),
        (("--prepare", "--allow_origin", "null"), "Expected an origin such as"),
        (("--prepare", "--allow_host", "a/b"), "Expected the name or address of a host"),
        (("--prepare", "--max_upload_mb", "0"), "expected --max_upload_mb from 1, got 0"),
        ((), "make label STUDIES=DIR"),
        (("--studies", "nowhere"), "the folder nowhere does not exist"),
        (("--prepare", "--app", "monaibundle"), "make label-setup"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    if "monaibundle" in arguments and (Path(sys.prefix) / "monailabel").exists():
        pytest.skip("MONAI Label is installed here")
    done = serve("--folder", tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("label: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.nii.gz": "", "a.nrrd": ""}, "got a.nii.gz and a.nrrd in"),
        ({"a.nii.b.nii": ""}, "Rename it"),
        ({"datastore_v2.json": "{"}, "cannot read it: Expecting property name"),
        ({"datastore_v2.json": '{"images_dir": "/etc"}'}, "its images_dir is not in this folder: '/etc'"),
        ({"datastore_v2.json": '{"images_dir": "a/../.."}'}, "its images_dir is not in this folder"),
        ({"datastore_v2.json": '{"labels_dir": "../labels"}'}, "its labels_dir is not in this folder"),
        ({"datastore_v2.json": '{"labels_dir": 3}'}, "its labels_dir is not in this folder: 3"),
        *(
            ({"datastore_v2.json": json.dumps({"objects": objects})}, message)
            for objects, message in (
                ({"../a": {"image": {"ext": ".nii"}}}, "that is not in this folder: '../a'"),
                ({"a": {"image": {"ext": "/../../b.nii"}}}, "with the extension '/../../b.nii'"),
                ({"a": {"image": {"ext": 3}}}, "that is not in this folder"),
                ({"a": {}}, "that is not in this folder"),
                ({"a": 3}, "the labels of 'a' are something else"),
                ({"a": {"image": {"ext": ""}, "labels": {"../x": {"ext": ".json"}}}}, "the labels of 'a'"),
                ({"a": {"image": {"ext": ""}, "labels": {"final": {"ext": "/x"}}}}, "with the extension '/x'"),
            )
        ),
        ({"datastore_v2.json": "[]"}, "submit the boxes in labels again"),
        ({"datastore_v2.json": r'{"objects": {"a": "\ud800"}}'}, "surrogates not allowed"),
        ({"datastore_v2.json": "[" * 100_000}, "cannot read it"),
    ],
)
def test_a_folder_that_would_be_read_wrongly_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], message: str
) -> None:
    serving = module(SERVE, monkeypatch)
    for name, content in {"ok.nii.gz": "", "ok.xml": "", "datastore_v2.json": '{"objects": {}}', **files}.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match=re.escape(message)) as caught:
        serving.check_studies(tmp_path)
    assert str(caught.value).startswith("label: expected")
    for name in files:
        (tmp_path / name).unlink()
    serving.check_studies(tmp_path)


def test_the_list_that_monai_label_writes_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = {"ext": ".json", "info": {"ts": 1, "name": "a b 😀.json"}}
    entry = {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"final": label, "original": label}}
    written = {"name": "", "images_dir": ".", "labels_dir": "labels", "objects": {"a b 😀": entry}}
    (tmp_path / "datastore_v2.json").write_text(json.dumps(written))
    module(SERVE, monkeypatch).check_studies(tmp_path)


def test_every_module_that_is_started_as_a_program_is_there() -> None:
    named = [
        name
        for path in INTEGRATION.rglob("*.py")
        for name in re.findall(r"""["']-m["'],\s*["'](scripts[\w.]*)["']""", path.read_text())
    ]
    assert named
    absent = [name for name in named if not (BUNDLE / name.replace(".", "/")).with_suffix(".py").is_file()]
    assert absent == []


def test_no_address_is_contacted_by_the_app() -> None:
    for path in INTEGRATION.rglob("*.py"):
        # Neither a host by name nor any other machine.
        assert not re.search(r"://(?!127\.0\.0\.1|localhost|\w+\.example|\{host\}|\"|\(\?:)", path.read_text()), (
            path.name
        )
    assert '"zoo_source", "local"' in SERVE.read_text()
