"""How much worse detection becomes as images become worse: sensitivity on synthetic key slices, changed in nine ways.

``IMAGES=100`` is the number of key slices, ``CHECKPOINT`` names the weights, ``OUTPUT`` the folder for
``image_stress.json``, ``.csv`` and ``.png``; ``DOCS=1`` writes figure and table into the documentation instead of the
CSV. All is seeded: the same weights and images give the same numbers. Synthetic images alone say how sensitive these
weights are to a change, not how they do on patients.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser

from benchmarks._image_changes import CHANGES, Change, Stack, in_field
from scripts.data.slabs.slab_reader import SlabReader, read_slice, resample_z
from scripts.data.slabs.slice_store import slice_names
from scripts.data.synthetic import generate
from scripts.data.transforms import SampleDataset
from scripts.instances import select
from scripts.metrics.bootstrap import Bootstrap, interval, resample_sensitivity
from scripts.metrics.froc import curve_from_matches, sensitivity_at, threshold_at
from scripts.metrics.matching import Matches, match_detections
from scripts.storage.atomic_files import replacing, sha256, write_csv, write_json
from scripts.workflows.to_cases import to_case

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
# Not the seed of the demo's training images.
SEED, FPS, BATCH = 1, 1.0, 8
FIGURE, PAGE = BUNDLE / "docs" / "figures" / "image_stress.png", BUNDLE / "docs" / "reliability.md"
TABLE = re.compile(r"(?<=<!-- image_stress -->\n).*?(?=<!-- /image_stress -->)", re.DOTALL)


class ChangedReader:
    """Reads the slab of a key slice after a change of the stored slices around it.

    Args:
        reader: The reader of unchanged slabs; its lattice is used.
        change: The change, or None.
        strength: Its strength.
    """

    def __init__(self, reader: SlabReader, change: Change | None = None, strength: float = 0.0) -> None:
        self.reader, self.change, self.strength = reader, change, strength

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """``(D, H, W)`` float32 HU; missing slices are interpolated by position, as in whole scans."""
        image, key = Path(record["image"]), int(record["key_slice"])
        names = slice_names(image.parent) or os.listdir(image.parent)
        low, high = record["slice_range"]
        numbers = [number for number in sorted(int(Path(name).stem) for name in names) if low <= number <= high]
        slices = [read_slice(image.with_name(f"{number:0{len(image.stem)}d}.png")) for number in numbers]
        offsets = (np.array(numbers) - key) * float(record["slice_interval"])
        stack = Stack(np.stack(slices).astype(np.float32), offsets)
        if self.change is not None:
            # The same random numbers for every strength: what differs is the strength alone.
            draw = np.random.default_rng([SEED, zlib.crc32(record["file_name"].encode())])
            stack = self.change(stack, self.strength, draw)
            # Files hold whole numbers of 16 bits.
            stack = Stack(np.rint(stack.hu).clip(-32768, 32767).astype(np.float32), stack.positions)
        reach = self.reader.num_slices // 2
        return resample_z(stack.hu, stack.positions, self.reader.spacing * np.arange(-reach, reach + 1))

    def thickness(self, record: Mapping[str, Any]) -> float:
        """As `SlabReader.thickness`."""
        return self.reader.thickness(record)


def seen(record: dict[str, Any], share: float) -> dict[str, Any]:
    """A record without the lesions whose centres lie outside of a field of view."""
    height, width = record["image_size"]
    boxes = record["instances"]["boxes"]
    column, row = ((boxes[:, axis] + boxes[:, axis + 2]) / 2 for axis in (0, 1))
    at = (row.astype(int).clip(0, height - 1), column.astype(int).clip(0, width - 1))
    return {**record, "instances": select(record["instances"], in_field(share, height, width)[at])}


class Stress:
    """The weights, the key slices and their evaluation.

    Args:
        dataset: Folder of a data set in DeepLesion's format.
        checkpoint: Weights.
    """

    def __init__(self, dataset: Path, checkpoint: str) -> None:
        parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs" / "evaluate.json")))
        parser.update({"checkpoint": checkpoint, "device": "cpu", "dataset_dir": str(dataset), "z_mode": "corrected"})
        parser.get_parsed_content("weights").load()
        self.network = parser.get_parsed_content("network").eval()
        self.load = parser.get_parsed_content("load_slab")
        self.reader = parser.get_parsed_content("slab_reader")
        self.rule = parser.get_parsed_content("froc_rule")
        data = parser.get_parsed_content("dataset")
        self.transform, self.records = data.transform, list(data.data)

    def matches(self, change: Change | None = None, strength: float = 0.0, *, round_view: bool = False) -> Matches:
        """Detect in all key slices after a change, and match with their lesions."""
        self.load.reader = ChangedReader(self.reader, change, strength)
        records = [seen(record, strength) for record in self.records] if round_view else self.records
        dataset, cases = SampleDataset(cast(Any, records), self.transform), []
        with torch.inference_mode():
            for start in range(0, len(records), BATCH):
                samples: list[Any] = [dataset[at] for at in range(start, min(start + BATCH, len(records)))]
                found = self.network([torch.as_tensor(sample["image"]).as_subclass(torch.Tensor) for sample in samples])
                cases += [to_case({**one, "pred": boxes})["case"] for one, boxes in zip(samples, found, strict=True)]
        return match_detections(cases, self.rule)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Figures of the unchanged images, then of each change and strength."""
        weights = Bootstrap(1000, SEED).weights([record["patient"] for record in self.records])
        plain = self.matches()
        usual = resample_sensitivity(plain, weights, [FPS])[:, 0]
        threshold = float(threshold_at(curve_from_matches(plain), [FPS])[0])
        yield self._row("none", 0.0, plain, (usual, usual), threshold)
        for name, (change, strengths, _) in CHANGES.items():
            for strength in strengths:
                found = self.matches(change, strength, round_view=name == "field of view")
                drawn = resample_sensitivity(found, weights, [FPS])[:, 0]
                yield self._row(name, strength, found, (drawn, usual), threshold)

    def _row(
        self, name: str, strength: float, found: Matches, drawn: tuple[np.ndarray, np.ndarray], threshold: float
    ) -> dict[str, Any]:
        above = found.scores >= threshold
        return {
            "change": name,
            "strength": strength,
            "images": found.num_images,
            "lesions": len(found.lesion),
            "sensitivity": float(sensitivity_at(curve_from_matches(found), [FPS])[0]),
            "interval": interval(drawn[0]),
            # In the same resamples of images, which the images' own differences leave alone.
            "difference": interval(drawn[0] - drawn[1]),
            "fixed_sensitivity": float(found.hits[above].sum() / len(found.lesion)),
            "fixed_fps": float(found.false_positives[above].sum() / found.num_images),
        }


