"""Starts MONAI Label with this repository's bundle: ``make label STUDIES=DIR``.

Run by the Python of `.venv-label`. The server uses a copy: MONAI Label writes into its app's folder, and training
replaces weights. The copy's code is updated from the repository at every start; its weights stay, trained further
or not, until ``--weights`` names others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "app"))
from mp3d_label_guard import IMAGE_ID, IMAGE_MEBIBYTES, LOCAL_HOSTS, TAG, checked_host, checked_origin  # noqa: E402

ROOT = HERE.parents[1]
BUNDLE = ROOT / "mp3d_bundle"
# In the stock app the folder name makes a bundle a detector.
NAMES = {"mp3d": "mp3d_bundle", "monaibundle": "mp3d_fpn_ct_detection"}
CODE = ("configs", "scripts", "docs", "LICENSE")
# The guard in front of either app.
GUARD = ("mp3d_label_guard.py", "mp3d_label_checks.py", "mp3d_label_files.py", "mp3d_label_web.py")
# Addresses to listen on that clients never name.
ANY_ADDRESS = ("0.0.0.0", "::")
# Files that are scans. MONAI Label would list pictures and XML as well, and show one in place of the scan next to it
# that has the same name.
SCANS = (".nii.gz", ".nii", ".nrrd")
LIST = "datastore_v2.json"


def stop(message: str) -> NoReturn:
    """End with a message."""
    raise SystemExit(f"label: {message}")


def arguments(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make label", description=__doc__)
    parser.add_argument("--studies", default="", help="folder with scans, or address of a DICOMweb server")
    parser.add_argument("--weights", default="", help="weights to serve from now on")
    parser.add_argument("--app", default="mp3d", choices=sorted(NAMES), help="this app, or MONAI Label's monaibundle")
    parser.add_argument("--folder", default=str(ROOT / "runs" / "label"), help="folder of the served copy")
    parser.add_argument("--beside", action="append", default=[], help="folder of another bundle to serve too")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to serve other machines as well")
    parser.add_argument("--port", default="8000")
    parser.add_argument("--allow_host", action="append", default=[], help="another name that clients use for this host")
    parser.add_argument("--allow_origin", action="append", default=[], help="origin of web pages that may use this")
    parser.add_argument("--max_upload_mb", type=int, default=IMAGE_MEBIBYTES, help="largest accepted scan, in MiB")
    parser.add_argument("--prepare", action="store_true", help="make the copy and stop")
    return parser.parse_args(words)


def copy_new(source: Path, target: Path) -> None:
    """Copy a file or folder in place of an older copy."""
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "figures"))
    else:
        shutil.copyfile(source, target)


def prepare_app(kind: str, app: Path) -> None:
    """Copy the app's own files into its folder."""
    app.mkdir(parents=True, exist_ok=True)
    source = HERE / "app" if kind == "mp3d" else Path(sys.prefix) / "monailabel" / "sample-apps" / kind
    if not (source / "main.py").is_file():
        stop(f"MONAI Label's {kind} app is not in {source}. `make label-setup` installs it.")
    for path in [*source.glob("*.py"), *(HERE / "app" / name for name in GUARD)]:
        shutil.copyfile(path, app / path.name)
    for path in source.glob("lib"):
        copy_new(path, app / path.name)


