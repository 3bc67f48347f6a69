"""Ten lines that say whether this machine will work, and what to do where it will not.

    python -m scripts.doctor
    python -m scripts.doctor --dataset_dir DIR --checkpoint FILE --output_dir DIR

Every check is tried, whatever the others find: nothing but the standard library is imported at the top, so that a
missing or broken package is a line too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage.printable import one_line

BUNDLE = Path(__file__).resolve().parents[2]
# What the commands take where nothing is named.
DATA, WEIGHTS = BUNDLE / "data" / "DeepLesion", BUNDLE / "models" / "model.pt"
OK, NOTE, FAIL = "ok", "note", "FAIL"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
GIB = 1 << 30
# Peak of inference with the full network and a scan of 600 slices (docs/measurements/whole_scans.md), rounded up.
MEMORY_GIB, DISK_GIB, SHARED_GIB = 3.0, 1.0, 1.0
# bfloat16 keeps 8 bits, float16 11: sums of a few hundred products stay within a few units of the last one.
HALF_TOLERANCE = 0.03
# Import names that differ from the name of the distribution.
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "pytorch-ignite": "ignite", "pyyaml": "yaml"}
_MODULES |= {"scikit-learn": "sklearn"}


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        state: ``ok``, ``note`` (works, but worth knowing) or ``FAIL``.
        text: What was found.
        advice: What to do about it; empty where nothing needs doing.
    """

    state: str
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Places:
    """What the user wants to work with.

    Attributes:
        dataset_dir: Folder of the data set.
        checkpoint: Weights file.
        output_dir: Folder for results.
    """

    dataset_dir: Path
    checkpoint: Path
    output_dir: Path


def check_python(places: Places) -> Finding:
    """The version of Python, and whether PyTorch exists for this machine."""
    del places
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return Finding(FAIL, text, "Use Python 3.10 to 3.14.")
    if sys.maxsize < 1 << 32:
        return Finding(FAIL, f"{text}, 32 bits", "Use a 64-bit Python: PyTorch exists for no other.")
    if platform.system() not in ("Linux", "Darwin"):
        return Finding(NOTE, text, "Not tested here: file locks need Linux or macOS. On Windows use WSL.")
    return Finding(OK, text)


def check_packages(places: Places) -> Finding:
    """Whether all packages are there and can be imported; versions against those that the bundle was tested with."""
    del places
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    tested = {"torch": metadata["pytorch_version"], "monai": metadata["monai_version"]}
    tested |= {"numpy": metadata["numpy_version"], **metadata["required_packages_version"]}
    absent, broken, other = [], [], []
    for name, version in tested.items():
        try:
            found = importlib.metadata.version(name)
            importlib.import_module(_MODULES.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
        except Exception as error:  # a compiled part may fail in any way
            broken.append(f"{name} ({_line(error)})")
        else:
            if found.split("+")[0] != version:
                other.append(f"{name} {found} (tested with {version})")
    if absent or broken:
        lacks = [f"missing: {', '.join(absent)}"] * bool(absent) + [f"broken: {', '.join(broken)}"] * bool(broken)
        names = " ".join([*absent, *(entry.split(" ")[0] for entry in broken)])
        return Finding(FAIL, "; ".join(lacks), f"pip install --upgrade {names}, or `make setup` in the repository.")
    if other:
        text = f"{len(tested)} packages, {len(other)} of other versions: {', '.join(other)}"
        return Finding(NOTE, text, "If something fails, install the tested versions first.")
    return Finding(OK, f"{len(tested)} packages, all of the tested versions")


def check_pairs(places: Places) -> Finding:
    """Whether compiled packages fit each other: torchvision and PyTorch, OpenCV and NumPy."""
    del places
    torch, torchvision = importlib.import_module("torch"), importlib.import_module("torchvision")
    numpy, cv2 = importlib.import_module("numpy"), importlib.import_module("cv2")
    own = torch.__version__.split("+")[0]
    needs = importlib.metadata.requires("torchvision") or []
    wanted = next((match[1] for line in needs if (match := re.match(r"torch\s*\(?==\s*([\w.]+)", line))), own)
    text = f"torch {torch.__version__} with torchvision {torchvision.__version__}, numpy {numpy.__version__} with cv2"
    if wanted != own:
        advice = f"This torchvision is made for torch {wanted}: install both in one command."
        return Finding(FAIL, text, advice)
    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1]]), torch.tensor([0.5, 0.9])
    kept = torchvision.ops.nms(boxes, scores, 0.5).tolist()
    resized = cv2.resize(numpy.eye(4, dtype=numpy.float32), (8, 8))
    through = torch.from_numpy(resized).numpy()
    if kept != [1] or through.shape != (8, 8):
        return Finding(FAIL, f"{text}: wrong results", "Install all of them anew, in one command.")
    return Finding(OK, text)


