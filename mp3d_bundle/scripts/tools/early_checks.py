"""What can be wrong with a command line before its work imports PyTorch, which takes seconds.

Each check takes the arguments of its command by name. The work calls it as well, so that an error is the same from
Python. Imports neither PyTorch nor NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..data.importing.split_shares import check_folds, check_shares
from ..data.synthetic_presets import Settings, check_run, resolve
from ..storage.atomic_files import check_file
from ..storage.needed_files import need_evaluation, need_weights

EXPORT_FORMATS = ("onnx", "torch")
DIRECTIONS = ("bundle", "authors", "mmdet")
SCAN_FILES = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".zip", ".txt")
INFERENCE_SETTINGS = ("box_threshold", "pixel_spacing")


def check_synthetic(
    preset: str | Settings = "small",
    seed: int = 0,
    workers: int = 2,
    settings: Mapping[str, object] | None = None,
    **others: object,
) -> None:
    """Check the settings of `make_synthetic.main`.

    Raises:
        ValueError: If a setting is unknown or impossible.
    """
    del others
    resolve(preset, settings)
    check_run(seed, workers)


def check_export(checkpoint: str, target: str, format: str = "onnx", **others: object) -> None:
    """Check the arguments of `export_detector.export`.

    Raises:
        ValueError: If the format is unknown, or the target is the weights file itself.
        FileNotFoundError: If the weights file does not exist.
        OSError: If no file can be written to the target.
    """
    del others
    if format not in EXPORT_FORMATS:
        raise ValueError(f"Expected --format {' or '.join(EXPORT_FORMATS)}, got {format!r}.")
    need_weights(checkpoint)
    _check_target(checkpoint, target)


def check_convert(source: str, target: str, to: str = "bundle", **of_bundle: object) -> None:
    """Check the arguments of `convert_weights.convert`.

    Raises:
        ValueError: If the direction is unknown, an option is given that it does not have, or the target is the source
            itself.
        FileNotFoundError: If the source does not exist.
        OSError: If no file can be written to the target.
    """
    if to not in DIRECTIONS:
        raise ValueError(f"Expected --to bundle or --to authors, got {to!r}.")
    for name, value in of_bundle.items():
        if to != "bundle" and value is not None and value is not False:
            raise ValueError(f"Expected --{name} with --to bundle alone, got it with --to {to}.")
    need_weights(source)
    _check_target(source, target)


def _check_target(source: str, target: str) -> None:
    """Keep weights that a translation of them would replace, and reject a target that cannot be a file."""
    check_file(target)
    if Path(target).exists() and Path(target).samefile(source):
        raise ValueError(f"Expected a target other than the source, got {target}: it would replace the weights.")


def check_operating_points(
    checkpoint: str, evaluation: str, target: str = "", inference: Mapping[str, float] | None = None, **others: object
) -> None:
    """Check the arguments of `set_operating_points.operating_points`.

    Raises:
        ValueError: If a setting of inference is unknown.
        FileNotFoundError: If the weights file or a file of the evaluation does not exist.
        OSError: If no file can be written to the target.
    """
    del others
    for name in sorted(set(inference or ()) - set(INFERENCE_SETTINGS)):
        raise ValueError(f"Expected the settings {' and '.join(INFERENCE_SETTINGS)}, got {name!r}.")
    need_weights(checkpoint)
    check_file(target or checkpoint)
    need_evaluation(evaluation)


def check_score(truth: str, predictions: str, **others: object) -> None:
    """Check the arguments of `score_predictions.score`.

    Raises:
        FileNotFoundError: If the truth or the predictions do not exist.
    """
    del others
    for path in (truth, predictions):
        if not Path(path).exists():
            raise FileNotFoundError(f"Expected truth and predictions, there is nothing at {path}.")


def check_import(
    images: str,
    truth: str | None = None,
    split: object = (0.7, 0.15, 0.15),
    split_file: str | None = None,
    folds: object = 0,
    **others: object,
) -> None:
    """Check the arguments of `import_set.main`.

    Raises:
        FileNotFoundError: If the images, the truth or the file of splits do not exist.
        ValueError: If the shares of the splits or the number of folds cannot be, or the images are another file.
    """
    del others
    check_shares(split)
    check_folds(folds)
    for what, path in (("scans", images), ("truth", truth), ("splits", split_file)):
        if path is not None and not Path(path).exists():
            raise FileNotFoundError(f"Expected the {what} at {path}, but there is nothing.")
    if Path(images).is_file() and not str(images).lower().endswith(SCAN_FILES):
        raise ValueError(
            "Expected scans as images: a folder (of a DICOM series too), or a file that ends in "
            f"{', '.join(SCAN_FILES)}, got the file {images}."
        )


# By the module and the function that a command-line module names.
CHECKS: dict[tuple[str, str], Callable[..., None]] = {
    ("tools.make_synthetic", "main"): check_synthetic,
    ("tools.export_detector", "export"): check_export,
    ("tools.convert_weights", "convert"): check_convert,
    ("tools.set_operating_points", "operating_points"): check_operating_points,
    ("tools.score_predictions", "score"): check_score,
    ("tools.import_set", "main"): check_import,
}
