"""Results of a scan as files: JSON, CSV and pictures, all of them or none."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .detections import Lesion, SliceBoxes
from .outputs import FILES, Output, strict_json
from .pictures import lesion_picture, slice_picture
from .report import describe_detections, describe_lesions, describe_run, notices_of, shown_name, stored_slice
from .scan import ScanLike

_CORNERS = ("1", "2")


@dataclass(frozen=True)
class ResultWriter:
    """Write the results of scans.

    Into the folder of each scan go ``lesions.json`` (lesions in 3D), ``detections.json`` (every slice box),
    ``lesions.csv`` and, in ``overlays/``, a picture of the key slice of each of the best lesions, as far as
    ``outputs`` names them, and what ``extra`` makes.

    Attributes:
        output_dir: Folder for the results; made when needed.
        model: What the weights are: ``name``, ``notice``, ``path``, ``sha256``.
        settings: How the detector was set, plain values, written as they are.
        overlays: Pictures of at most this many lesions, best first.
        slice_overlays: Also a picture of every slice with a box, in ``overlays/slices/``.
        outputs: Which of ``json``, ``csv`` and ``overlays`` to write; other names are passed over.
        extra: Makers of further files, by name.
    """

    output_dir: str | Path
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlays: int = 10
    slice_overlays: bool = False
    outputs: Sequence[str] = ("json", "csv", "overlays")
    extra: Mapping[str, Output] = field(default_factory=dict)

    def __call__(
        self,
        scan: ScanLike,
        found: SliceBoxes,
        lesions: Sequence[Lesion],
        *,
        name: str = "",
        timing: Mapping[str, float] | None = None,
    ) -> Path:
        """Write the results of one scan; files of an earlier run in the same place are replaced.

        Args:
            scan: The scan.
            found: Its slice boxes.
            lesions: Its lesions, best first.
            name: Folder below ``output_dir``; empty for ``output_dir`` itself.
            timing: Seconds by stage.

        Returns:
            The folder.

        Raises:
            ValueError: If ``name`` leads out of ``output_dir``.
            OSError: If a file cannot be written; nothing of the new results is left then.
        """
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(
                f"Expected a folder inside {self.output_dir} for the results of {scan.path}, got {name!r}."
            )
        folder = Path(self.output_dir) / name
        head = describe_run(scan, found, self.model, self.settings)
        head["timing_s"] = dict(timing or {})
        entries = describe_lesions(scan, found, lesions, calibration=self.model.get("calibration"))
        document = {**head, "lesions": entries}
        files: dict[str, bytes] = {}
        if "json" in self.outputs:
            files["lesions.json"] = strict_json(document)
            files["detections.json"] = strict_json({**head, "detections": describe_detections(scan, found, lesions)})
        if "csv" in self.outputs:
            files["lesions.csv"] = _csv(
                entries,
                " ".join(notices_of(self.model)),
                calibrated=bool(self.model.get("calibration")),
                fields=[name for name, values in found.fields.items() if values.ndim == 1],
            )
        if "overlays" in self.outputs:
            files.update(self._pictures(scan, found, lesions, entries))
        for make in self.extra.values():
            files.update(make(scan, found, lesions, document))
        _write_all(folder, files)
        return folder

    def _pictures(
        self, scan: ScanLike, found: SliceBoxes, lesions: Sequence[Lesion], entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, bytes]:
        notices = notices_of(self.model)
        files = {}
        for lesion, entry in list(zip(lesions, entries, strict=True))[: self.overlays]:
            size = " x ".join(f"{edge:.0f}" for edge in entry["size_mm"])
            title = f"{shown_name(scan)}: lesion {entry['lesion']}, slice {entry['key_slice']}, {size} mm"
            picture = lesion_picture(scan.hu, found, lesion, title=title, notices=notices)
            files[f"overlays/lesion_{entry['lesion']:03d}.png"] = _png(picture)
        if self.slice_overlays:
            for number in np.unique(found.slices).tolist():
                at = stored_slice(scan, found, number)
                picture = slice_picture(
                    scan.hu, found, number, title=f"{shown_name(scan)}: slice {at}", notices=notices
                )
                files[f"overlays/slices/slice_{number:04d}.png"] = _png(picture)
        return files


def _csv(entries: Sequence[Mapping[str, Any]], notice: str, *, calibrated: bool, fields: Sequence[str]) -> bytes:
    """One row per lesion; the notice stands in a column of its own, so that every reader can read the rest.

    Fields of one number a lesion are columns behind it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    voxel = [f"{axis}{end}" for end in _CORNERS for axis in "ijk"]
    lps = [f"{axis}{end}_mm" for end in _CORNERS for axis in "xyz"]
    size = [f"size_{axis}_mm" for axis in "xyz"]
    # Weights without a calibration give no probabilities; the header depends on the weights, not on what was found.
    probability = ["probability"] if calibrated else []
    axes = ["long_axis_estimate_mm", "short_axis_estimate_mm"]
    last = ["key_slice", "num_slices", "notice", *fields]
    writer.writerow(["lesion", "score", *probability, *voxel, *lps, *size, *axes, *last])
    for entry in entries:
        writer.writerow(
            [
                entry["lesion"],
                entry["score"],
                *(entry[name] for name in probability),
                *entry["box_voxel"],
                *entry["box_lps_mm"],
                *entry["size_mm"],
                *(entry[name] for name in axes),
                entry["key_slice"],
                entry["num_slices"],
                notice,
                *(entry["fields"][name] for name in fields),
            ]
        )
    return text.getvalue().encode()


def _png(picture: np.ndarray) -> bytes:
    """An RGB picture as PNG."""
    done, content = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise OSError(f"Could not encode a picture of shape {picture.shape} as PNG.")
    return content.tobytes()


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files under a temporary folder and then move them into place, so that a full disk leaves nothing new."""
    part = folder / f".part-{os.getpid()}"
    try:
        for name, content in files.items():
            target = part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for old in (folder / "overlays").rglob("*.png"):
            if old.name.startswith(("lesion_", "slice_")):
                old.unlink()
        for name in set(FILES) - set(files):
            (folder / name).unlink(missing_ok=True)
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(part / name, folder / name)
    except OSError as error:
        raise OSError(f"Could not write the results to {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
