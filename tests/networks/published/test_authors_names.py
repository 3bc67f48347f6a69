"""Names of the authors' tensors: every one accounted for, none twice."""

from __future__ import annotations

import pytest
import torch

from scripts.networks.published.authors_names import renamed


def test_the_first_rule_decides() -> None:
    one = torch.zeros(1)
    assert list(renamed({"a.b.weight": one}, [(r"a\.b\.", "x."), (r"a\.", "y.")])) == ["x.weight"]


@pytest.mark.parametrize(
    ("names", "message"), [(["b.weight"], "got 'b.weight'"), (["a.1.weight", "a.2.weight"], "second one under")]
)
def test_what_cannot_be_placed_is_named(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        renamed({name: torch.zeros(1) for name in names}, [(r"a\.\d\.", "x.")])
