"""Volume files with one flipped bit, and with mutated headers and content: how many are read, and with which voxels.

`python -m benchmarks damaged_volumes` makes its own files. A flip is *rejected* (one line), *harmless* (the same voxels
in the same place), *moved* (the same voxels, another geometry: uncompressed headers have no checksum), or *believed*
(other voxels). Mutations are counted by the kind of error; any that is not a ValueError or OSError, takes more than
ten seconds or ends the process is a failure.
"""

from __future__ import annotations

import bz2
import gzip
import re
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np

from scripts.data.scans.scan import Scan, read_scan

SHAPE = (16, 64, 64)
MUTATIONS = 10_000
SLOW_S = 10.0
NUMBERS = ("0", "-1", "3", "300000", "1e30", "nan", "inf", "-inf", "99999999999999999999", "1e-30", "0x10", "True", "")
WORDS = (
    "LOCAL",
    "LIST",
    "../x.raw",
    "/dev/urandom",
    "pipe",
    "none",
    "gz",
    "raw",
    "hex",
    "%d.raw 1 999999999 1",
    "\udcff",
)


def phantom() -> np.ndarray:
    """``(Z, H, W)`` int16 HU: a noisy body in noisy air."""
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]] / SHAPE[1] - 0.5
    noise = np.random.default_rng(0).normal(0, 20, SHAPE)
    return np.rint(np.where(x**2 + y**2 < 0.16, 50, -980) + noise).astype(np.int16)


def make_files() -> dict[str, bytes]:
    """Good files by name, the number of flips for each being chosen by `main`."""
    hu = phantom()
    raw = hu.astype("<i2").tobytes()
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-0.8, -0.8, 2.5, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    image.header.set_xyzt_units("mm")
    sizes = " ".join(str(size) for size in SHAPE[::-1])
    packed = zlib.compress(raw)
    meta = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{}"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 0.8 0.8 2.5\n"
        f"DimSize = {sizes}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    nrrd = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        "space directions: (0.8,0,0) (0,0.8,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\n"
        "encoding: {}\nspace origin: (0,0,0)\n\n"
    )
    compressed = f"CompressedData = True\nCompressedDataSize = {len(packed)}\n"
    return {
        "a.nii.gz": gzip.compress(image.to_bytes()),
        "a.mha": meta.format(compressed).encode() + packed,
        "a.nrrd": nrrd.format("gzip").encode() + gzip.compress(raw),
        "b.nrrd": nrrd.format("bzip2").encode() + bz2.compress(raw),
        "raw.nii": image.to_bytes(),
        "raw.mha": meta.format("").encode() + raw,
        "raw.nrrd": nrrd.format("raw").encode() + raw,
    }


def flip(content: bytes, bit: int) -> bytes:
    """The content with one bit flipped."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def outcome(path: Path, good: Scan) -> str:
    """Outcome of reading a file, compared with the original scan."""
    try:
        scan = read_scan(path)
    except (OSError, ValueError):
        return "refused"
    if scan.hu.shape != good.hu.shape or not np.array_equal(scan.hu, good.hu):
        return "believed"
    return "harmless" if np.allclose(scan.affine, good.affine, atol=1e-6) else "moved"


def count_flips(path: Path, content: bytes, bits: np.ndarray) -> Counter[str]:
    """The outcomes of flips of single bits."""
    path.write_bytes(content)
    good = read_scan(path)
    counts: Counter[str] = Counter()
    for bit in bits.tolist():
        path.write_bytes(flip(content, bit))
        counts[outcome(path, good)] += 1
    return counts


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to three changes to its header or voxels: bytes, numbers, words, lines, lengths."""
    for _ in range(int(rng.integers(1, 4))):
        content = _change(content, rng)
    return content


def _change(content: bytes, rng: np.random.Generator) -> bytes:
    # Three of four changes are in the header.
    end = min(len(content), 600) if rng.random() < 0.75 else len(content)
    at = int(rng.integers(0, max(1, end)))
    some = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
    changes: list[Callable[[], bytes]] = [
        lambda: flip(content, 8 * at + int(rng.integers(8))) if content else content,
        lambda: content[:at] + some + content[at + len(some) :],
        lambda: content[:at] + some + content[at:],
        lambda: content[:at] + content[at + len(some) :],
        lambda: content[:at],
        lambda: _replace(content, rb"-?\d+(\.\d+)?", str(rng.choice(NUMBERS)), rng),
        lambda: _replace(content, rb"[A-Za-z_]{3,}", str(rng.choice(WORDS)), rng),
        lambda: _repeat_line(content, rng),
    ]
    return changes[int(rng.integers(len(changes)))]()


def _replace(content: bytes, pattern: bytes, new: str, rng: np.random.Generator) -> bytes:
    found = list(re.finditer(pattern, content[:600]))
    if not found:
        return content
    place = found[int(rng.integers(len(found)))]
    return content[: place.start()] + new.encode("utf-8", "surrogateescape") + content[place.end() :]


def _repeat_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.split(b"\n", 12)
    return b"\n".join([*lines[: int(rng.integers(len(lines)))], lines[int(rng.integers(len(lines)))], *lines])


def count_mutations(folder: Path, number: int) -> tuple[Counter[str], float, list[str]]:
    """Read mutated files.

    Returns:
        The number of each outcome, the seconds of the slowest, and a line for each failure.
    """
    rng = np.random.default_rng(0)
    files = make_files()
    counts: Counter[str] = Counter()
    slowest, failures = 0.0, []
    for index in range(number):
        name = list(files)[index % len(files)]
        path = folder / name
        path.write_bytes(mutate(files[name], rng))
        start = time.perf_counter()
        try:
            read_scan(path)
            counts["read"] += 1
        except (OSError, ValueError) as error:
            counts["refused"] += 1
            if "\n" in str(error) or len(str(error)) > 1200 or str(path.name) not in str(error):
                failures.append(f"mutation {index} of {name}: {str(error)[:200]!r}")
        except Exception as error:
            failures.append(f"mutation {index} of {name}: {type(error).__name__}: {str(error)[:200]}")
        slowest = max(slowest, time.perf_counter() - start)
    if slowest > SLOW_S:
        failures.append(f"the slowest took {slowest:.0f} s")
    return counts, slowest, failures


def main() -> None:
    """Print the figures."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, content in make_files().items():
            number = 400 if name == "a.nii.gz" else 60
            if name.startswith("raw"):
                # After the header there is no checksum.
                number, bits = 400, rng.choice(8 * (len(content) - 2 * phantom().size), 400, replace=False)
            else:
                bits = rng.choice(8 * len(content), number, replace=False)
            counts = count_flips(folder / name, content, bits)
            where = "of the header" if name.startswith("raw") else "of the file"
            print(f"{name}: {number} flips {where}: {dict(counts)}", flush=True)
        counts, slowest, failures = count_mutations(folder, MUTATIONS)
        print(f"{MUTATIONS} mutations: {dict(counts)}, the slowest took {slowest:.2f} s, {len(failures)} failures")
        for failure in failures[:20]:
            print("   ", failure)


if __name__ == "__main__":
    main()