def check_device(places: Places) -> Finding:
    """Where the network will run."""
    del places
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        text = f"{torch.cuda.device_count()} GPU, the first {facts.name}, {facts.total_memory / GIB:.0f} GiB"
        torch.ones(8, device="cuda").sum().item()
        return Finding(OK, f"{text}, CUDA {torch.version.cuda}")
    fast = importlib.import_module("..engines.engine", __package__).pytorch_is_faster(torch.float32)
    engine = "OpenVINO" if importlib.util.find_spec("openvino") and not fast else "PyTorch"
    text = f"CPU, networks run on {engine}"
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists():
        built = torch.version.cuda
        why = f"its driver may be older than CUDA {built}" if built else "this PyTorch is built without CUDA"
        return Finding(NOTE, f"{text}; an NVIDIA GPU that PyTorch cannot use", f"To use it: {why}.")
    if engine == "PyTorch" and not fast:
        return Finding(NOTE, text, "pip install openvino may make inference faster (docs/performance.md).")
    return Finding(OK, f"{text}; training the full network wants a GPU")


def check_half_precision(places: Places) -> Finding:
    """Whether the network's convolutions give the same in half precision: some releases and GPUs got them wrong."""
    del places
    torch = importlib.import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # The published faults show on large inputs only.
    side = 256 if device == "cuda" else 32
    generator = torch.Generator().manual_seed(0)
    slab = torch.randn(1, 32, 9, side, side, generator=generator).to(device)
    errors: dict[str, list[float]] = {}
    for kind in (torch.bfloat16, torch.float16) if device == "cuda" else (torch.bfloat16,):
        of_kind = errors.setdefault(str(kind).removeprefix("torch."), [])
        for kernel, padding in (((1, 3, 3), (0, 1, 1)), ((3, 1, 1), (1, 0, 0))):
            weight = torch.randn(32, 32, *kernel, generator=generator).to(device)
            exact = torch.nn.functional.conv3d(slab, weight, padding=padding)
            half = torch.nn.functional.conv3d(slab.to(kind), weight.to(kind), padding=padding).float()
            of_kind.append(float((half - exact).abs().max() / exact.abs().max()))
    text = ", ".join(f"{name} within {max(some):.1%} of float32" for name, some in errors.items())
    # Not-a-number is not below anything.
    wrong = [name for name, some in errors.items() if not all(error < HALF_TOLERANCE for error in some)]
    if wrong:
        return Finding(
            FAIL, f"{text} on {device}", f"Give --amp False or --precision float32: {wrong[0]} is wrong here."
        )
    if device == "cpu" and not importlib.import_module("..number_formats", __package__).cpu_has_bfloat16():
        return Finding(OK, f"{text} on cpu, but emulated: networks compute in float32")
    return Finding(OK, f"{text} on {device}")


