"""Damaged and mutated volume files, a few hundred of those that `benchmarks.damaged_volumes` makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.damaged_volumes import count_flips, count_mutations, make_files


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd", "b.nrrd"])
def test_no_flipped_bit_in_a_compressed_file_changes_a_voxel(tmp_path: Path, name: str) -> None:
    content = make_files()[name]
    bits = np.random.default_rng(3).choice(8 * len(content), 40, replace=False)
    counts = count_flips(tmp_path / name, content, bits)
    assert counts["believed"] == 0
    assert counts["refused"] >= 35


def test_mutated_files_are_read_or_get_one_line(tmp_path: Path) -> None:
    counts, _, failures = count_mutations(tmp_path, 700)
    assert failures == []
    assert counts["refused"] > 400
    assert counts["read"] > 0
