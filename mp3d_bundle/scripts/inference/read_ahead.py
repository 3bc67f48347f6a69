"""Work done one step ahead in a background thread, while something else takes the results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(makers: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
    """Results of some calls, in order; while one is used, the next is made.

    At most one waits. An error of a call is raised where its result would have come. Closing the iterator, or an error
    of who uses it, ends the thread after the call that it is in.

    Args:
        makers: The calls, taken from the thread that iterates.

    Yields:
        What each call returns.
    """
    waiting: Future[T] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        for make in makers:
            following = pool.submit(make)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
