"""Contents of a synthetic data set: one frozen record of settings and the table of presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

# DeepLesion's mix: 5 mm and 1 mm make up 97 %, the rest is 2 mm and odd values (test rows of DL_info.csv).
OFFICIAL_INTERVALS: tuple[tuple[float, float], ...] = (
    (5.0, 0.50),
    (1.0, 0.47),
    (2.0, 0.02),
    (0.6, 0.004),
    (3.0, 0.003),
    (2.5, 0.001),
    (0.5, 0.001),
    (4.0, 0.001),
)


@dataclass(frozen=True)
class Settings:
    """All settings that, together with the seed, determine a synthetic data set.

    Attributes:
        num_train: Key slices of the training split.
        num_validation: Key slices of the validation split.
        num_test: Key slices of the test split.
        num_scans: Whole scans written as NIfTI next to the data set, of patients outside the splits.
        whole_series: Series of the training split that are labelled in full on every slice, so that it has slices near
            the ends of lesions, between lesions and without one; the validation split gets as many for its size.
        irregularities: Also write the odd cases that the real data set contains.
        image_size: Rows and columns of a slice, pixels.
        pixel_spacing: In-plane spacing in mm: its 5 %, 50 % and 95 % points (three equal values: fixed).
        slice_intervals: ``(mm, weight)`` pairs from which the slice interval of a series is drawn.
        margin_mm: Slices within this distance of a key slice are stored (30 in DeepLesion).
        padding: Pixels between the RECIST end points and the box (5 in DeepLesion).
        series_per_patient: Mean number of series of a patient.
        keys_per_series: Mean number of key slices of a series.
        lesions_per_slice: Probabilities of 1, 2, ... labelled lesions on a key slice.
        unlabelled_per_lesion: Mean number of lesions without a label for each one with a label.
        tubes: Fewest and most vessels and bowel loops that cross a key slice.
        diameter_mm: In-plane diameter (geometric mean of long and short): median of a log-normal law.
        diameter_sigma: Standard deviation of the diameter's logarithm.
        diameter_range_mm: Limits of the diameter.
        axis_ratio: Short over long axis: lowest and highest value of a uniform law.
        half_height_mm: Half extent along z of a lesion: lowest and highest value of a log-uniform law.
        height_ratio: ``(median, sigma)`` of extent along z over in-plane diameter, log-normal;
            a median of 0 switches to ``half_height_mm``.
        contrast_hu: Least and greatest contrast of lesions and tubes to the tissue around.
        dark_fraction: Share of lesions and tubes in enhancing organs that are darker than the organ.
        fork_fraction: Share of tubes that give off a branch above or below the key slice.
        edge_fraction: Share of series that end within ``margin_mm`` of a key slice.
        round_field_fraction: Share of series with padding of -3024 HU outside a round field of view.
        modulation: Greatest relative change of radius along z.
        tilt_degrees: Greatest tilt of a lesion's or tube's axis against the z axis.
        texture_hu: Standard deviation of the smooth texture inside the body.
        noise_hu: Standard deviation of the image noise.
        body_fraction: Half width of the body over half the field of view: lowest and highest.
    """

    num_train: int = 2000
    num_validation: int = 250
    num_test: int = 250
    num_scans: int = 0
    whole_series: int = 0
    irregularities: bool = False
    image_size: int = 96
    pixel_spacing: tuple[float, float, float] = (1.6, 1.6, 1.6)
    slice_intervals: tuple[tuple[float, float], ...] = OFFICIAL_INTERVALS
    margin_mm: float = 10.0
    padding: float = 2.0
    series_per_patient: float = 1.5
    keys_per_series: float = 1.0
    lesions_per_slice: tuple[float, ...] = (0.6, 0.3, 0.1)
    unlabelled_per_lesion: float = 0.0
    tubes: tuple[int, int] = (3, 6)
    diameter_mm: float = 19.0
    diameter_sigma: float = 0.33
    diameter_range_mm: tuple[float, float] = (10.2, 35.0)
    axis_ratio: tuple[float, float] = (0.62, 1.0)
    half_height_mm: tuple[float, float] = (5.0, 10.0)
    height_ratio: tuple[float, float] = (0.0, 0.0)
    contrast_hu: tuple[float, float] = (50.0, 110.0)
    dark_fraction: float = 0.6
    fork_fraction: float = 0.25
    edge_fraction: float = 0.015
    round_field_fraction: float = 0.0
    modulation: float = 0.12
    tilt_degrees: float = 30.0
    texture_hu: float = 8.0
    noise_hu: float = 10.0
    body_fraction: tuple[float, float] = (0.86, 0.97)


PRESETS: dict[str, Settings] = {
    # 96 px, large lesions, about four tubes per slice: a narrow model learns it in minutes.
    "small": Settings(),
    # More tubes, longer lesions, tubes that change more along z: three slices are no longer enough.
    "hard": Settings(tubes=(6, 10), half_height_mm=(6.0, 13.0), modulation=0.22, tilt_degrees=40.0, noise_hu=13.0),
    # DeepLesion's own image size, counts and distributions.
    "deeplesion": Settings(
        num_train=22_496,
        num_validation=4_793,
        num_test=4_831,
        image_size=512,
        pixel_spacing=(0.63, 0.82, 0.98),
        margin_mm=30.0,
        padding=5.0,
        series_per_patient=3.3,
        keys_per_series=2.2,
        lesions_per_slice=(0.9797, 0.02, 0.0003),
        unlabelled_per_lesion=3.5,
        tubes=(6, 12),
        diameter_mm=16.0,
        diameter_sigma=0.74,
        diameter_range_mm=(1.0, 190.0),
        axis_ratio=(0.46, 1.0),
        height_ratio=(0.78, 0.38),
        contrast_hu=(35.0, 110.0),
        modulation=0.2,
        tilt_degrees=40.0,
        noise_hu=14.0,
        round_field_fraction=0.3,
        body_fraction=(0.75, 0.95),
    ),
    # Small images with large lesions of all heights, so that each added slice separates some of them from tubes; slices
    # enough for 27 at 2.5 mm: for comparing many settings in minutes each.
    "study": Settings(
        num_train=1200,
        num_validation=200,
        num_test=400,
        image_size=64,
        pixel_spacing=(2.0, 2.0, 2.0),
        margin_mm=32.5,
        diameter_mm=22.0,
        diameter_range_mm=(13.0, 36.0),
        half_height_mm=(3.0, 12.0),
        modulation=0.18,
        tilt_degrees=35.0,
    ),
}


def resolve(preset: str | Settings, overrides: Mapping[str, object] | None = None) -> Settings:
    """Settings of a preset with single values replaced.

    Args:
        preset: Name of a preset, or settings to start from.
        overrides: New values by attribute name. ``pixel_spacing`` may be one number and
            ``slice_intervals`` one number or a mapping from mm to weight.

    Returns:
        The checked settings.

    Raises:
        ValueError: If the preset or a name is unknown or a value is impossible.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"Expected a preset among {', '.join(PRESETS)}, got {preset!r}.")
        preset = PRESETS[preset]
    known = {field.name for field in dataclasses.fields(Settings)}
    values: dict[str, object] = {}
    for name, value in (overrides or {}).items():
        if name not in known:
            raise ValueError(f"Expected settings among {', '.join(sorted(known))}, got {name!r}.")
        values[name] = _like(name, value, getattr(preset, name))
    settings = dataclasses.replace(preset, **values)  # type: ignore[arg-type]
    _check(settings)
    return settings


