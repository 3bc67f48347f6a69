"""Shares and folds of a split as a person types them."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.data.importing.split_shares import check_folds, check_shares


@pytest.mark.parametrize("split", [(0.7, 0.15, 0.15), [1, 0, 0], ("0.5", "0.5", "0"), (0, 0, 1)])
def test_shares_that_add_up(split: Any) -> None:
    assert check_shares(split) == tuple(float(share) for share in split)


@pytest.mark.parametrize(
    "split", [(0.7, 0.2), 0.7, "abc", (0.7, 0.2, None), (0.5, 0.5, 0.5), (0, 1, 0), (1.5, -0.5, 0)]
)
def test_shares_that_do_not(split: Any) -> None:
    with pytest.raises(ValueError, match=r"^Expected (three )?shares .*as split"):
        check_shares(split)


@pytest.mark.parametrize("folds", [1, -2, True, 2.5, "3"])
def test_folds_that_cannot_be(folds: Any) -> None:
    check_folds(0)
    check_folds(2)
    with pytest.raises(ValueError, match="Expected 0 or at least 2 folds, got"):
        check_folds(folds)
