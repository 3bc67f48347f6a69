"""How many one-bit flips of a weights file are believed: ``python -m benchmarks.damaged_weights FILE --flips 1000``.

Each flip must be rejected, or be harmless: the tensors and facts read are the same as before. Flipped bits are chosen
at random from the whole file; ``--last`` first makes a checkpoint of a training run from the weights.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
sys.path.insert(0, str(BUNDLE))

import torch  # noqa: E402

from scripts.storage.torch_files import read_tensors  # noqa: E402

# The first tensor's record.
BODY = "/data/0"


@dataclass
class Counts:
    """Outcomes of the flips.

    Attributes:
        refused: Files that were rejected.
        harmless: Files that were read with the same content as before.
        believed: Bits whose flip changed the content that was read.
    """

    refused: int = 0
    harmless: int = 0
    believed: list[int] = field(default_factory=list)


def same(first: Any, second: Any) -> bool:
    """Whether two contents are equal in every value, type, shape and bit of a tensor."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        alike = first.dtype == second.dtype and first.shape == second.shape
        return alike and torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)))
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def flip_bits(path: Path, bits: Iterable[int]) -> Counts:
    """Flip each of the bits of a file alone, and read it.

    Args:
        path: The file; it is not changed.
        bits: Numbers from 0 to below eight times its size.

    Returns:
        Their outcomes.
    """
    expected, content, counts = read_tensors(path), bytearray(path.read_bytes()), Counts()
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / path.name
        damaged.write_bytes(content)
        with damaged.open("r+b", buffering=0) as file:
            for bit in bits:
                place, mask = divmod(bit, 8)
                _write(file, place, content[place] ^ (1 << mask))
                try:
                    found = read_tensors(damaged)
                except ValueError:
                    counts.refused += 1
                else:
                    if same(expected, found):
                        counts.harmless += 1
                    else:
                        counts.believed.append(bit)
                _write(file, place, content[place])
    return counts


def _write(file: Any, place: int, byte: int) -> None:
    file.seek(place)
    file.write(bytes([byte]))


def checkpoint_of(path: Path, folder: Path) -> Path:
    """A ``last.pt`` as training writes it: the weights, their momentum and the state of the random numbers."""
    content = read_tensors(path)
    momentum = {number: {"momentum_buffer": value.clone()} for number, value in enumerate(content["model"].values())}
    facts = {"optimizer": {"state": momentum}, "epoch": 1, "random": [{"torch": torch.get_rng_state()}]}
    torch.save({**content, **facts}, folder / "last.pt")
    return folder / "last.pt"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=BUNDLE / "models" / "demo.pt")
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--last", action="store_true", help="flip bits of a checkpoint made of the weights")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint_of(options.file, Path(folder)) if options.last else options.file
        size = path.stat().st_size
        start = time.perf_counter()
        read_tensors(path)
        seconds = time.perf_counter() - start
        counts = flip_bits(path, random.Random(options.seed).sample(range(8 * size), options.flips))
    print(
        f"{path.name}, {size / 1e6:.1f} MB, read in {seconds:.2f} s: of {options.flips} one-bit flips {counts.refused} "
        f"refused, {counts.harmless} harmless, {len(counts.believed)} believed."
    )


if __name__ == "__main__":
    main()