def table(rows: Sequence[Mapping[str, Any]], what: str) -> str:
    """Markdown: sensitivity with its interval, its change, and both with the threshold of the unchanged images."""
    lines = [
        what,
        "",
        "| images | lesions | sensitivity at 1 FP an image | its change | same threshold: sensitivity | FPs an image |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        name = "unchanged" if row["change"] == "none" else f"{row['strength']:g} {CHANGES[row['change']][2]}"
        low, high = (f"{100 * value:.0f}" for value in row["interval"])
        change = "" if row["change"] == "none" else " to ".join(f"{100 * value:+.0f}" for value in row["difference"])
        lines.append(
            f"| {name} | {row['lesions']} | {100 * row['sensitivity']:.1f} % ({low} to {high}) | {change} | "
            f"{100 * row['fixed_sensitivity']:.1f} % | {row['fixed_fps']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a panel for each change: sensitivity by strength, with its interval, and that of the unchanged images."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    plain = 100 * rows[0]["sensitivity"]
    for axes, (name, (_, strengths, unit)) in zip(
        figure.subplots(3, 3, sharey=True).flat, CHANGES.items(), strict=True
    ):
        own = [row for row in rows if row["change"] == name]
        values = 100 * np.array([row["sensitivity"] for row in own])
        spans = 100 * np.array([row["interval"] for row in own]).T
        axes.axhline(plain, color="0.6", linestyle="--", linewidth=1)
        apart = np.abs([np.minimum(values - spans[0], values), spans[1] - values]).clip(0)
        axes.errorbar(range(len(own)), values, apart, marker="o", capsize=3, color="#0b5fa5")
        axes.set(title=name, xlabel=unit, ylim=(0, 102), xticks=range(len(own)))
        axes.set_xticklabels([f"{strength:g}" for strength in strengths])
        axes.grid(alpha=0.25)
    figure.supylabel(f"sensitivity at {FPS:g} false positive per image (%)")
    figure.suptitle(f"Synthetic images ({rows[0]['images']}), made worse; dashed: unchanged; bars: 95 % over patients")
    with replacing(path) as part:
        # Without the version of matplotlib, the same numbers give the same file.
        figure.savefig(part, format="png", dpi=110, metadata={"Software": None})


def main() -> None:
    """Measure, print the table and write the files."""
    start = time.process_time()
    checkpoint = str(Path(os.environ.get("CHECKPOINT", BUNDLE / "models" / "demo.pt")).resolve())
    output = Path(os.environ.get("OUTPUT", "runs/image_stress")).resolve()
    images = int(os.environ.get("IMAGES", "100"))
    output.mkdir(parents=True, exist_ok=True)
    os.chdir(BUNDLE)
    with tempfile.TemporaryDirectory() as folder:
        generate(folder, "small", seed=SEED, num_train=2, num_validation=2, num_test=images, margin_mm=20.0, workers=1)
        rows = []
        for row in Stress(Path(folder), checkpoint).rows():
            rows.append(row)
            print(f"{row['change']:15s} {row['strength']:6g} {100 * row['sensitivity']:6.1f} %", flush=True)
    digest = sha256(checkpoint)[:12]
    what = (
        f"Synthetic images alone: {images} key slices of `small`, seed {SEED}, with `{Path(checkpoint).name}` "
        f"(SHA-256 {digest}...). In brackets 95 % intervals over patients, in points for the change."
    )
    print(f"\n{table(rows, what)}\n{time.process_time() - start:.0f} s of processor time")
    write_json({"weights": Path(checkpoint).name, "sha256": digest, "rows": rows}, output / "image_stress.json")
    flat = [
        [value if not isinstance(value, list) else " ".join(map(repr, value)) for value in row.values()] for row in rows
    ]
    write_csv(list(rows[0]), flat, output / "image_stress.csv")
    draw(rows, output / "image_stress.png")
    if os.environ.get("DOCS") == "1":
        FIGURE.write_bytes((output / "image_stress.png").read_bytes())
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(TABLE.sub(lambda _: table(rows, what), page), encoding="utf-8")


if __name__ == "__main__":
    main()
