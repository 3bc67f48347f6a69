"""From the tensor names of the authors' files to those of this project's networks.

Each network lists its rules next to it. A rule is a pattern that matches from the start of a name, and what takes the
place of the matched part; the first rule that matches decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str]]

# Backbones that are made of `TruncatedDenseNet` and `OneMapDecoder`.
DENSE_BODY: Rules = (
    *((rf"backbone\.lateral{level}\.", rf"backbone.decoder.laterals.{level - 2}.") for level in (2, 3, 4)),
    (r"backbone\.(conv0|norm0|denseblock\d|transition\d)\.", r"backbone.body.\1."),
)


def renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """A state dict under this project's names.

    Args:
        state: Tensors by the authors' names.
        rules: Those of the network.

    Raises:
        ValueError: If a name has no rule, or two names become the same.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        rule = next((rule for rule in rules if re.match(rule[0], name)), None)
        if rule is None:
            raise ValueError(f"Expected tensors of the network's own file, got {name!r}, which it does not have.")
        new = re.sub(rule[0], rule[1], name, count=1)
        if new in ours:
            raise ValueError(f"Expected one tensor for {new!r}, got a second one under the name {name!r}.")
        ours[new] = tensor
    return ours
