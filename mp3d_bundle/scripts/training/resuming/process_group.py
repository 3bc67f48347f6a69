"""The end of a run in several processes."""

from __future__ import annotations

import gc
import time

import torch.distributed as dist

# Seconds in which the threads of gloo let go of the last tensors. They need the interpreter for it: one that comes too
# late, while it ends, ends the process with "terminate called without an active exception".
LETTING_GO = 0.5


def leave_process_group() -> None:
    """Destroy the process group, which must be initialised, and wait until its threads have let go of their tensors."""
    dist.destroy_process_group()
    gc.collect()
    time.sleep(LETTING_GO)
