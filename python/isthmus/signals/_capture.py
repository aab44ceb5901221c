"""Which signals are blocked by whom, what children get, and what becomes of it in a forked child.

A signal that is to be read has to be blocked in every thread; `crates/isthmus-core/src/sys/signal/capture.rs`
says how that is brought about. Here is the list of those who capture, and the *window*: `children()`.
"""

import fcntl
import os
import signal as _signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from isthmus import _core
from isthmus._stopping import is_readable

from ._info import RECORD

__all__ = ["Capture", "children"]


class Scope(Protocol):
    """Whoever blocks signals for a time."""

    signals: frozenset[int]
    """What it blocks."""
    added: frozenset[int]
    """What of that was not blocked before."""

    def in_child(self) -> None:
        """Called in a forked child: what the scope did is to be undone there."""


lock = threading.RLock()
"""Guards what follows, and is held in a window: one thread at a time has signals unblocked on purpose."""
receiving: list[Scope] = []
"""Scopes that hold for all threads."""
_depth = 0
_spare: list[tuple[int, int]] = []


class _Blocking(threading.local):
    """Scopes of one thread."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []


blocking = _Blocking()
held: "dict[int, tuple[Capture, int]]" = {}
"""For each signal that `block` scopes keep waiting: what has come, and how many scopes there are."""


class Capture:
    """Signals that are written down where a thread takes them after all: a journal, and a bell that rings."""

    __slots__ = ("_position", "_signals", "bell", "journal")

    def __init__(self, signals: frozenset[int], *, settle: bool) -> None:
        self._signals = sorted(signals)
        self.journal, self.bell = _spare.pop() if _spare else _descriptors()
        self._position = os.fstat(self.journal).st_size
        _core.signal_capture(self._signals, self.journal, self.bell, settle)

    def take(self) -> bytes:
        """What was written down since the last call."""
        if is_readable(self.bell):
            os.eventfd_read(self.bell)
        length = os.fstat(self.journal).st_size - self._position
        records = os.pread(self.journal, length - length % RECORD, self._position)
        if records:
            self._position += len(records)
            _core.signal_forget(self.journal, self._position)
        return records

    def close(self) -> None:
        """Puts back what was there before, and sends again what was not taken."""
        _core.signal_release(self._signals)
        self.resend()

    def resend(self) -> None:
        """Sends this process again what was written down; the end, where another capture took over."""
        records = self.take()
        # A thread may just be inside the handler: the descriptors are used again, not closed.
        _spare.append((self.journal, self.bell))
        for at in range(0, len(records), RECORD):
            _core.signal_again(records[at : at + RECORD])

    def drop(self) -> None:
        """As `close`, in a forked child: the descriptors are its parent's too."""
        _core.signal_release(self._signals)
        os.close(self.journal)
        os.close(self.bell)


def hold(signals: frozenset[int]) -> None:
    """These signals wait, whatever thread takes them; what a `Receiver` receives is its own affair."""
    received = frozenset().union(*(scope.signals for scope in receiving))
    with lock:
        for number in signals - received:
            capture, scopes = held.get(number) or (Capture(frozenset([number]), settle=False), 0)
            held[number] = capture, scopes + 1


def let_go(signals: Iterable[int]) -> None:
    """The end of `hold`: with the last scope the signals that came are sent again, with all they said."""
    with lock:
        for number in signals:
            if number not in held:
                continue
            capture, scopes = held[number]
            if scopes > 1:
                held[number] = capture, scopes - 1
                continue
            del held[number]
            capture.close()


def take_over(signals: Iterable[int]) -> list[Capture]:
    """For a `Receiver`: what was held is its own from now on, and the scopes have nothing to let go of."""
    return [held.pop(number)[0] for number in signals if number in held]


def has_noted(number: int) -> bool:
    """Whether a signal that is held has come, and was taken by another thread."""
    with lock:
        return number in held and is_readable(held[number][0].bell)


def _descriptors() -> tuple[int, int]:
    journal = os.memfd_create("isthmus-signals", os.MFD_CLOEXEC)
    fcntl.fcntl(journal, fcntl.F_SETFL, os.O_APPEND)
    return journal, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


@contextmanager
def children() -> Iterator[None]:
    """Children that the calling thread starts in this block get the signal mask from before all scopes.

    A program that is started inherits the mask of the thread that starts it, and most programs never change
    it: with SIGTERM blocked it could not be terminated. This is for `subprocess`, `os.posix_spawn` and
    the start methods `spawn` and `forkserver` of `multiprocessing`; a forked child needs nothing.

    Signals that come meanwhile are not lost: a `Receiver` gets them in their order, and those of a `block`
    come at its end. Keep the block short: receivers wait.
    """
    global _depth  # noqa: PLW0603 - one process, one window
    pid = os.getpid()
    with lock:
        added = frozenset().union(*(scope.added for scope in [*receiving, *blocking.scopes]))
        _depth += 1
        _core.signal_window(True)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, added)
        try:
            yield
        finally:
            if os.getpid() == pid:  # a child forked in the block has no scopes any more
                _signal.pthread_sigmask(_signal.SIG_BLOCK, added)
                _depth -= 1
                if not _depth:
                    _core.signal_window(False)


def restored(scope: Scope, function: Callable[..., object]) -> Callable[..., object]:
    """`function`, run with the mask from before `scope`."""

    def run(*args: object, **kwargs: object) -> object:
        before = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, scope.added)
        try:
            return function(*args, **kwargs)
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    return run


def _in_child() -> None:
    """A forked child has one thread, and none of its parent's scopes."""
    global lock, _depth  # noqa: PLW0603 - one process, one state
    lock = threading.RLock()
    _depth = 0
    scopes = [*receiving, *blocking.scopes]
    receiving.clear()
    blocking.scopes.clear()
    for capture, _ in held.values():
        capture.drop()
    held.clear()
    for journal, bell in _spare:
        os.close(journal)
        os.close(bell)
    _spare.clear()
    _core.signal_window(False)
    for scope in scopes:
        scope.in_child()
    if scopes:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, frozenset().union(*(scope.added for scope in scopes)))


os.register_at_fork(after_in_child=_in_child)
