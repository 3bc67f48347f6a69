"""Keep the memory that tensors on a CPU give back, for the next ones."""

from __future__ import annotations

import ctypes
import sys

# Numbers of the options of mallopt in malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have the allocator of this process reuse large blocks instead of returning them to the system.

    By default glibc asks the system for each block above 32 MiB and returns it at once. The system clears every page
    of it anew: a third of the time of the full-size network (docs/performance.md). The process then keeps the memory
    of its largest moment until it ends. Blocks of 64 MiB and more of other threads than the first are still returned.

    Returns:
        Whether the allocator does so: other ones than glibc's know no such option, and stay as they are.

    Source:
        ``mallopt`` (3), glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all([mallopt(_M_MMAP_MAX, 0) == 1, mallopt(_M_TRIM_THRESHOLD, -1) == 1])
