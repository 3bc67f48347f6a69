"""Names of the authors' tensors: every one accounted for, none twice."""

from __future__ import annotations

import pytest
import torch

from scripts.networks.published.authors_names import inverted, renamed


def test_the_first_rule_decides() -> None:
    one = torch.zeros(1)
    assert list(renamed({"a.b.weight": one}, [(r"a\.b\.", "x."), (r"a\.", "y.")])) == ["x.weight"]


@pytest.mark.parametrize(
    ("names", "message"), [(["b.weight"], "got 'b.weight'"), (["a.1.weight", "a.2.weight"], "second one under")]
)
def test_what_cannot_be_placed_is_named(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        renamed({name: torch.zeros(1) for name in names}, [(r"a\.\d\.", "x.")])


def test_rules_can_be_read_backwards() -> None:
    rules = [(r"a\.(\d)\.b(\d+)\.", r"x.\2.y\1."), (r"c\.one_(weight|bias)$", r"z.\1"), (r"d:e\.", "f.0.")]
    names = ["a.3.b12.weight", "c.one_bias", "d:e.0.weight"]
    ours = renamed({name: torch.zeros(0) for name in names}, rules)
    assert list(ours) == ["x.12.y3.weight", "z.bias", "f.0.0.weight"]
    assert list(renamed(ours, inverted(rules))) == names


@pytest.mark.parametrize(
    "rule", [(r"a\.(\d)\.", "x."), (r"a\.\d\.", "x."), (r"a\.(\d)\.(\d)\.", r"x.\1.\1."), (r"a.*\.", "x.")]
)
def test_a_rule_that_loses_something_cannot_be_read_backwards(rule: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="Expected a rule of plain text and groups"):
        inverted([rule])
