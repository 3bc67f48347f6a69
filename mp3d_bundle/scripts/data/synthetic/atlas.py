"""Positions of the organs of a torso: the table behind ``anatomy``.

The table is written for a standing frame: ``x`` in half widths of the body cavity (the patient's left
is positive, as a radiologist sees it), ``y`` in its half depths (front is negative), ``z`` in mm from
the dome of the diaphragm towards the feet. Extents along z do not shrink with the body, so that a small
body keeps organs that run through many slices.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Organ:
    """One row of the table.

    Attributes:
        name: Name of the organ; rows are painted in order, later ones over earlier ones.
        x: Position across, half widths.
        y: Position front to back, half depths.
        z: Position along the body, mm.
        a: First semi-axis, half widths.
        b: Second semi-axis, half depths.
        half_height: Half extent along z, mm.
        value: HU.
        spread: Standard deviation of the HU over patients.
        power: Bluntness of the ends, see ``Shape.power``.
        angle: Rotation of the first semi-axis, rad.
        wobble: Irregularity of the outline.
        bounded: Clipped to the body cavity.
    """

    name: str
    x: float
    y: float
    z: float
    a: float
    b: float
    half_height: float
    value: float
    spread: float = 8.0
    power: float = 3.0
    angle: float = 0.0
    wobble: float = 0.05
    bounded: bool = False


# fmt: off
ORGANS: tuple[Organ, ...] = (
    Organ("lung", -0.50, 0.02, -78, 0.46, 0.90, 135, -860, 25, bounded=True),
    Organ("lung", 0.52, 0.04, -78, 0.46, 0.90, 135, -860, 25, bounded=True),
    Organ("mediastinum", 0.02, -0.12, -105, 0.19, 0.74, 140, 0, 15),
    Organ("fat", 0.02, -0.80, -105, 0.22, 0.20, 140, -85, 10),
    Organ("heart", 0.16, -0.26, -36, 0.36, 0.42, 58, 95, 40, 2.5, 0.5, bounded=True),
    Organ("trachea", 0.00, -0.02, -190, 0.055, 0.07, 110, -950, 10),
    Organ("oesophagus", 0.07, 0.26, -100, 0.05, 0.06, 140, 40),
    Organ("fat", 0.46, 0.02, 88, 0.56, 0.95, 78, -95, 8, 2.5, bounded=True),
    Organ("fat", -0.46, 0.02, 100, 0.56, 0.95, 78, -95, 8, 2.5, bounded=True),
    Organ("liver", -0.46, -0.06, 74, 0.62, 0.86, 84, 105, 18, 2.6, 0.1, bounded=True),
    Organ("liver", 0.05, -0.42, 62, 0.38, 0.32, 52, 105, 10, 2.6, -0.15, bounded=True),
    Organ("spleen", 0.74, 0.32, 68, 0.18, 0.46, 56, 112, 15, 2.5, 0.35, bounded=True),
    Organ("stomach", 0.42, -0.34, 76, 0.29, 0.32, 56, 25, 15, 2.5, 0.3, 0.1, bounded=True),
    Organ("gas", 0.44, -0.52, 74, 0.17, 0.11, 42, -930, 20, 2.5, 0.0, 0.1),
    Organ("pancreas", 0.06, -0.06, 120, 0.36, 0.11, 26, 80, 12, 2.5, -0.25, 0.15),
    Organ("kidney", -0.44, 0.36, 150, 0.15, 0.24, 58, 150, 25, 2.5, 0.5),
    Organ("kidney", 0.44, 0.34, 138, 0.15, 0.24, 58, 150, 25, 2.5, -0.5),
    Organ("fat", -0.36, 0.33, 150, 0.06, 0.08, 28, -70, 15),
    Organ("fat", 0.36, 0.31, 138, 0.06, 0.08, 28, -70, 15),
    Organ("gallbladder", -0.24, -0.42, 114, 0.10, 0.14, 30, 8, 6, 2.5, 0.4),
    Organ("colon", -0.72, -0.06, 215, 0.15, 0.20, 100, 15, 15, 3, 0.0, 0.12),
    Organ("gas", -0.72, -0.14, 215, 0.10, 0.09, 80, -900, 30, 2.5, 0.0, 0.12),
    Organ("colon", 0.78, 0.04, 225, 0.12, 0.17, 110, 15, 15, 3, 0.0, 0.12),
    Organ("gas", 0.78, -0.02, 235, 0.06, 0.06, 60, -900, 30, 2.5, 0.0, 0.12),
    Organ("psoas", -0.24, 0.38, 250, 0.13, 0.19, 120, 62, 6, 2.5),
    Organ("psoas", 0.24, 0.38, 250, 0.13, 0.19, 120, 62, 6, 2.5),
    Organ("muscle", -0.46, 0.72, 395, 0.46, 0.34, 100, 58, 6, 3, 0.3, bounded=True),
    Organ("muscle", 0.46, 0.72, 395, 0.46, 0.34, 100, 58, 6, 3, -0.3, bounded=True),
    Organ("muscle", -0.62, 0.12, 350, 0.13, 0.46, 80, 58, 6, 3, 0.75, 0.1),
    Organ("muscle", 0.62, 0.12, 350, 0.13, 0.46, 80, 58, 6, 3, -0.75, 0.1),
    Organ("bone", -0.68, 0.26, 340, 0.055, 0.46, 72, 380, 60, 3, 0.75, 0.1),
    Organ("bone", 0.68, 0.26, 340, 0.055, 0.46, 72, 380, 60, 3, -0.75, 0.1),
    Organ("marrow", -0.68, 0.26, 340, 0.03, 0.41, 68, 140, 25, 3, 0.75, 0.1),
    Organ("marrow", 0.68, 0.26, 340, 0.03, 0.41, 68, 140, 25, 3, -0.75, 0.1),
    Organ("bladder", 0.00, -0.36, 405, 0.30, 0.32, 45, 8, 5, 2.5),
    Organ("bone", -0.60, 0.10, 432, 0.17, 0.26, 36, 320, 50),
    Organ("bone", 0.60, 0.10, 432, 0.17, 0.26, 36, 320, 50),
)
# fmt: on
