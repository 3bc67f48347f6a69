"""The end of a run in several processes."""

from __future__ import annotations

import gc
import time

import torch.distributed as dist

# Seconds in which the threads of gloo let go of the last tensors. They need the interpreter for it: one that comes too
# late, while it ends, ends the process with "terminate called without an active exception".
LETTING_GO = 0.5


def leave_process_group() -> None:
    """Leave the group of processes, and wait until nothing of it is in use any more.

    Raises:
        ValueError: If there is no group.
    """
    dist.destroy_process_group()
    gc.collect()
    time.sleep(LETTING_GO)