def check_run(seed: object, workers: object) -> None:
    """Check what a run needs in addition to its settings.

    Args:
        seed: At least 0.
        workers: Number of processes, at least 1.

    Raises:
        ValueError: If one of them is another value.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"Expected a seed of at least 0, got {seed!r}.")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"Expected at least 1 worker, got {workers!r}.")


def _like(name: str, value: object, pattern: object) -> object:
    """``value`` converted to the type of ``pattern``, the same setting of the preset."""
    try:
        if name == "slice_intervals":
            if isinstance(value, Mapping):
                return tuple((float(mm), float(weight)) for mm, weight in value.items())
            if isinstance(value, int | float):
                return ((float(value), 1.0),)
            return tuple((float(mm), float(weight)) for mm, weight in value)  # type: ignore[union-attr]
        if isinstance(pattern, tuple):
            if isinstance(value, int | float) and not isinstance(value, bool):
                return (type(pattern[0])(value),) * len(pattern)
            items = tuple(type(pattern[0])(item) for item in value)  # type: ignore[union-attr]
            if name != "lesions_per_slice" and len(items) != len(pattern):
                raise ValueError
            return items
        if isinstance(pattern, bool) or isinstance(value, bool):
            if not (isinstance(pattern, bool) and isinstance(value, bool)):
                raise ValueError
            return value
        number = float(value)  # type: ignore[arg-type]
        if isinstance(pattern, int):
            if number != int(number):
                raise ValueError
            return int(number)
        return number
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"Expected {name} like {pattern!r}, got {value!r}.") from error


def _check(settings: Settings) -> None:
    def need(condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise ValueError(f"Expected {name} {expected}, got {getattr(settings, name)!r}.")

    def rising(name: str, low: float, high: float = math.inf) -> None:
        pair = getattr(settings, name)
        need(all(low <= v <= high for v in pair) and list(pair) == sorted(pair), name, f"rising within {low}..{high}")

    for name in ("num_train", "num_validation", "num_test"):
        need(getattr(settings, name) >= 1, name, "of at least 1")
    for name in ("num_scans", "whole_series"):
        need(getattr(settings, name) >= 0, name, "of at least 0")
    need(32 <= settings.image_size <= 4096, "image_size", "of 32 to 4096 px")
    rising("pixel_spacing", 0.05, 20.0)
    intervals = settings.slice_intervals
    need(bool(intervals) and all(0.05 <= mm <= 20 for mm, _ in intervals), "slice_intervals", "of 0.05 to 20 mm")
    need(all(w >= 0 for _, w in intervals) and sum(w for _, w in intervals) > 0, "slice_intervals", "with weights > 0")
    need(0 <= settings.margin_mm <= 150 * min(mm for mm, _ in intervals), "margin_mm", "of 0 to 150 slices")
    need(0 <= settings.padding <= settings.image_size / 4, "padding", "of 0 to a quarter of the image")
    for name in ("series_per_patient", "keys_per_series"):
        need(1 <= getattr(settings, name) <= 10, name, "of 1 to 10")
    shares = settings.lesions_per_slice
    need(bool(shares) and all(p >= 0 for p in shares) and sum(shares) > 0, "lesions_per_slice", "with weights > 0")
    need(0 <= settings.unlabelled_per_lesion <= 50, "unlabelled_per_lesion", "of 0 to 50")
    rising("tubes", 0, 100)
    need(settings.diameter_mm > 0, "diameter_mm", "above 0")
    rising("diameter_range_mm", 0.1)
    rising("axis_ratio", 0.1, 1.0)
    rising("half_height_mm", 0.1)
    need(all(v >= 0 for v in settings.height_ratio), "height_ratio", "of at least 0")
    rising("contrast_hu", 0.0, 2000.0)
    for name in ("dark_fraction", "fork_fraction", "edge_fraction", "round_field_fraction"):
        need(0 <= getattr(settings, name) <= 1, name, "of 0 to 1")
    need(0 <= settings.modulation < 1, "modulation", "of 0 to below 1")
    need(0 <= settings.tilt_degrees <= 80, "tilt_degrees", "of 0 to 80")
    for name in ("diameter_sigma", "texture_hu", "noise_hu"):
        need(0 <= getattr(settings, name) <= 500, name, "of 0 to 500")
    rising("body_fraction", 0.3, 1.2)
