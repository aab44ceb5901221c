"""Locks on ranges of a file, against threads, processes and programs that use `fcntl` locks.

They are locks of an open file description (OFD, man 2 fcntl_locking), so the kernel drops them at the death
of their process. Each `RangeLock` has a description of its own, which nothing else uses: neither a mapping
nor another lock keeps it open, and a forked child closes its copy at once, so the lock stays its parent's.
"""

import errno
import fcntl
import os
import struct
import threading
import time
import weakref
from types import TracebackType
from typing import Self

from ._errors import ClosedError, DeadlockError, NotOwnerError
from ._segments import Descriptor

__all__ = ["RangeLock"]

# struct flock where off_t has 64 bits: type, whence, start, length, pid (0, as OFD locks want it).
_FLOCK = struct.Struct("@hhqqi0q")

_open: "weakref.WeakSet[RangeLock]" = weakref.WeakSet()
"""Locks with a description, which may be held or waited for."""
_held: "dict[int, weakref.ref[RangeLock]]" = {}
"""Locks that this process holds, by their id; one that is only dropped goes from here, and is released."""
_gate = threading.RLock()
"""Held while a description is opened and entered above, so that no fork comes in between."""


def _forget() -> None:
    """In a forked child: what is held is the parent's, and must not be kept by a copy of its description."""
    global _gate  # noqa: PLW0603 - the old one may be held by a thread that is not here
    _gate = threading.RLock()
    for lock in list(_open):
        lock._disown()
    _open.clear()
    _held.clear()


def _close_gate() -> None:
    _gate.acquire()


def _open_gate() -> None:
    _gate.release()


os.register_at_fork(before=_close_gate, after_in_parent=_open_gate, after_in_child=_forget)