def check_threads(places: Places) -> Finding:
    """Cores that this process may use, and threads that PyTorch wants to."""
    del places
    torch = importlib.import_module("torch")
    cores, threads = float(_cores()), torch.get_num_threads()
    quota = _quota()
    text = f"{threads} threads on {cores:.0f} cores" + (f", {quota:.1f} of them by quota" if quota < cores else "")
    if threads > min(cores, max(1.0, quota)) + 0.5:
        advice = (
            f"export OMP_NUM_THREADS={max(1, int(min(cores, quota)))}: more threads than cores wait for each other."
        )
        return Finding(NOTE, text, advice)
    return Finding(OK, text)


def check_memory(places: Places) -> Finding:
    """Memory that is free, within the limit of a container."""
    del places
    free = _free_memory()
    if free is None:
        return Finding(NOTE, "free memory is not known on this system", f"Inference wants {MEMORY_GIB:.0f} GiB.")
    text = f"{free / GIB:.1f} GiB free"
    if free < MEMORY_GIB * GIB:
        advice = f"A scan with the full network wants {MEMORY_GIB:.0f} GiB: close other programs or raise the limit."
        return Finding(FAIL, text, advice)
    return Finding(OK, text)


def check_disk(places: Places) -> Finding:
    """Space and permission where results, temporary files and loaders write."""
    output = importlib.import_module("..storage.output_folder", __package__)
    output.check_output_folder(places.output_dir, needed_bytes=0)
    nearest = next(
        path for path in [places.output_dir.absolute(), *places.output_dir.absolute().parents] if path.exists()
    )
    wanted = {"results": (nearest, DISK_GIB), "temporary files": (Path(tempfile.gettempdir()), DISK_GIB)}
    if Path("/dev/shm").is_dir():
        wanted["/dev/shm"] = (Path("/dev/shm"), SHARED_GIB)
    free = {name: shutil.disk_usage(path).free / GIB for name, (path, _) in wanted.items()}
    text = ", ".join(f"{space:.1f} GiB for {name}" for name, space in free.items())
    short = [name for name, space in free.items() if space < wanted[name][1]]
    if "/dev/shm" in short:
        advice = "Loader processes need it: --num_workers 0, or docker run --shm-size 8g."
        return Finding(NOTE if short == ["/dev/shm"] else FAIL, text, advice)
    if short:
        advice = "Free some, or choose other folders: --output_dir DIR, and TMPDIR for temporary files."
        return Finding(FAIL, text, advice)
    return Finding(OK, text)


def check_data(places: Places) -> Finding:
    """Counts of the data set against those of the complete DeepLesion, and whether its images are there."""
    splits = importlib.import_module("..data.deeplesion.splits", __package__)
    labels = splits.label_files(places.dataset_dir)
    if not labels:
        advice = "Only training and evaluation need one: --dataset_dir DIR, see docs/training.md."
        state = NOTE if places.dataset_dir == DATA else FAIL
        return Finding(state, f"no data set in {places.dataset_dir}", advice)
    dl_info = importlib.import_module("..data.deeplesion.dl_info", __package__)
    records_of = importlib.import_module("..data.records", __package__)
    store = importlib.import_module("..data.slabs.slice_store", __package__)
    images = store.images_folder(places.dataset_dir)
    records = [record for path in labels for record in splits.read_labels(path, images)]
    boxes = sum(len(record["instances"]["boxes"]) for record in records)
    patients = len({record["patient"] for record in records})
    there = len(_present(records_of, records))
    text = f"{boxes} boxes on {len(records)} key slices of {patients} patients, {there} of the images are there"
    if there < len(records):
        advice = "Download the others (docs/training.md), or train with --missing_images drop."
        return Finding(FAIL, text, advice)
    if boxes == dl_info.COMPLETE_ROWS and len(records) == sum(slices for _, slices in dl_info.COMPLETE.values()):
        return Finding(OK, f"DeepLesion, complete: {text}")
    notice = splits.dataset_notice(places.dataset_dir)
    if notice:
        return Finding(OK, f"{notice} {text}")
    return Finding(NOTE, f"{text}; the complete DeepLesion has {dl_info.COMPLETE_ROWS} boxes")


