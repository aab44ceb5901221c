"""`block`: signals wait while a block of code runs. See pthread_sigmask(3)."""

import os
import signal as _signal
import threading
from collections.abc import Callable
from typing import Self

from . import _capture
from ._info import catchable, name_of

__all__ = ["block"]


class block:  # noqa: N801 - used as a function: `with block(signal.SIGTERM):`
    """Signals wait while the block runs: `with isthmus.signals.block(signal.SIGTERM, signal.SIGINT):`.

    What came meanwhile is delivered when the block ends; of a signal below SIGRTMIN one is kept. The signal
    mask of a thread is not enough for that: the kernel gives a signal of the process to any thread that takes
    it. So the mask of this thread is set, and what another thread takes is noted and sent again at the
    end, with its sender and payload. Only calls that wait in other threads may be interrupted.

    Masks are inherited. Threads that are started in the block keep the signals blocked for good:
    `Thread(target=scope.outside(work))` gives them the mask from before. Forked children get the mask from
    before by themselves; programs and interpreters that are started need
    `with isthmus.signals.children():`.

    Blocks may be nested. One block can be entered once, and is left by the thread that entered it.
    """

    def __init__(self, *signals: int) -> None:
        self.signals = catchable(signals)
        self._thread: threading.Thread | None = None
        self._pid = 0
        self.added: frozenset[int] = frozenset()

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("this block was entered already: make another one")
        self._thread = threading.current_thread()
        self._pid = os.getpid()
        self.added = self.signals - _signal.pthread_sigmask(_signal.SIG_BLOCK, self.signals)
        try:
            _capture.hold(self.signals)
        except BaseException:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, self.added)
            raise
        _capture.blocking.scopes.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: nothing is blocked there
        if threading.current_thread() is not self._thread:
            raise RuntimeError("a block is left by the thread that entered it: a mask belongs to a thread")
        _capture.blocking.scopes.remove(self)
        _capture.let_go(self.signals)
        # Nested blocks of the same signals: the outermost one that added them gives them back.
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, self.added)

    def pending(self) -> frozenset[int]:
        """Which of the signals have come and wait."""
        noted = {number for number in self.signals if _capture.has_noted(number)}
        return self.signals & {*map(int, _signal.sigpending()), *noted}

    def outside(self, function: Callable[..., object]) -> Callable[..., object]:
        """`function` as it runs outside of the block: for threads that are started inside."""
        return _capture.restored(self, function)

    def in_child(self) -> None:
        """Called in a forked child: nothing to be done but the mask."""

    def __repr__(self) -> str:
        names = ", ".join(name_of(number) for number in sorted(self.signals))
        return f"<isthmus.signals.block of {names}>"
