"""Lesions as the truth gives them, in the frame of their scan, and the slices that they are learned from.

Every kind of truth becomes the same thing: for each slice that a lesion is on, a slab-frame box. A mask or contour
gives the bounds of its outline there, a box in 3D the same box on every slice it spans, a label on one slice that one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ..deeplesion.dataset_from_scans import STEP_MM

# How a lesion's boxes came about: bounds of an outline on every slice, one box in 3D, or labels on single slices.
Form = Literal["outline", "solid", "slices"]
KEY_SLICES = ("middle", "widest", "all")
# Of an outlined lesion those slices count as its middle on which its box has at least this share of its largest area.
_MIDDLE_AREA = 0.25
# Boxes on neighbouring slices that share at least this much of the smaller one are of one lesion.
_SAME_LESION = 0.3
ONE_CLASS = "lesion"


@dataclass(frozen=True)
class TrueLesion:
    """A lesion in the frame of its scan.

    Attributes:
        name: What the truth calls it: a label, a segment, a category; becomes its class by the rules of the import.
        slices: ``(K,)`` int64 rising, slices of ``scan.hu`` that it is on, at least one.
        boxes: ``(K, 4)`` float64 slab-frame boxes, one for each slice.
        form: How its boxes came about.
        outlines: For pictures: closed outlines ``(N, 2)`` in pixels (edges) by slice; of some slices, or of none.
        source: Where the truth was read, for messages.
        doubtful: Whether the truth itself calls it uncertain; becomes ``Possibly_noisy``.
        other_names: What patterns of classes may mean it by as well.
    """

    name: str
    slices: np.ndarray
    boxes: np.ndarray
    form: Form
    source: str
    outlines: Mapping[int, Sequence[np.ndarray]] = field(default_factory=dict)
    doubtful: bool = False
    other_names: tuple[str, ...] = ()

    @property
    def widest(self) -> int:
        """The slice of its largest box; of several the one nearest to their middle."""
        areas = _areas(self.boxes)
        largest = self.slices[areas >= areas.max() * (1 - 1e-9)]
        return int(largest[np.argmin(np.abs(largest - (largest[0] + largest[-1]) / 2))])

    @property
    def bounds(self) -> np.ndarray:
        """``(4,)`` what encloses its boxes in the plane."""
        return np.concatenate([self.boxes[:, :2].min(axis=0), self.boxes[:, 2:].max(axis=0)])

    def box_on(self, number: int) -> np.ndarray | None:
        """Its box ``(4,)`` on a slice, or None where it is not."""
        at = int(np.searchsorted(self.slices, number))
        return self.boxes[at] if at < len(self.slices) and self.slices[at] == number else None

    def called(self, name: str) -> TrueLesion:
        """The same lesion under another name."""
        return replace(self, name=name)

    def of_file(self, file: str) -> TrueLesion:
        """The same lesion called by its file and label, by which patterns may mean it alone as well."""
        return replace(self, name=f"{file}:{self.name}", other_names=(file, self.name))


@dataclass(frozen=True)
class ScanTruth:
    """The truth about one scan.

    Attributes:
        lesions: None at all where it says that there is none.
        notes: What was odd, one sentence each.
        unsure: Slices on which something is that is neither a lesion nor certainly none.
        empty: Slices without a lesion according to the truth.
        regions: Where nothing is known: neither lesions nor background.
    """

    lesions: tuple[TrueLesion, ...] = ()
    notes: tuple[str, ...] = ()
    unsure: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    regions: tuple[TrueLesion, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[ScanTruth], ranks: np.ndarray | None = None) -> ScanTruth:
        """What several files say about one scan; labels on neighbouring slices become lesions, copies count once.

        Args:
            parts: What each says.
            ranks: See `join_slices`.
        """
        lesions, copies = _once([lesion for part in parts for lesion in part.lesions])
        single = join_slices([lesion for lesion in lesions if lesion.form == "slices"], ranks)
        taken = {int(number) for lesion in lesions for number in lesion.slices}
        return cls(
            (*(lesion for lesion in lesions if lesion.form != "slices"), *single),
            (*dict.fromkeys(note for part in parts for note in part.notes), *copies),
            tuple(sorted({number for part in parts for number in part.unsure})),
            tuple(sorted({number for part in parts for number in part.empty} - taken)),
            tuple(region for part in parts for region in part.regions),
        )


def _once(lesions: Sequence[TrueLesion]) -> tuple[list[TrueLesion], list[str]]:
    """Lesions without copies (the same name and boxes), and a note for each place that has some."""
    first: dict[tuple[str, bytes, bytes], TrueLesion] = {}
    copies: Counter[str] = Counter()
    for lesion in lesions:
        key = (lesion.name, lesion.slices.tobytes(), lesion.boxes.tobytes())
        if key in first:
            copies[lesion.source] += 1
        first.setdefault(key, lesion)
    notes = [
        f"Left out {count} lesion(s) that came twice, box and name ({source})." for source, count in copies.items()
    ]
    return list(first.values()), notes


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def solid_lesion(name: str, box: np.ndarray, num_slices: int, source: str) -> TrueLesion:
    """A lesion from a box in 3D.

    Args:
        name: What the truth calls it.
        box: ``(6,)`` canonical edges ``x1, y1, z1, x2, y2, z2``; it reaches into the scan.
        num_slices: Slices of the scan.
        source: Where it was read.

    Returns:
        The lesion, on the slices whose middle is in the box, or on the one that the middle of the box is in.
    """
    first, last = int(np.ceil(box[2] - 0.5 - 1e-6)), int(np.floor(box[5] - 0.5 + 1e-6))
    if last < first:
        first = last = int(np.floor((box[2] + box[5]) / 2))
    slices = np.unique(np.clip(np.arange(first, last + 1), 0, num_slices - 1))
    return TrueLesion(name, slices, np.repeat(box[None, [0, 1, 3, 4]], len(slices), axis=0), "solid", source)


def join_slices(labels: Sequence[TrueLesion], ranks: np.ndarray | None = None) -> list[TrueLesion]:
    """Join labels on single slices to lesions: those of one name that overlap on neighbouring slices.

    Args:
        labels: Each on one slice.
        ranks: ``(Z,)`` the place of each slice in their order, where neighbours in the file are not neighbours in the
            scan (`slice_ranks`); its own number without it.

    Returns:
        Lesions in the order of their first labels.
    """
    grown: list[list[TrueLesion]] = []

    def rank(label: TrueLesion) -> int:
        return int(label.slices[0] if ranks is None else ranks[label.slices[0]])

    for label in sorted(labels, key=lambda one: int(one.slices[0])):
        before = [
            lesion
            for lesion in grown
            if lesion[-1].name == label.name
            and rank(lesion[-1]) == rank(label) - 1
            and _shared(lesion[-1].boxes[0], label.boxes[0]) >= _SAME_LESION
        ]
        if before:
            max(before, key=lambda lesion: _shared(lesion[-1].boxes[0], label.boxes[0])).append(label)
        else:
            grown.append([label])
    return [
        replace(
            parts[0],
            slices=np.concatenate([part.slices for part in parts]),
            boxes=np.concatenate([part.boxes for part in parts]),
            outlines={number: lines for part in parts for number, lines in part.outlines.items()},
            # Drawn slice by slice, its length is known as well.
            form="outline" if len(parts) > 1 else "slices",
        )
        for parts in grown
    ]


def _shared(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over the smaller box."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    smaller = min(_areas(first[None])[0], _areas(second[None])[0])
    return float(np.prod(np.maximum(sides, 0.0)) / smaller) if smaller > 0 else 0.0


def key_slices(lesion: TrueLesion, interval: float, which: str = "middle") -> list[int]:
    """The slices of a lesion that become key slices.

    Args:
        lesion: The lesion.
        interval: Distance of slices in mm.
        which: ``"widest"``: the slice of its largest box alone, as in DeepLesion; ``"all"``: every slice it is on;
            ``"middle"``: slices at least 2.5 mm apart (the network's own distance) on which its box is at least a
            quarter of its largest, or, for a box in 3D, in the middle half of its length: near its ends the outline
            in the plane is smaller than the box.
    """
    centre = lesion.widest
    if which == "widest":
        return [centre]
    if which == "all":
        return lesion.slices.tolist()
    step = max(1, int(np.ceil(STEP_MM / interval - 1e-6)))
    if lesion.form == "solid":
        reach = len(lesion.slices) / 4
        middle = (lesion.slices[0] + lesion.slices[-1]) / 2
        good = lesion.slices[np.abs(lesion.slices - middle) <= reach]
    else:
        areas = _areas(lesion.boxes)
        good = lesion.slices[areas >= _MIDDLE_AREA * areas.max()]
    return good[(good - centre) % step == 0].tolist()


def background_slices(truth: ScanTruth, num_slices: int, *, count: int, apart: int) -> list[int]:
    """Slices without a lesion, evenly spread over those that are far enough from every lesion.

    Args:
        truth: The lesions of the scan.
        num_slices: Its slices.
        count: How many at most.
        apart: Slices that have to lie between one and the next lesion, and between two of them.
    """
    free = np.ones(num_slices, dtype=bool)
    for taken in (*(lesion.slices for lesion in truth.lesions), np.asarray(truth.unsure, dtype=np.int64)):
        for number in taken.tolist():
            free[max(0, number - apart) : number + apart + 1] = False
    places = np.flatnonzero(free)
    if not len(places) or count < 1:
        return []
    chosen: list[int] = []
    for at in np.linspace(0, len(places) - 1, min(count, len(places)) + 2)[1:-1].round().astype(int).tolist():
        if not chosen or places[at] - chosen[-1] > apart:
            chosen.append(int(places[at]))
    return chosen
