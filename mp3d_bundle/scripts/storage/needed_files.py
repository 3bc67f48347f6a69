"""Files that a command cannot do without. Imports no package that takes time to import."""

from __future__ import annotations

from pathlib import Path

EVALUATION = ("metrics.json", "detections.csv")


def need_weights(path: str | Path) -> None:
    """Check that a weights file is there.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Expected a weights file, found no file {path}. See models/README.md for how to get one."
        )


def need_folder(path: str | Path, what: str) -> None:
    """Check that a folder is there.

    Args:
        path: The folder.
        what: What it is, for the message: "a data set folder at".

    Raises:
        FileNotFoundError: If there is nothing.
        NotADirectoryError: If it is a file.
    """
    if Path(path).is_dir():
        return
    if Path(path).exists():
        raise NotADirectoryError(f"Expected {what} {path}, but that is a file.")
    raise FileNotFoundError(f"Expected {what} {path}, but the folder does not exist.")


def need_evaluation(folder: str | Path) -> None:
    """Check that the files that an evaluation writes are in a folder.

    Raises:
        FileNotFoundError: If one of them does not exist.
    """
    for name in EVALUATION:
        if not (Path(folder) / name).is_file():
            raise FileNotFoundError(f"Expected the folder of an evaluation, found no {name} in {folder}.")
