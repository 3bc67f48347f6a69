"""Shares of the splits and the number of folds: checked before anything is read, without NumPy."""

from __future__ import annotations

from typing import Any

# A set to score detectors on, with nothing to train on.
ALL_TEST = (0.0, 0.0, 1.0)
_ALIKE = 1e-6


def check_shares(split: Any) -> tuple[float, float, float]:
    """The shares of train, validation and test patients.

    Args:
        split: Three numbers from 0 to 1 that add up to 1, with some to train on or all to test.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        train, validation, test = (float(share) for share in split)
    except (TypeError, ValueError):
        raise ValueError(f"Expected three shares as split, got {split!r}.") from None
    shares = train, validation, test
    good = all(0 <= share <= 1 for share in shares) and abs(sum(shares) - 1) <= _ALIKE
    if not good or (train <= 0 and shares != ALL_TEST):
        raise ValueError(
            f"Expected shares of train, validation and test that add up to 1, with some to train on or all to "
            f"test, got {list(shares)} as split."
        )
    return shares


def check_folds(folds: Any) -> None:
    """Check a number of folds: 0 for none, or at least 2.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 0 or folds == 1:
        raise ValueError(f"Expected 0 or at least 2 folds, got {folds!r}.")
