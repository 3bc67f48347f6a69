"""Tags of lesions, read from the file that LesaNet and MULAN train on (``text_mined_labels_171_and_split.json``).

The file names the lesions by their rows in ``DL_info.csv`` and has for each split lists of relevant and uncertain tags.
It belongs to its authors and is read where the user keeps it. Yan et al., CVPR 2019.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...instances import Instances
from ...storage.printable import shown
from ...storage.safe_json import parse_json
from ..tag_ontology import PATTERN, exclusions

logger = logging.getLogger(__name__)

RELEVANT, UNCERTAIN = "relevant", "uncertain"
_PARTS = ("train", "val", "test")
# The file of 171 tags has 4 MB.
_MAX_BYTES = 1 << 28
# Of each lesion, by its row, the relevant and the uncertain tags.
Lesions = dict[int, tuple[Sequence[int], Sequence[int]]]
_LARGEST_WEIGHT = 300.0
# What a tag of a lesion is.
YES, NO, UNKNOWN = 1, 0, -1


@dataclass(frozen=True)
class LesionTags:
    """Reads the tags of a row of ``DL_info.csv``.

    The fields of a lesion are ``tags`` ``(T,)`` int64: 1 for a tag that is relevant, -1 for one that is uncertain, 0
    for all others; -1 throughout for a lesion that the file does not have; and ``tag_weights`` ``(T,)`` float32, by
    which MULAN makes rare tags count: N / 2 P where a lesion has the tag, at most 300, N / 2 (N - P) where it has not,
    of N lesions to train on, P of which have it.

    If the authors' ontology of the tags (`scripts.data.tag_ontology.PATTERN`) is next to the file, lesions have the
    field ``tag_exclusions`` ``(T,)`` bool as well: tags that one of the relevant ones excludes.

    Attributes:
        path: The file.
    """

    path: Path

    @cached_property
    def _content(self) -> tuple[tuple[str, ...], Lesions, list[int]]:
        return _read(self.path)

    @cached_property
    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights of each tag where a lesion has it, and where it has not."""
        names, lesions, trained = self._content
        counts = np.zeros(len(names))
        for row in trained:
            counts[list(lesions[row][0])] += 1
        total = max(len(trained), 1)
        positive, negative = (total / (2 * np.maximum(each, 1)) for each in (counts, total - counts))
        return np.minimum(positive, _LARGEST_WEIGHT), negative

    @cached_property
    def _exclusions(self) -> np.ndarray | None:
        """``(T, T)``, see `exclusions`; None without an ontology."""
        found = sorted(self.path.parent.glob(PATTERN))
        if len(found) > 1:
            raise ValueError(f"Expected one ontology of the tags, got {found[0].name} and {found[1]}.")
        if not found:
            return None
        pairs = exclusions(found[0], self.names)
        logger.info("%s: %d pairs of tags exclude each other.", found[0], int(pairs.sum()) // 2)
        return pairs

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tags."""
        return self._content[0]

    @property
    def empty(self) -> Instances[np.ndarray]:
        """The field of no lesion."""
        shape = (0, len(self.names))
        more = {} if self._exclusions is None else {"tag_exclusions": np.zeros(shape, np.bool_)}
        return {"tags": np.zeros(shape, np.int64), "tag_weights": np.zeros(shape, np.float32), **more}

    def __call__(self, cells: Mapping[str, str], row: int, box: np.ndarray, source: str) -> Instances[np.ndarray]:
        """The field of one lesion.

        Args:
            cells: The row by column; not used.
            row: Its number in the file, from 0 below the header.
            box: Its box; not used.
            source: File and row; not used.
        """
        names, lesions, _ = self._content
        tags = np.full(len(names), NO if row in lesions else UNKNOWN, np.int64)
        relevant, uncertain = lesions.get(row, ((), ()))
        tags[list(uncertain)] = UNKNOWN
        tags[list(relevant)] = YES
        positive, negative = self._weights
        weights = np.where(tags == YES, positive, negative).astype(np.float32)
        if self._exclusions is None:
            return {"tags": tags, "tag_weights": weights}
        excluded = self._exclusions[list(relevant)].any(axis=0) & (tags != YES)
        return {"tags": tags, "tag_weights": weights, "tag_exclusions": excluded}


def _read(path: Path) -> tuple[tuple[str, ...], Lesions, list[int]]:
    """The names of the tags, of each lesion its relevant and its uncertain ones, and which lesions are to train on.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is another file; what is amiss is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected the tags of lesions at {path}, but the file does not exist.")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"Expected tags of lesions of at most {_MAX_BYTES >> 20} MiB, got more in {path}.")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"Expected tags of lesions as JSON, got something else in {path}: {error}.") from error
    names = content.get("term_list") if isinstance(content, Mapping) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"Expected the names of tags as a list term_list, got {shown(names)} in {path}.")
    lesions: Lesions = {}
    for part in _PARTS:
        rows = content.get(f"{part}_lesion_idxs", [])
        none: list[list[int]] = [[] for _ in rows] if isinstance(rows, list) else []
        lists = [content.get(f"{part}_{kind}_labels", none) for kind in (RELEVANT, UNCERTAIN)]
        if not _are_numbers(rows) or any(not isinstance(each, list) or len(each) != len(rows) for each in lists):
            raise ValueError(
                f"Expected rows as {part}_lesion_idxs and a list for each as {part}_{RELEVANT}_labels and "
                f"{part}_{UNCERTAIN}_labels, got others in {path}."
            )
        for row, relevant, uncertain in zip(rows, *lists, strict=True):
            wrong = next((each for each in (relevant, uncertain) if not _are_numbers(each, len(names))), None)
            if wrong is not None or row in lesions:
                got = "a second entry" if wrong is None else shown(wrong)
                raise ValueError(
                    f"Expected one entry with numbers of tags below {len(names)} for lesion {row}, got {got} in {path}."
                )
            lesions[row] = (relevant, uncertain)
    if not lesions:
        raise ValueError(f"Expected tags of at least one lesion, got none in {path}.")
    return tuple(names), lesions, content.get(f"{_PARTS[0]}_lesion_idxs", [])


def _are_numbers(values: Any, below: int | None = None) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and value >= 0 and (below is None or value < below) for value in values
    )
