"""In which region of the body a lesion is, from what the slices of its scan show: a coarse rule, not an atlas.

The rule is described in docs/outputs.md ("Where a lesion is"). It prefers not to know: a slice counts for a region
only for something that the region alone has, over some length. So parts of a scan give the region that the whole one
gives, or none. Named tags of the network count where the scan shows nothing; where both disagree, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from .body_profile import PIXEL_MM, Bone, SliceFacts, measure_slice, sampled
from .scan_protocol import ScanLike

REGIONS = ("head and neck", "chest", "abdomen", "pelvis", "limbs")
UNKNOWN = "unknown"
HEAD, CHEST, ABDOMEN, PELVIS, LIMBS = REGIONS
# Tags that name a region or an organ of one region (LesaNet's, which MULAN's weights score).
_TAGS = {
    HEAD: ("head", "brain", "neck", "thyroid gland", "skull"),
    CHEST: ("chest", "lung", "mediastinum", "hilum", "pleura", "lung parenchyma", "breast"),
    ABDOMEN: ("abdomen", "liver", "kidney", "spleen", "pancreas", "adrenal gland", "gallbladder"),
    PELVIS: ("pelvis", "bladder", "urinary bladder", "prostate", "uterus", "rectum", "pelvic wall"),
    LIMBS: ("thigh", "leg", "arm", "extremity"),
}
_REGION_OF = {tag: region for region, tags in _TAGS.items() for tag in tags}
# A slice of a picture that shows more of the body at its edge than this is a part of a cross-section.
_CUT = 0.2
# Lungs: shares of the cross-section that count as some and as large; the share of soft parts between large ones up to
# which there is neither heart nor liver; the share of lung around a lesion from which it is in, or at, a lung.
_SOME_LUNG, _LARGE_LUNG, _BETWEEN, _AT_LUNG = 0.02, 0.25, 0.3, 0.6
# Lungs become smaller towards the neck; by this factor they must have been larger below.
_SMALLER = 0.85
_AROUND_MM = 8.0
# Farther from the lungs may be an arm that touches the chest.
_WALL_MM = 40.0
# How far a region lasts beyond its sign: below a skull, above and below the lungs, and the middle of the neck in mm.
_NECK_MM, _ABOVE_MM, _BELOW_MM, _MIDDLE_MM = 100.0, 15.0, 100.0, 70.0
# No person is longer.
_PERSON_MM = 2500.0
# Lengths in mm over which signs must last: lungs and shafts, pelvic bones, trunks without any.
_SHORT, _BONES, _TRUNK = 15.0, 25.0, 50.0
# A trunk: area in cm² and width in mm.
_TRUNK_CM2, _TRUNK_MM = 250.0, 220.0
# A spine: least cm², largest distance from the middle in mm; the least share of slices that show it, between discs.
_SPINE_CM2, _SPINE_MM, _SPINE_SHARE = 2.0, 20.0, 0.3
# A limb: largest cross-section in cm², and the largest other bone in it.
_LIMB_CM2, _OTHER_BONE_CM2 = 450.0, 4.0
# Bones of a pelvis on both sides: area in cm², radius in mm, distances from the middle and between both in mm.
_SIDE_CM2, _SIDE_RADIUS, _FROM_MIDDLE, _UNEVEN, _LEVEL = 4.0, 5.0, (35.0, 140.0), 30.0, 40.0


@dataclass(frozen=True)
class Region:
    """A region and how it is known.

    Attributes:
        name: Of `REGIONS`, or `UNKNOWN`.
        source: ``"scan"``, ``"tags"`` or ``"none"``.
        basis: Why, in words.
        possible: Of an unknown one the regions that the scan leaves open.
    """

    name: str
    source: str
    basis: str
    possible: tuple[str, ...] = ()

    def plain(self) -> dict[str, str]:
        """As an entry of a lesion has it."""
        return {"name": self.name, "source": self.source, "basis": self.basis}


class BodyRegions:
    """The regions of one scan, measured when they are first asked for.

    Args:
        scan: The scan.
    """

    def __init__(self, scan: ScanLike) -> None:
        self._scan = scan

    @cached_property
    def _slices(self) -> np.ndarray:
        return sampled(len(self._scan.hu), self._scan.spacing[2])

    @cached_property
    def _heights(self) -> np.ndarray:
        return self._slices * self._scan.spacing[2]

    @cached_property
    def _facts(self) -> list[SliceFacts]:
        return [measure_slice(self._scan.hu[z], self._scan.spacing[:2]) for z in self._slices]

    def of(self, box: Sequence[float] | np.ndarray, height: float, tags: Iterable[Mapping[str, Any]] = ()) -> Region:
        """The region of a lesion.

        Args:
            box: ``x1, y1, x2, y2`` of its best box in canonical pixel edges.
            height: The slice of that box, slice centres at whole numbers.
            tags: Its tags as `describe_lesions` gives them.
        """
        found = self._from_scan(np.asarray(box, dtype=np.float64), height)
        named = sorted({_REGION_OF[tag["tag"].lower()] for tag in tags if tag["tag"].lower() in _REGION_OF})
        if len(named) != 1:
            return found
        if found.name == named[0]:
            return found
        if named[0] in found.possible:
            return Region(named[0], "tags", "tags of the network; the scan does not tell")
        return Region(UNKNOWN, "none", f"the scan tells {found.name} ({found.basis}), the tags {named[0]}")

    def _from_scan(self, box: np.ndarray, height: float) -> Region:
        # What is far larger would also need far more memory to measure.
        if max(np.array(self._scan.hu.shape[::-1]) * self._scan.spacing) > _PERSON_MM:
            return _unknown("the scan is larger than a person")
        at = int(np.abs(self._slices - height).argmin())
        scale = np.tile(np.array(self._scan.spacing[:2]) / PIXEL_MM, 2)
        x1, y1, x2, y2 = box * scale
        facts = self._facts[at]
        piece = facts.piece_at((x1 + x2) / 2, (y1 + y2) / 2)
        if not piece:
            return _unknown("there is no body at this place")
        if self._limbs[at] >> piece & 1:
            return Region(LIMBS, "scan", "a long bone and no other large bone in this part of the body")
        if self._lungs.any() and self._lungs[at]:
            return self._at_lungs(at, (x1, y1, x2, y2))
        if self._skull[at]:
            return Region(HEAD, "scan", "a skull around a brain")
        return self._by_trunk(at, abs((x1 + x2) / 2 - facts.extent[0]) * PIXEL_MM)

    def _at_lungs(self, at: int, box: tuple[float, float, float, float]) -> Region:
        facts = self._facts[at]
        if _around(facts.lung, box) >= _AT_LUNG:
            return Region(CHEST, "scan", "lung around the lesion")
        if _distance(facts.lung, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2) > _WALL_MM:
            return _unknown("at the height of the lungs, but more than 4 cm away from them", CHEST, ABDOMEN, LIMBS)
        if self._shares[: at + 1].max() * _SMALLER >= self._shares[at] and self._shares[: at + 1].max() >= _LARGE_LUNG:
            return Region(CHEST, "scan", "the upper part of the lungs")
        if self._shares[at] >= _LARGE_LUNG and _between(facts.lung) <= _BETWEEN:
            return Region(CHEST, "scan", "lungs, and too little between them for heart or liver")
        return _unknown("the height of the lower lungs, where chest and abdomen overlap", CHEST, ABDOMEN)

    def _by_trunk(self, at: int, off_middle: float) -> Region:
        height = self._heights[at]
        skull, lungs = self._heights[self._skull], self._heights[self._lungs & (self._shares >= _SOME_LUNG)]
        if len(lungs) and height > lungs.max():
            if height - lungs.max() >= _ABOVE_MM and off_middle <= _MIDDLE_MM:
                return Region(HEAD, "scan", "above the lungs, in the middle")
            return _unknown("above the lungs: neck, shoulder or chest", HEAD, CHEST, LIMBS)
        if len(lungs) and height > lungs.min():
            return _unknown("no lungs here, but above and below")
        if len(skull) and 0 < skull.min() - height <= _NECK_MM and off_middle <= _MIDDLE_MM:
            return Region(HEAD, "scan", "less than 10 cm below a skull")
        if self._facts[at].cut > _CUT:
            return _unknown("the picture shows a part of a cross-section")
        if self._pelvis[at]:
            return Region(PELVIS, "scan", "the same large bones on both sides")
        if len(lungs) and 0 < lungs.min() - height <= _BELOW_MM and self._facts[at].areas.max() >= _TRUNK_CM2:
            return Region(ABDOMEN, "scan", "less than 10 cm below the lungs")
        if self._spine[at]:
            return Region(ABDOMEN, "scan", "a trunk with a spine, without lungs and without bones of a pelvis")
        return _unknown("nothing that a single region has")

    @cached_property
    def _shares(self) -> np.ndarray:
        return np.array([facts.lung_share for facts in self._facts])

    @cached_property
    def _lungs(self) -> np.ndarray:
        """Slices with lungs: large ones, and smaller ones that belong to them or are too large for a bowel."""
        some, large = self._shares >= _SOME_LUNG, self._shares >= _LARGE_LUNG
        kept = np.zeros(len(some), dtype=bool)
        for first, last in _runs(some):
            run = slice(first, last + 1)
            kept[run] = True if large[run].any() else self._shares[run] >= 4 * _SOME_LUNG
        return kept

    @cached_property
    def _skull(self) -> np.ndarray:
        return self._lasting(np.array([facts.skull for facts in self._facts]), _SHORT)

    @cached_property
    def _pelvis(self) -> np.ndarray:
        sides = np.array([_is_trunk(one) and _sides(one) for one in self._facts]) & ~self._lungs
        return self._no_airway(self._lasting(sides, _BONES))

    @cached_property
    def _spine(self) -> np.ndarray:
        """Trunks with a spine and neither lungs nor large bones on a side; a slice between two is like them."""
        bare = np.array([_is_trunk(one) and not _off_middle(one) for one in self._facts]) & ~self._lungs
        spine = np.array([any(_is_spine(one, bone) for bone in one.bones_of(one.trunk)) for one in self._facts])
        found = self._lasting(bare, _TRUNK)
        for first, last in _runs(found):
            # Discs between the vertebrae have little bone.
            found[first : last + 1] = spine[first : last + 1].mean() >= _SPINE_SHARE
        return found & self._no_airway(found)

    def _no_airway(self, slices: np.ndarray) -> np.ndarray:
        """Of marked slices those in runs of which less than half have an airway: the shoulders look like a pelvis."""
        airway = np.array([facts.airway for facts in self._facts])
        kept = slices.copy()
        for first, last in _runs(slices):
            kept[first : last + 1] = airway[first : last + 1].mean() < 0.5
        return kept

    @cached_property
    def _limbs(self) -> list[int]:
        """For each slice the pieces that are limbs, as bits."""
        limbs = [{piece for piece in range(1, len(one.areas)) if _is_limb(one, piece)} for one in self._facts]
        # Next to lungs only what is apart from the trunk.
        rest = zip(self._lungs, self._facts, limbs, strict=True)
        limbs = [found - {facts.trunk} if lung else found for lung, facts, found in rest]
        return [sum(1 << piece for piece in found if self._lasts(limbs, at, piece)) for at, found in enumerate(limbs)]

    def _lasts(self, limbs: Sequence[set[int]], at: int, piece: int) -> bool:
        """Whether a limb continues over `_SHORT` above and below together."""
        low = high = at
        for step in (-1, 1):
            here, number = at, piece
            while 0 <= here + step < len(limbs):
                mask = self._facts[here].pieces == number
                under = np.bincount(self._facts[here + step].pieces[mask])
                number = int(under[1:].argmax()) + 1 if under[1:].any() else 0
                if number not in limbs[here + step]:
                    break
                here += step
            low, high = min(low, here), max(high, here)
        return bool(self._heights[high] - self._heights[low] >= _SHORT)

    def _lasting(self, slices: np.ndarray, length: float) -> np.ndarray:
        """Of marked slices those in runs of at least ``length`` mm."""
        kept = np.zeros(len(slices), dtype=bool)
        for first, last in _runs(slices):
            kept[first : last + 1] = self._heights[last] - self._heights[first] >= length
        return kept


def _unknown(basis: str, *possible: str) -> Region:
    return Region(UNKNOWN, "none", basis, possible or REGIONS)


def _runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of marked slices."""
    steps = np.diff(np.concatenate([[0], marked.astype(int), [0]]))
    return list(zip(np.flatnonzero(steps == 1).tolist(), (np.flatnonzero(steps == -1) - 1).tolist(), strict=True))


