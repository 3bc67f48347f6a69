"""The next scan is read while the network works on this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
S_co = TypeVar("S_co", covariant=True)


class Source(Protocol[S_co]):
    """What can be opened, such as a `ScanSource`."""

    def open(self) -> AbstractContextManager[S_co]:
        """Read; on leaving, what was unpacked for it is removed."""
        ...


class ScansAhead(Generic[T]):
    """Opens sources in their order, at most one ahead, in a background thread.

    So two are open at the same time: twice the memory of the largest. An error of opening is raised where the source's
    turn comes. On leaving, what was opened ahead is closed; a source that is being opened is waited for first.

    Args:
        sources: What to open.
        ahead: Whether to open the next one; if not, each is opened at its turn.
    """

    def __init__(self, sources: Sequence[Source[T]], *, ahead: bool = True) -> None:
        self.sources = sources
        self.ahead = ahead
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="next-scan")
        self._ahead: tuple[int, Future[tuple[ExitStack, T]]] | None = None

    def __enter__(self) -> ScansAhead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ahead, self._ahead = self._ahead, None
        self._pool.shutdown(wait=True)
        if ahead is not None and ahead[1].exception() is None:
            ahead[1].result()[0].close()

    @contextmanager
    def scan(self, number: int) -> Iterator[T]:
        """The content of source ``number``; meanwhile the one after it is opened.

        Raises:
            Exception: Whatever opening raised.
        """
        if self._ahead is not None and self._ahead[0] == number:
            # Kept until it is here: whoever stops the wait leaves it to be closed.
            opened, content = self._ahead[1].result()
            self._ahead = None
        else:
            # In this thread, so that a signal stops it at once.
            opened, content = self._open(number)
        with opened:
            if self.ahead and number + 1 < len(self.sources):
                self._ahead = number + 1, self._pool.submit(self._open, number + 1)
            yield content

    def _open(self, number: int) -> tuple[ExitStack, T]:
        with ExitStack() as stack:
            content = stack.enter_context(self.sources[number].open())
            return stack.pop_all(), content
