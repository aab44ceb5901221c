"""`graceful_shutdown`: a service that ends what it does when it is asked to, and at once when asked twice."""

import os
import signal as _signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, Self, TypeVar

from isthmus import _stopping
from isthmus._errors import ShutDown

from ._info import catchable

__all__ = ["GracefulShutdown", "graceful_shutdown"]

Item = TypeVar("Item")


class Ending(Protocol):
    """What can be told that nothing more comes, such as a `Queue`, of `isthmus` or of `isthmus.aio`."""

    def shutdown(self) -> Any:
        """Ends it."""


class Claim:
    """Whether this process was asked to end. One at a time has a say in that: `claim`."""

    def __init__(self, ends: tuple[Ending, ...]) -> None:
        self._ends = ends
        self._pid = os.getpid()
        self._got: int | None = None

    @property
    def requested(self) -> bool:
        """True once this process was asked to end."""
        return self._got is not None

    @property
    def signal(self) -> int | None:
        """The signal that asked; None as long as none has."""
        return self._got

    @property
    def exit_code(self) -> int:
        """What `sys.exit` should be given: 0, or 128 and the number of the signal, as shells have it."""
        return 0 if self._got is None else 128 + self._got

    def __bool__(self) -> bool:
        return self.requested

    def _end_all(self) -> list[Any]:
        # In a forked child they are its parent's, which was not asked to end.
        return [end.shutdown() for end in self._ends] if os.getpid() == self._pid else []

    def forked(self) -> None:
        """Called in a forked child, which was not asked to end."""
        self._got = None


class GracefulShutdown(Claim):
    """What `graceful_shutdown` gives: whether this process was asked to end, and ways to act on it."""

    def __init__(self, ends: tuple[Ending, ...], signals: Iterable[int]) -> None:
        super().__init__(ends)
        self._signals = catchable(signals)
        self._before: dict[int, Any] = {}
        self._shielded = 0

    def request(self, signal: int = _signal.SIGTERM) -> None:
        """Asks this process to end, as the signal does; for other reasons to end, from any thread."""
        if self._got is None:
            self._got = signal
            if not self._shielded:
                _stopping.tell(stopping=True)
            self._end_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Sleeps until this process is asked to end; False when `timeout` seconds were over first."""
        bell = _stopping.bell
        if self.requested or bell is None:
            return self.requested
        return _stopping.await_readable(bell, _stopping.deadline(timeout), work=False) or self.requested

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, until this process is asked to end: looked at before each is taken.

        `for job in stop.each(q):` ends after the job in hand, also where the next one is there already.
        """
        source = iter(items)
        while not self.requested:
            try:
                item = next(source)
            except (StopIteration, ShutDown):
                return
            yield item

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """In this block waits go on although this process was asked to end: for what has to be finished.

        It holds for all threads. A second Ctrl+C ends it.
        """
        self._shielded += 1
        _stopping.tell(stopping=False)
        try:
            yield
        finally:
            self._shielded -= 1
            if self.requested and not self._shielded:
                _stopping.tell(stopping=True)

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "graceful_shutdown is entered in the main thread: Python runs signal handlers there"
            )
        claim(self)
        for number in self._signals:
            # What was ignored when we began stays so: nohup and background jobs of a script rely on it.
            if (before := _signal.getsignal(number)) != _signal.SIG_IGN:
                self._before[number] = before
                _signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        for number, before in self._before.items():
            # None is a handler that was not installed by Python, and cannot be put back by it.
            _signal.signal(number, _signal.SIG_DFL if before is None else before)
        self._before.clear()
        claim(None)
        # It was asked to end, and has ended so.
        return self.requested and isinstance(error, ShutDown)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._got is not None and number == _signal.SIGINT:
            raise KeyboardInterrupt
        self.request(number)


_current: Claim | None = None


def claim(shutdown: Claim | None) -> None:
    """Makes `shutdown` that of this process; None gives it back."""
    global _current  # noqa: PLW0603 - one process, one shutdown
    if shutdown is not None and _current is not None:
        raise RuntimeError("this process is inside a graceful_shutdown already: there is one")
    _current = shutdown
    _stopping.watch(active=shutdown is not None)


def graceful_shutdown(
    *ends: Ending, signals: Iterable[int] = (_signal.SIGTERM, _signal.SIGINT)
) -> GracefulShutdown:
    """SIGTERM and Ctrl+C end loops and waits: `with isthmus.signals.graceful_shutdown() as stop:`.

    After the first signal, in every thread of this process:

    - isthmus calls that wait *for work* (a message, a connection, a signal, the end of a process, an `Event`,
      a `Condition`, a `Barrier`, `select`) raise `ShutDown`, which ends `for` loops; a message that is there
      is still taken;
    - calls that get work *done* (`put`, `send`, locks and semaphores) go on, so the job in hand can be
      finished;
    - each of `ends` (queues that are this service's own) is shut down by its `shutdown()`;
    - `stop` is true: `while not stop:`; `stop.each(q)` ends although more messages are there;
      `stop.wait(seconds)` is a sleep that ends.

    A body that is left by this `ShutDown` is left normally. A second Ctrl+C ends at once by
    `KeyboardInterrupt`. A second SIGTERM changes nothing; supervisors go on with SIGKILL. Signals that were
    ignored stay ignored.
    Outside of the block all is as before, so what is cleaned up there may wait.

    It is entered in the main thread. Forked children inherit the handlers and act on signals of their own,
    but leave `ends` alone; they may enter one of their own.
    """
    return GracefulShutdown(ends, signals)


def _in_child() -> None:
    global _current  # noqa: PLW0603 - one process, one shutdown
    if _current is not None:
        _current.forked()
        _current = None


os.register_at_fork(after_in_child=_in_child)