def _around(mask: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """Share of a mask in a frame of `_AROUND_MM` around a box."""
    wide = _AROUND_MM / PIXEL_MM
    outer, inner = np.zeros(mask.shape, dtype=bool), np.zeros(mask.shape, dtype=bool)
    for part, edge in ((outer, wide), (inner, 0.0)):
        x1, y1 = (max(round(low - edge), 0) for low in box[:2])
        x2, y2 = (max(round(high + edge), 0) for high in box[2:])
        part[y1:y2, x1:x2] = True
    frame = outer & ~inner
    return float(mask[frame].mean()) if frame.any() else 0.0


def _distance(mask: np.ndarray, x: float, y: float) -> float:
    """mm from a place in pixels to the nearest pixel of a mask."""
    ys, xs = np.nonzero(mask)
    return float(np.hypot(xs + 0.5 - x, ys + 0.5 - y).min()) * PIXEL_MM if len(xs) else np.inf


def _between(lung: np.ndarray) -> float:
    """Share of what is not lung in the convex hull of the lungs."""
    ys, xs = np.nonzero(lung)
    hull = cv2.convexHull(np.column_stack([xs, ys]).astype(np.int32))
    whole = cv2.fillConvexPoly(np.zeros(lung.shape, np.uint8), hull, 1).astype(bool)
    return float((whole & ~lung).sum() / whole.sum())


def _is_trunk(facts: SliceFacts) -> bool:
    return facts.areas.max() >= _TRUNK_CM2 and facts.extent[1] * PIXEL_MM >= _TRUNK_MM and facts.cut <= _CUT


def _is_limb(facts: SliceFacts, piece: int) -> bool:
    bones = facts.bones_of(piece)
    others = [bone for bone in bones if not bone.shaft]
    shafts = len(bones) - len(others)
    # Both thighs may touch each other.
    return (
        shafts > 0
        and facts.areas[piece] <= min(shafts, 2) * _LIMB_CM2
        and all(bone.area < _OTHER_BONE_CM2 for bone in others)
    )


def _from_middle(facts: SliceFacts, bone: Bone) -> float:
    return (bone.x - facts.extent[0]) * PIXEL_MM


def _is_spine(facts: SliceFacts, bone: Bone) -> bool:
    return abs(_from_middle(facts, bone)) <= _SPINE_MM and bone.area >= _SPINE_CM2


def _off_middle(facts: SliceFacts) -> bool:
    """Whether the trunk has a bone away from the middle that is larger than a rib."""
    bones = facts.bones_of(facts.trunk)
    return any(bone.area >= _SIDE_CM2 and abs(_from_middle(facts, bone)) >= _FROM_MIDDLE[0] for bone in bones)


def _side_bones(facts: SliceFacts) -> list[Bone]:
    """Large bones away from the middle of the trunk; ribs are thinner."""
    near, far = _FROM_MIDDLE
    return [
        bone
        for bone in facts.bones_of(facts.trunk)
        if bone.area >= _SIDE_CM2
        and bone.radius >= _SIDE_RADIUS
        and bone.spongy
        and not bone.shaft
        and near <= abs(_from_middle(facts, bone)) <= far
    ]


def _sides(facts: SliceFacts) -> bool:
    """Whether large bones on both sides of the trunk match each other."""
    bones = _side_bones(facts)
    return any(
        abs(_from_middle(facts, one) + _from_middle(facts, other)) <= _UNEVEN
        and abs(one.y - other.y) * PIXEL_MM <= _LEVEL
        and max(one.area, other.area) <= 2.5 * min(one.area, other.area)
        for one in bones
        for other in bones
        if _from_middle(facts, one) < 0 < _from_middle(facts, other)
    )
