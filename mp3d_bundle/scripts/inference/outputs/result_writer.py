"""Results of a scan as files, all of them or none; `scripts.storage.result_files` has the table of them."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ...storage.result_files import DICOM_OUTPUTS, OUTPUTS
from ..detections import Lesion, ScanResult, SliceBoxes
from ..scan_protocol import ScanLike
from .lesions_document import calibration_of, describe_lesions, describe_run, notices_of
from .measurements import tagging_in
from .named_classes import classes_in
from .pictures.finding_pictures import OverlayWriter
from .result_folder import describe_part, describe_source, store

logger = logging.getLogger(__name__)


class Maker(Protocol):
    """Makes result files of a scan."""

    def __call__(self, result: ScanResult, /) -> dict[str, bytes]:
        """The content of each file by its name."""
        ...


def maker_of(name: str) -> Maker:
    """The maker of an output's files from the table.

    Call it while a config is being built, like its targets: a later import may find the modules of another bundle.

    Raises:
        ValueError: If the name is unknown.
    """
    module, attribute = OUTPUTS[_known(name)].maker.rsplit(".", 1)
    made = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return made() if isinstance(made, type) else made


def _known(name: str) -> str:
    if name not in OUTPUTS:
        raise ValueError(f"Expected outputs among {', '.join(OUTPUTS)}, got {name or 'none'!r}.")
    return name


def choose_outputs(names: str | Sequence[str]) -> tuple[str, ...]:
    """Check the names of results.

    Args:
        names: Names of `OUTPUTS`, as a list or as one text with commas.

    Returns:
        The names; without those in DICOM if highdicom is not installed, which is logged.

    Raises:
        ValueError: If a name is unknown, or none was given.
    """
    chosen = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    for name in chosen or [""]:
        _known(name)
    if not set(DICOM_OUTPUTS).isdisjoint(chosen) and importlib.util.find_spec("highdicom") is None:
        logger.warning("No DICOM results are written: they need the package highdicom, which is not installed.")
        chosen = [name for name in chosen if name not in DICOM_OUTPUTS]
    return tuple(chosen)


@dataclass(frozen=True)
class ResultWriter:
    """Write the results of scans.

    The folder of each scan gets the files of the ``outputs``, those of ``extra``, and a record of all of them,
    ``finished.json``.

    Attributes:
        output_dir: Folder for the results; created if needed.
        model: Facts of the weights: ``name``, ``notice``, ``path``, ``sha256``.
        settings: Settings of the detector, plain values, written unchanged.
        tag_threshold: Scores from which tags are named, one number or one for each; None for that of the settings, or
            else the weights' own.
        overwrite: Replace results of another scan, weights or settings.
        overlays: Pictures of at most this many lesions, best first.
        slice_overlays: Also write a picture of every slice with a box, in ``overlays/slices/``.
        outputs: Names of `scripts.storage.result_files.OUTPUTS`.
        extra: Makers that replace those of the table or make further files, by name.
    """

    output_dir: str | Path
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlays: int = 10
    slice_overlays: bool = False
    outputs: Sequence[str] = ("json", "csv", "overlays")
    extra: Mapping[str, Maker] = field(default_factory=dict)
    tag_threshold: float | Sequence[float] | None = None
    overwrite: bool = True

    def __post_init__(self) -> None:
        _ = self.makers  # now, while a config is being built: see `maker_of`

    @cached_property
    def makers(self) -> dict[str, Maker]:
        """The makers of files by the name of the output; ``extra`` replaces those of the table."""
        makers = {name: maker_of(name) for name in self.outputs if name not in self.extra}
        if "overlays" in makers:
            makers["overlays"] = OverlayWriter(self.overlays, self.slice_overlays)
        return {**makers, **self.extra}

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
        """Input and settings of the results of a scan, plain values, for the record.

        Args:
            scan: The scan; its files and voxels are hashed.
            parts: Further parts that affect the results, such as the detector.
        """
        return {
            "source": describe_source(scan),
            "weights_sha256": self.model.get("sha256"),
            # Engines agree to a thousandth of a pixel: results of one are as good as those of another.
            "settings": describe_part({name: value for name, value in self.settings.items() if name != "engine"}),
            "results": describe_part({"outputs": sorted(self.outputs), "makers": self.makers}),
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
            timing: Seconds by stage, without writing.
            made: For the record, see `made`; without it the detector is not described.

        Returns:
            The folder.

        Raises:
            ValueError: If ``name`` leads out of ``output_dir``, or other results are there that are not to be replaced.
            OSError: If a file cannot be written; no new results are left then.
        """
        folder = self.folder(name)
        made = self.made(scan) if made is None else made
        chosen = {} if self.tag_threshold is None else {"tag_threshold": self.tag_threshold}
        head = describe_run(scan, found, self.model, {**self.settings, **chosen}, made["source"]["sha256"])
        head["timing_s"] = dict(timing or {})
        calibration, tagging, classes = calibration_of(self.model, self.settings), tagging_in(head), classes_in(head)
        entries = describe_lesions(scan, found, lesions, calibration=calibration, tagging=tagging, classes=classes)
        result = ScanResult(scan, found, lesions, {**head, "lesions": entries}, folder)
        files: dict[str, bytes] = {}
        for make in self.makers.values():
            files.update(make(result))
        store(folder, files, {"notices": notices_of(self.model), "made": made}, overwrite=self.overwrite)
        return folder
