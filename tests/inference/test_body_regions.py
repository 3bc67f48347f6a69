"""The region of a lesion: right in a whole person, and in every part of one right or unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.scans.scan import Scan, read_scan
from scripts.inference import body_regions
from scripts.inference.body_profile import SliceFacts, measure_slice
from scripts.inference.body_regions import UNKNOWN, BodyRegions
from support.fake_anatomy import HALF_DEPTH, HALF_WIDTH, HEIGHTS, person_scan

SPACING = (2.5, 2.5, 20.0)
STEP = 20
# Places of lesions in mm from the middle: in the middle, a thigh, a lung, an arm.
PLACES = ((0.0, -30.0), (95.0, 25.0), (80.0, 0.0), (235.0, 22.0))
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def region(regions: BodyRegions, place: tuple[float, float], height: float, scan: Scan) -> str:
    """The region of a lesion of 1 cm, in a scan whose first slice is at the soles."""
    x, y = (place[0] + HALF_WIDTH) / scan.spacing[0], (place[1] + HALF_DEPTH) / scan.spacing[1]
    wide, high = 5 / scan.spacing[0], 5 / scan.spacing[1]
    return regions.of((x - wide, y - high, x + wide, y + high), height / scan.spacing[2]).name


@pytest.fixture(scope="module", autouse=True)
def _each_slice_once() -> Iterator[None]:
    """Slices are measured one by one, so a slice is the same in every part of a scan: most tests share them."""
    known: dict[tuple[bytes, tuple[float, float]], SliceFacts] = {}

    def measure(hu: np.ndarray, spacing: tuple[float, float]) -> SliceFacts:
        key = (hu.tobytes() + repr(hu.shape).encode(), spacing)
        if key not in known:
            known[key] = measure_slice(hu, spacing)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_regions, "measure_slice", measure)
        yield


@pytest.fixture(scope="module")
def whole() -> Scan:
    return person_scan(SPACING)


@pytest.fixture(scope="module")
def known(whole: Scan) -> dict[tuple[tuple[float, float], int], str]:
    """The region of each place at each height in the whole scan."""
    regions = BodyRegions(whole)
    heights = range(0, len(whole.hu) * STEP, 2 * STEP)
    return {(place, height): region(regions, place, height, whole) for place in PLACES for height in heights}


@pytest.mark.parametrize("wanted", HEIGHTS)
def test_each_region_is_known_in_a_whole_person(wanted: str, whole: Scan) -> None:
    place = PLACES[1] if wanted == "limbs" else PLACES[2] if wanted == "chest" else PLACES[0]
    assert region(BodyRegions(whole), place, HEIGHTS[wanted], whole) == wanted


def test_an_arm_next_to_the_trunk_is_a_limb(whole: Scan) -> None:
    regions = BodyRegions(whole)
    assert {region(regions, PLACES[3], height, whole) for height in (860, 1080, 1260, 1400)} == {"limbs"}


def test_dome_of_the_liver_between_the_lungs_is_unknown(whole: Scan) -> None:
    found = BodyRegions(whole).of((138.0, 42.0, 142.0, 46.0), 61.0)
    assert (found.name, found.source) == (UNKNOWN, "none")
    assert "overlap" in found.basis


def test_above_the_lungs_only_the_middle_is_neck(whole: Scan) -> None:
    regions = BodyRegions(whole)
    assert region(regions, (0.0, 0.0), 1540, whole) == "head and neck"
    assert region(regions, (150.0, 0.0), 1500, whole) == UNKNOWN


@pytest.mark.parametrize("flips", [(2,), (1,)])
def test_left_and_right_front_and_back_do_not_matter(flips: tuple[int, ...], whole: Scan, known: dict) -> None:
    scan = replace(whole, hu=np.ascontiguousarray(np.flip(whole.hu, flips)))
    regions = BodyRegions(scan)
    for (place, height), name in known.items():
        turned = (-place[0] if 2 in flips else place[0], -place[1] if 1 in flips else place[1])
        assert region(regions, turned, height, scan) == name, (place, height)


def test_spacing_does_not_matter(known: dict) -> None:
    scan = person_scan((1.5, 3.0, 12.0))
    regions = BodyRegions(scan)
    found = {key: region(regions, key[0], key[1], scan) for key in known}
    differ = [key for key, name in known.items() if found[key] != name]
    # Borders may be half a step elsewhere.
    assert len(differ) <= len(known) / 20
    assert not [key for key in differ if UNKNOWN not in (known[key], found[key])]


@pytest.mark.parametrize("first", range(0, 1700, 120))
@pytest.mark.parametrize("length", [40, 160, 420])
def test_a_part_of_the_height_gives_the_same_or_none(first: int, length: int, whole: Scan, known: dict) -> None:
    scan = replace(whole, hu=whole.hu[first // STEP : (first + length) // STEP])
    regions = BodyRegions(scan)
    for (place, height), name in known.items():
        if first <= height < first + len(scan.hu) * STEP and name != UNKNOWN:
            assert region(regions, place, height - first, scan) in (name, UNKNOWN), (place, height)


@pytest.mark.parametrize("side", ["left", "middle"])
def test_a_part_of_the_cross_section_gives_the_same_or_none(side: str, whole: Scan, known: dict) -> None:
    _, height, width = whole.hu.shape
    rows, columns = {
        "left": (slice(None), slice(width // 2, None)),
        "middle": (slice(height // 4, -height // 4), slice(width // 4, -width // 4)),
    }[side]
    scan = replace(whole, hu=np.ascontiguousarray(whole.hu[:, rows, columns]))
    regions = BodyRegions(scan)
    shift = np.array([columns.start or 0, rows.start or 0]) * SPACING[:2]
    for (place, at), name in known.items():
        x, y = np.array([place[0] + HALF_WIDTH, place[1] + HALF_DEPTH]) - shift
        inside = 0 <= x < scan.hu.shape[2] * SPACING[0] and 0 <= y < scan.hu.shape[1] * SPACING[1]
        if inside and name != UNKNOWN:
            moved = (x - HALF_WIDTH, y - HALF_DEPTH)
            assert region(regions, moved, at, scan) in (name, UNKNOWN), (place, at)


def test_one_slice_and_no_body_are_unknown(whole: Scan) -> None:
    alone = replace(whole, hu=whole.hu[54:55])
    assert BodyRegions(alone).of((110.0, 50.0, 114.0, 54.0), 0.0).name == UNKNOWN
    empty = replace(whole, hu=np.full_like(whole.hu[:20], -1000))
    found = BodyRegions(empty).of((110.0, 50.0, 114.0, 54.0), 3.0)
    assert (found.name, found.basis) == (UNKNOWN, "there is no body at this place")


def test_a_scan_larger_than_a_person_is_not_measured(whole: Scan) -> None:
    huge = replace(whole, affine=np.diag([1e4, 1e4, 20.0, 1.0]))
    found = BodyRegions(huge).of((110.0, 50.0, 114.0, 54.0), 54.0)
    assert (found.name, found.basis) == (UNKNOWN, "the scan is larger than a person")


def test_tags_fill_gaps_and_never_overrule(whole: Scan) -> None:
    alone, box = BodyRegions(replace(whole, hu=whole.hu[54:55])), (110.0, 50.0, 114.0, 54.0)
    liver, lung, cyst = ({"tag": name, "score": 0.9} for name in ("Liver", "lung", "cyst"))
    assert alone.of(box, 0.0, [liver, cyst]).plain() == {
        "name": "abdomen",
        "source": "tags",
        "basis": "tags of the network; the scan does not tell",
    }
    assert alone.of(box, 0.0, [liver, lung]).name == UNKNOWN
    assert alone.of(box, 0.0, [cyst]).name == UNKNOWN
    regions = BodyRegions(whole)
    assert regions.of(box, 54.0, [liver]).source == "scan"
    # The dome of the liver may be both, but no brain.
    dome, brain = (138.0, 42.0, 142.0, 46.0), {"tag": "brain", "score": 0.9}
    assert [regions.of(dome, 61.0, [tag]).name for tag in (liver, lung, brain)] == ["abdomen", "chest", UNKNOWN]
    contradicted = regions.of(box, 54.0, [lung])
    assert (contradicted.name, contradicted.source) == (UNKNOWN, "none")
    assert "abdomen" in contradicted.basis
    assert "chest" in contradicted.basis


@pytest.mark.parametrize(
    ("name", "wanted"), [("STS_006", "limbs"), ("STS_030", "limbs"), ("STS_039", "limbs"), ("STS_002", UNKNOWN)]
)
def test_real_crops_of_thighs_are_limbs_and_one_without_a_long_bone_is_unknown(name: str, wanted: str) -> None:
    folder = REAL / "real" / "sarcoma" / name
    if not folder.is_dir():
        pytest.skip(f"no real data next to the checkout: {folder} is missing")
    scan = read_scan(folder / "ct.nii.gz")
    mask = np.asarray(nibabel.load(folder / "tumour.nii.gz").dataobj) > 0  # type: ignore[attr-defined]
    places = np.argwhere(mask)
    box = scan.boxes_from_stored(np.concatenate([places.min(axis=0), places.max(axis=0) + 1])[None])[0]
    assert BodyRegions(scan).of(box[[0, 1, 3, 4]], (box[2] + box[5]) / 2 - 0.5).name == wanted


def test_a_real_abdomen_is_abdomen_below_the_lungs() -> None:
    path = REAL / "volumes" / "CRLM-CT-1004" / "ct.nii.gz"
    if not path.is_file():
        pytest.skip(f"no real data next to the checkout: {path} is missing")
    scan = read_scan(path)
    regions = BodyRegions(scan)
    # A metastasis of the liver's size in its middle, the dome of the liver, and a lung.
    assert regions.of((180.0, 230.0, 200.0, 250.0), 18.0).name == "abdomen"
    assert regions.of((200.0, 230.0, 215.0, 245.0), 31.0).name == UNKNOWN
    assert regions.of((170.0, 260.0, 180.0, 270.0), 38.0).name == "chest"
