"""Refinement of scores: lesion and tags look at each other, and at what is known of the patient.

Numbers by the released code of MULAN (Yan et al., MICCAI 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .box_rules import at_least_float32

# What the refinement may read next to the scores, in this order, and how many numbers each is.
EXTRAS = {"box": 4, "position": 1, "patient": 2}


class Patient(NamedTuple):
    """What may be known of a slab's patient; NaN for what is not.

    Attributes:
        male: 1 for male, 0 for female; 0 if unknown, as released.
        age: Years. 50 if unknown or 0, as released.
        position: Of the slice along the body, 0 (top) to 1. 0.5 if unknown.
    """

    male: float = math.nan
    age: float = math.nan
    position: float = math.nan

    @classmethod
    def of(cls, lesions: Mapping[str, Any]) -> Patient:
        """What the lesions of a slab say of their patient, in the fields of these names ``(N,)``, alike for all."""
        return cls(*(float(lesions[name][0]) if len(lesions.get(name, ())) else math.nan for name in cls._fields))

    def numbers(self) -> dict[str, list[float]]:
        """What the refinement reads, by the names of `EXTRAS`."""
        male, age, position = (math.nan if value is None else float(value) for value in self)
        return {
            "position": [0.5 if math.isnan(position) else position],
            "patient": [0.0 if math.isnan(male) else male, 0.5 if math.isnan(age) or age == 0 else age / 100],
        }


class ScoreRefinement(nn.Module):
    """A linear layer for the class logits and one for the tags, each on all of them and on the extras.

    It starts as the identity.

    Args:
        tags: Number of tags, T.
        extras: Names in `EXTRAS` of what is read too.
        num_classes: K, classes without background.

    Raises:
        ValueError: If an extra has another name.
    """

    def __init__(self, tags: int, extras: Sequence[str] = (), num_classes: int = 1) -> None:
        super().__init__()
        for name in set(extras) - set(EXTRAS):
            raise ValueError(f"Expected extras among {', '.join(EXTRAS)}, got {name!r}.")
        self.extras = tuple(name for name in EXTRAS if name in extras)
        # Class logits, tag logits and extras of a box.
        self.widths = (1 + num_classes, tags, sum(EXTRAS[name] for name in self.extras))
        inputs = sum(self.widths)
        self.classes, self.tags = nn.Linear(inputs, 1 + num_classes), nn.Linear(inputs, tags)
        for layer, first in ((self.classes, 0), (self.tags, 1 + num_classes)):
            start = torch.zeros_like(layer.weight)
            start[:, first : first + layer.out_features] = torch.eye(layer.out_features)
            layer.weight = nn.Parameter(start)
            nn.init.zeros_(layer.bias)

    def forward(self, classes: Tensor, tags: Tensor, extras: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(R, 1 + K)`` and ``(R, T)`` and extras ``(R, E)`` to the refined logits, in float32 or float64."""
        x = torch.cat([classes, tags, extras], dim=1)
        return at_least_float32(self.classes(x)), at_least_float32(self.tags(x))

    def read(self, boxes: Tensor, size: tuple[int, int], patient: Patient) -> Tensor:
        """The extras ``(R, E)`` of R boxes ``(R, 4)`` in a slab of (height, width) pixels."""
        pixels = boxes.new_tensor([size[1], size[0]])
        first, second = boxes[:, :2], boxes[:, 2:]
        known = {name: boxes.new_tensor([values]) for name, values in patient.numbers().items()}
        known["box"] = torch.cat([(first + second) / 2 / pixels, (second - first) / pixels], dim=1)
        columns = [known[name].expand(len(boxes), -1) for name in self.extras]
        return torch.cat([boxes.new_zeros(len(boxes), 0), *columns], dim=1)
