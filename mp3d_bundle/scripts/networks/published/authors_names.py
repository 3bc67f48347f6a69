"""Between the tensor names of the authors' files and those of this project's networks.

Each network lists its rules next to it. A rule is a pattern that matches from the start of a name, and the
replacement of the matched part; the first matching rule decides. A pattern is made of plain text, groups and at most a
``$``, and its replacement names every group, so that a rule can be read in both directions.
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
_GROUP = re.compile(r"\([^()]*\)")
# What plain text in a pattern may be: anything without a meaning of its own, and full stops.
_PLAIN = re.compile(r"(\w|:|\\\.)*")


def renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """A state dict under other names: this project's by a network's rules, its authors' by the same `inverted`.

    Args:
        state: Tensors by name.
        rules: Those of the network, or their inverse.

    Raises:
        ValueError: If a name has no rule, or two names become the same.
    """
    others: dict[str, Tensor] = {}
    for name, tensor in state.items():
        rule = next((rule for rule in rules if re.match(rule[0], name)), None)
        if rule is None:
            raise ValueError(f"Expected tensors of the network's own file, got {name!r}, which it does not have.")
        new = re.sub(rule[0], rule[1], name, count=1)
        if new in others:
            raise ValueError(f"Expected one tensor for {new!r}, got a second one under the name {name!r}.")
        others[new] = tensor
    return others


def inverted(rules: Rules) -> Rules:
    """The rules read backwards: from this project's names to the authors'.

    Raises:
        ValueError: If a rule cannot be read backwards: it loses a group, or matches text that is neither plain nor
            in a group.
    """
    return [_inverted(*rule) for rule in rules]


def _inverted(pattern: str, replacement: str) -> tuple[str, str]:
    groups = _GROUP.findall(pattern)
    pieces = re.split(r"\\(\d)", replacement)
    order = [int(number) for number in pieces[1::2]]
    texts = _GROUP.split(pattern.removesuffix("$"))
    if sorted(order) != list(range(1, len(groups) + 1)) or not all(_PLAIN.fullmatch(text) for text in texts):
        raise ValueError(
            f"Expected a rule of plain text and groups, each named once, got {pattern!r}, {replacement!r}."
        )
    end = "$" if pattern.endswith("$") else ""
    backwards = re.escape(pieces[0])
    for number, text in zip(order, pieces[2::2], strict=True):
        backwards += groups[number - 1] + re.escape(text)
    theirs = texts[0].replace("\\", "")
    for number, text in enumerate(texts[1:], start=1):
        theirs += rf"\{order.index(number) + 1}" + text.replace("\\", "")
    return backwards + end, theirs