def prepare_bundle(target: Path, weights: str) -> Path:
    """Copy the bundle's code into a folder, and weights if there are none yet or others are named.

    Returns:
        The weights that are served.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        copy_new(BUNDLE / name, target / name)
    served = target / "models" / "model.pt"
    if weights or not served.is_file():
        candidates = [Path(weights)] if weights else [BUNDLE / "models" / name for name in ("model.pt", "demo.pt")]
        chosen = next((path for path in candidates if path.is_file()), None)
        if chosen is None:
            stop(f"found no weights at {', '.join(map(str, candidates))}. Name some: make label WEIGHTS=FILE")
        served.parent.mkdir(exist_ok=True)
        # Copies first: the chosen file may be the previous one. And at no moment is there no served file, or the next
        # start would take itself for the first one.
        copies = {served.with_name(".model.pt.part"): (chosen, served)}
        if served.is_file():
            copies = {served.with_name(".previous.pt.part"): (served, served.with_name("previous.pt")), **copies}
        for part, (source, _) in copies.items():
            shutil.copyfile(source, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
        for part, (_, copy) in copies.items():
            os.replace(part, copy)
        print(f"Serving a copy of the weights {chosen}", flush=True)
        if chosen.name == "demo.pt":
            print("These are demo weights, from synthetic images: they find no real lesions.", flush=True)
    return served


def guarded(options: argparse.Namespace) -> dict[str, object]:
    """Settings of the guard beyond its defaults."""
    if options.max_upload_mb < 1:
        stop(f"expected --max_upload_mb from 1, got {options.max_upload_mb}.")
    try:
        hosts = [checked_host(name) for name in options.allow_host]
        if options.host not in ANY_ADDRESS:
            hosts.append(checked_host(options.host))
        origins = [checked_origin(text) for text in options.allow_origin]
    except ValueError as error:
        stop(str(error))
    if options.host in ANY_ADDRESS and not hosts:
        names = ", ".join(LOCAL_HOSTS)
        print(f"Only requests to {names} are answered: --allow_host NAME adds a name of this machine.", flush=True)
    return {"hosts": hosts, "origins": origins, "upload_mb": options.max_upload_mb}


def check_studies(folder: Path) -> None:
    """Check that MONAI Label can tell the scans of a folder apart and read the list that it keeps there."""
    found: dict[str, str] = {}
    for name in sorted(path.name for path in folder.iterdir()):
        ending = next((ending for ending in SCANS if name.endswith(ending)), None)
        if ending is None:
            continue
        image = name.replace(ending, "")  # as MONAI Label makes it
        if image + ending != name:
            stop(f"expected {ending} at the end of a scan's name only, got {name} in {folder}. Rename it.")
        if image in found:
            stop(
                f"expected one file for each scan, got {found[image]} and {name} in {folder}: both would be the "
                f"scan {image}. Rename one, or move it away."
            )
        found[image] = name
    try:
        content = json.loads((folder / LIST).read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair cannot be read back
        check_list(content, folder)
    except FileNotFoundError:
        pass
    except (ValueError, RecursionError) as error:
        stop(
            f"expected {folder / LIST} as MONAI Label writes it, cannot read it: {' '.join(str(error).split())}. It "
            "lists the submitted labels. Repair it; or move it away, and submit the boxes in labels again."
        )


def check_list(content: Any, folder: Path) -> None:
    """Check that MONAI Label's list names only files in the folder of the scans: it may be someone else's.

    Raises:
        ValueError: If it is something else, or names other files.
    """
    objects = content.get("objects", {}) if isinstance(content, dict) else None
    if not isinstance(objects, dict):
        raise ValueError("its content is something else")
    for key, default in (("images_dir", ""), ("labels_dir", "labels")):
        place = content.get(key, default)
        if not isinstance(place, str) or not (folder / place).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"its {key} is not in this folder: {place!r}")
    for name, entry in objects.items():
        labels = entry.get("labels", {}) if isinstance(entry, dict) else None
        if not isinstance(labels, dict) or not all(re.fullmatch(TAG, tag) for tag in labels):
            raise ValueError(f"the labels of {name!r} are something else")
        for file in (entry.get("image"), *labels.values()):
            ending = file.get("ext", "") if isinstance(file, dict) else None
            if not isinstance(ending, str) or not re.fullmatch(IMAGE_ID, name + ending):
                raise ValueError(f"it names a file that is not in this folder: {name!r} with the extension {ending!r}")


def main(words: list[str]) -> None:
    """Prepare the copy and start the server in this process."""
    options = arguments(words)
    guard = guarded(options)
    app = Path(options.folder).resolve() / options.app
    if not options.studies and not options.prepare:
        stop("which scans? make label STUDIES=DIR, a folder with NIfTI or NRRD files (or a DICOMweb address).")
    remote = options.studies.startswith(("http://", "https://"))
    if options.studies and not remote and not Path(options.studies).is_dir():
        stop(f"the folder {options.studies} does not exist.")
    if options.studies and not remote:
        options.studies = str(Path(options.studies).resolve())
        check_studies(Path(options.studies))
    prepare_app(options.app, app)
    name = NAMES[options.app]
    served = prepare_bundle(app / "model" / name, options.weights)
    for other in map(Path, options.beside):
        copy_new(other, app / "model" / other.name)
    print(f"Serving {name} with {served}", flush=True)
    if options.prepare:
        return
    models = ",".join([name, *(Path(other).name for other in options.beside)])
    command = ["start_server", "--app", str(app), "--studies", options.studies]
    command += ["--host", options.host, "--port", options.port, "--conf", "models", models]
    # The list of the model zoo and Segment Anything are not downloaded.
    command += ["--conf", "zoo_source", "local", "--conf", "sam2", "false"]
    command += ["--uvicorn_app", "mp3d_label_web:app"]
    os.environ["MP3D_LABEL_GUARD"] = json.dumps({**guard, "studies": "" if remote else options.studies})
    os.environ.setdefault("MONAI_ZOO_SOURCE", "local")
    os.environ["MONAI_LABEL_DATASTORE_FILE_EXT"] = json.dumps([f"*{ending}" for ending in SCANS])
    # The app's folder must be importable for the server, and for the processes that it starts.
    sys.path.insert(0, str(app))
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # MONAI Label takes an id for a path if a file of this name is in the current folder.
    empty = app / "empty"
    empty.mkdir(exist_ok=True)
    os.chdir(empty)
    sys.argv = ["monailabel", *command]
    runpy.run_module("monailabel.main", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
