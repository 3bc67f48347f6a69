"""Results of a scan as files: JSON, CSV and pictures, all of them or none."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .detections import Lesion, SliceBoxes
from .finished import describe_part, describe_source
from .outputs import Output, strict_json
from .pictures import lesion_picture, slice_picture
from .report import (
    calibration_of,
    describe_detections,
    describe_lesions,
    describe_run,
    notices_of,
    shown_name,
    stored_slice,
)
from .scan import ScanLike
from .storing import store

_CORNERS = ("1", "2")


@dataclass(frozen=True)
class ResultWriter:
    """Write the results of scans.

    Into the folder of each scan go ``lesions.json`` (lesions in 3D), ``detections.json`` (every slice box),
    ``lesions.csv`` and, in ``overlays/``, a picture of the key slice of each of the best lesions, as far as
    ``outputs`` names them, what ``extra`` makes, and the record of all these, ``finished.json``.

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

    def folder(self, name: str) -> Path:
        """The folder for the results of a scan.

        Args:
            name: Folder below ``output_dir``; empty for ``output_dir`` itself.

        Raises:
            ValueError: If ``name`` leads out of ``output_dir``.
        """
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"Expected a folder inside {self.output_dir} for results, got {name!r}.")
        return Path(self.output_dir) / name

    def made(self, scan: ScanLike, **parts: Any) -> dict[str, Any]:
        """What the results of a scan are made from and with, plain values, for the record.

        Args:
            scan: The scan; its files and voxels are hashed.
            parts: What takes part in the making besides, such as the detector.
        """
        return {
            "source": describe_source(scan),
            "weights_sha256": self.model.get("sha256"),
            "settings": describe_part(self.settings),
            "results": describe_part(
                {
                    "outputs": sorted(self.outputs),
                    "overlays": self.overlays,
                    "slice_overlays": self.slice_overlays,
                    "extra": self.extra,
                }
            ),
            **{name: describe_part(part) for name, part in parts.items()},
        }

    def __call__(
        self,
        scan: ScanLike,
        found: SliceBoxes,
        lesions: Sequence[Lesion],
        *,
        name: str = "",
        timing: Mapping[str, float] | None = None,
        made: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the results of one scan; files of an earlier run in the same place are replaced.

        Args:
            scan: The scan.
            found: Its slice boxes.
            lesions: Its lesions, best first.
            name: Folder below ``output_dir``; empty for ``output_dir`` itself.
            timing: Seconds by stage; writing comes after.
            made: For the record, see `made`; without it the detector is not described.

        Returns:
            The folder.

        Raises:
            ValueError: If ``name`` leads out of ``output_dir``.
            OSError: If a file cannot be written; nothing of the new results is left then.
        """
        folder = self.folder(name)
        made = self.made(scan) if made is None else made
        head = describe_run(scan, found, self.model, self.settings, made["source"]["sha256"])
        head["timing_s"] = dict(timing or {})
        calibration = calibration_of(self.model, self.settings)
        entries = describe_lesions(scan, found, lesions, calibration=calibration)
        document = {**head, "lesions": entries}
        files: dict[str, bytes] = {}
        if "json" in self.outputs:
            files["lesions.json"] = strict_json(document)
            files["detections.json"] = strict_json({**head, "detections": describe_detections(scan, found, lesions)})
        if "csv" in self.outputs:
            files["lesions.csv"] = _csv(
                entries,
                " ".join(notices_of(self.model)),
                calibrated=calibration is not None,
                fields=[name for name, values in found.fields.items() if values.ndim == 1],
            )
        if "overlays" in self.outputs:
            files.update(self._pictures(scan, found, lesions, entries))
        for make in self.extra.values():
            files.update(make(scan, found, lesions, document))
        store(folder, files, {"notices": notices_of(self.model), "made": made})
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
