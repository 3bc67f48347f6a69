"""Work in a copy of this process (`os.fork`), which may be killed at any moment without harm to this one."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from tqdm import tqdm

# Seconds after which a copy that hangs is ended.
_LONGEST = 120


def status_of_a_copy(work: Callable[[], object], *, kill_after: float = _LONGEST) -> int:
    """Run something in a copy of this process.

    Args:
        work: What to run; an error that it raises is printed.
        kill_after: Seconds after which the copy is killed, if it has not ended by then.

    Returns:
        0, 1 after an error, or the negative number of the signal that ended it.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        # tqdm's own lock is shared with copies: one that is killed would hold it for ever.
        tqdm.set_lock(threading.RLock())
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    timer = threading.Timer(kill_after, os.kill, (child, signal.SIGKILL))
    timer.start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    timer.cancel()
    return status