class _Turn:
    """One call of `acquire`, and what became of it."""

    __slots__ = ("held", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.held = False


class RangeLock:
    """A lock on a range of a `MappedFile`: `with file.lock(offset, length):`, or `acquire()` and `release()`.

    It belongs to the thread that took it, and excludes every other lock that overlaps it: of other threads,
    of other processes, and the `fcntl` and `lockf` locks (not `flock`) of programs that never heard of
    Isthmus. Shared ones (`shared=True`) exclude only exclusive ones. It is advisory: who does not ask is not
    stopped.

    It ends with `release()`, with the end of the block, with `close()` of the file, and with its process,
    killed or not. A forked child does not have it, and does not keep it alive. Nothing tells the next holder
    that the one before was killed: `Mutex` does.
    """

    __slots__ = ("__weakref__", "_descriptor", "_file", "_length", "_lost", "_offset", "_shared", "_turn")

    def __init__(self, file: Descriptor, offset: int, length: int, shared: bool) -> None:
        self._file = file
        self._offset = offset
        self._length = length
        self._shared = shared
        self._descriptor: Descriptor | None = None
        self._lost = False
        # Whose turn it is, of threads that share this very lock: entered and taken out by one step each, so
        # that it is right wherever Ctrl+C comes.
        self._turn: dict[str, _Turn] = {}

    def _disown(self) -> None:
        """In a forked child."""
        own, self._descriptor = self._descriptor, None
        if own is not None:
            own.drop()
        self._lost = True
        self._turn = {}

    def acquire(self, timeout: float | None = None) -> bool:
        """Takes the lock; False where others hold the range for longer than `timeout` seconds.

        None waits, 0 tries. With a timeout it asks again and again, 1 to 50 ms apart, without a place in a
        queue. `DeadlockError` where it would wait for this thread itself, which holds a part of the range.
        `ClosedError` where the file is closed. `PermissionError` for an exclusive lock on a file that may
        only be read.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(
                f"timeout is {timeout}: it takes seconds from 0 (tries) upwards, or None (waits)"
            )
        if timeout != 0:
            self._refuse_deadlock()
        give_up = None if timeout is None else time.monotonic() + timeout
        turn = _Turn()
        try:
            if self._take_turn(turn, give_up) and self._take(turn, give_up):
                return True
        except BaseException:
            self._give_back(turn)
            raise
        self._give_back(turn)
        return False

    def _take_turn(self, turn: _Turn, give_up: float | None) -> bool:
        """Waits for other threads that use this very lock."""
        while self._turn.setdefault("of", turn) is not turn:
            if give_up is not None and time.monotonic() >= give_up:
                return False
            time.sleep(0.001)
        return True

    def _give_back(self, turn: _Turn) -> None:
        """Ends a turn; done again, it does nothing."""
        if self._turn.get("of") is turn:
            if (own := self._descriptor) is not None:
                try:
                    with own.use() as fd:
                        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, self._request(fcntl.F_UNLCK))
                except ClosedError:
                    pass  # and with it the lock
            _held.pop(id(self), None)
            self._turn.pop("of", None)

    def _held_by(self, thread: int) -> bool:
        turn = self._turn.get("of")
        return turn is not None and turn.held and turn.thread == thread

    def _refuse_deadlock(self) -> None:
        me = threading.get_ident()
        for reference in list(_held.values()):
            other = reference()
            if other is None or not other._held_by(me) or other._file.identity != self._file.identity:
                continue
            apart = _end(other) <= self._offset or _end(self) <= other._offset
            if other is self or not (apart or (self._shared and other._shared)):
                raise DeadlockError(f"this thread holds {other!r} itself")

    def _described(self) -> Descriptor:
        """The description, opened where there is none yet."""
        own = self._descriptor
        if own is None:
            how = os.O_RDONLY if self._shared else os.O_RDWR
            try:
                with _gate, self._file.use() as file:
                    own = Descriptor(os.open(f"/proc/self/fd/{file}", how | os.O_CLOEXEC))
                    self._descriptor = own
                    _open.add(self)
            except PermissionError:
                raise PermissionError(
                    "an exclusive lock on a file that may only be read: ask for a shared one"
                ) from None
        return own

    def _take(self, turn: _Turn, give_up: float | None) -> bool:
        wanted = self._request(fcntl.F_RDLCK if self._shared else fcntl.F_WRLCK)
        nap = 0.001
        # Closed by another thread while this one waits, it is closed when this one stops waiting.
        with self._described().use() as own:
            while True:
                _ = self._file.fd  # closed: says so
                try:
                    fcntl.fcntl(own, fcntl.F_OFD_SETLKW if give_up is None else fcntl.F_OFD_SETLK, wanted)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                left = 0.0 if give_up is None else give_up - time.monotonic()
                if left <= 0:
                    return False
                time.sleep(min(nap, left))
                nap = min(nap * 2, 0.05)
            if self._descriptor is None:
                raise ClosedError("the file was closed")
            self._lost = False
            _held[id(self)] = weakref.ref(self)
            turn.held = True
        return True

    def _request(self, kind: int) -> bytes:
        return _FLOCK.pack(kind, os.SEEK_SET, self._offset, self._length, 0)

    def release(self) -> None:
        """Gives the lock back; `NotOwnerError` where this thread does not hold it.

        In a forked child it does nothing: the lock is its parent's.
        """
        turn = self._turn.get("of")
        if turn is not None and turn.held and turn.thread == threading.get_ident():
            self._give_back(turn)
        elif not self._lost:
            raise NotOwnerError(f"{self!r} is not held by this thread")

    def _close(self) -> None:
        """The file is closed, by whichever thread."""
        turn = self._turn.get("of")
        self._lost = turn is not None and turn.held
        own, self._descriptor = self._descriptor, None
        if own is not None:
            own.close()
        if turn is not None and turn.held:
            self._give_back(turn)

    @property
    def held(self) -> bool:
        """True while it is held by this process through this very object."""
        turn = self._turn.get("of")
        return turn is not None and turn.held

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        _held.pop(id(self), None)

    def __repr__(self) -> str:
        what = "shared" if self._shared else "exclusive"
        end = _end(self) if self._length else "the end"
        return f"<isthmus.RangeLock {what} on bytes {self._offset} to {end}{', held' if self.held else ''}>"


def _end(lock: RangeLock) -> int:
    return lock._offset + (lock._length or 1 << 63)
