"""A process leaves its group and ends without an abort."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from scripts.training.resuming.process_group import leave_process_group


def test_nothing_is_left_of_a_group(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    tensor = torch.ones(3)
    dist.all_reduce(tensor)
    leave_process_group()
    assert not dist.is_initialized()


def test_without_a_group_there_is_nothing_to_leave() -> None:
    with pytest.raises((ValueError, AssertionError)):
        leave_process_group()