def check_weights(places: Places) -> Finding:
    """Whether there are weights, and whether they can be loaded."""
    path = places.checkpoint
    if not path.is_file():
        demo = BUNDLE / "models" / "demo.pt"
        advice = "Train some, or see models/README.md." + (f" To try things out: {demo}" if demo.is_file() else "")
        return Finding(NOTE if path == WEIGHTS else FAIL, f"no weights at {path}", advice)
    weights = importlib.import_module("..weights", __package__)
    network, info = weights.load_network(path)
    parameters = sum(value.numel() for value in network.parameters())
    text = f"{info.get('name') or path.name}, {parameters / 1e6:.1f} million parameters, SHA-256 {info['sha256'][:12]}"
    notice = str(info.get("notice") or "")
    return Finding(NOTE if notice else OK, text, notice)


CHECKS: dict[str, Callable[[Places], Finding]] = {
    "Python": check_python,
    "packages": check_packages,
    "pairs": check_pairs,
    "device": check_device,
    "half": check_half_precision,
    "threads": check_threads,
    "memory": check_memory,
    "disk": check_disk,
    "data": check_data,
    "weights": check_weights,
}
# What to do where a check could not be made.
_ADVICE = {"pairs": "Install torch, torchvision, numpy and opencv-python-headless anew, in one command."}


def doctor(dataset_dir: str | None = None, checkpoint: str | None = None, output_dir: str = ".") -> None:
    """Say in ten lines whether this machine will work, and what to do about each failure.

    Args:
        dataset_dir: Folder of the data set; by default data/DeepLesion of the bundle, where none is needed.
        checkpoint: Weights file; by default models/model.pt of the bundle, where none is needed.
        output_dir: Folder for results.

    Raises:
        SystemExit: With status 1 if a check failed.
    """
    places = Places(Path(dataset_dir or DATA), Path(checkpoint or WEIGHTS), Path(output_dir))
    failed = 0
    for name in CHECKS:
        finding = find(name, places)
        failed += finding.state == FAIL
        print(f"{finding.state:<5}{name:<10}{finding.text}" + (f" -> {finding.advice}" if finding.advice else ""))
    if failed:
        raise SystemExit(f"{failed} of {len(CHECKS)} checks failed.")


def find(name: str, places: Places) -> Finding:
    """Make a check; an error is a failure of that check alone."""
    try:
        with _quiet():
            return CHECKS[name](places)
    except Exception as error:
        return Finding(FAIL, _line(error), _ADVICE.get(name, ""))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep log lines away: each check is one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _line(error: Exception) -> str:
    """The error on one line, after its kind if its text was not written for users."""
    text = one_line(error)
    known = isinstance(error, (ValueError, OSError)) or text == type(error).__name__
    return text if known else f"{type(error).__name__}: {text}"


def _present(module: Any, records: list[Any]) -> list[Any]:
    try:
        return module.check_images(records, "drop")
    except FileNotFoundError:  # not one of them
        return []


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Cores that a container may use at once, infinite without a limit."""
    try:
        most, period = path.read_text().split()
        return float(most) / float(period)
    except (OSError, ValueError):  # no control group of version 2, or "max"
        return float("inf")


def _free_memory(folder: Path = Path("/")) -> int | None:
    """Bytes that are free for new programs; None where that is not known."""
    try:
        lines = (folder / "proc/meminfo").read_text()
        free = int(re.findall(r"MemAvailable:\s+(\d+) kB", lines)[0]) * 1024
    except (OSError, IndexError):
        return None
    try:
        group = folder / "sys/fs/cgroup"
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        return min(free, limit)
    except (OSError, ValueError):  # no limit
        return free
