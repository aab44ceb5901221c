"""`End`: what every end of a byte stream is made of, those of `Pipe` and of `Fifo`.

How an end works, whoever uses it:

- Nothing waits inside a read or a write. An end tries, holding its lock for as long as that takes; when it
  would block, the caller waits in poll(2) without the lock and comes again. So a timeout ends every wait,
  Ctrl+C comes through at once, several threads may use one end, and `close()` in one thread ends the waits
  of the others within `SLICE`.
- Where in the stream we are is known after every interruption (`_descriptors` says how). What was read and
  not yet taken stays in the end for the next call.
- In a forked child the end works on. What its parent had read ahead stays the parent's: such an end says so.
"""

import os
import sys
import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Self

from . import _descriptors as descriptors
from ._errors import ClosedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["AHEAD", "MOVE", "End", "flat"]

AHEAD = 1 << 16
"""Bytes that are read at once, if they are there."""
MOVE = 1 << 20
"""Bytes that one splice is asked for."""

_ends: "weakref.WeakSet[End]" = weakref.WeakSet()


def flat(data: "Buffer") -> memoryview:
    """A buffer as bytes; TypeError for what has none, BufferError where it is not contiguous."""
    return memoryview(data).cast("B")


class End:
    """A descriptor with a lock, that is closed once."""

    _fd = -1

    def __init__(self, fd: int, *, private: bool = False) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._counts: list[int] = []
        self._private = private
        if private:
            os.set_blocking(fd, False)
        self._read_now, self._write_now = descriptors.calls_for(fd)
        _ends.add(self)

    def fileno(self) -> int:
        """The descriptor, for select, poll and other programs: `subprocess.Popen(stdin=reader)`.

        It is in blocking mode, as other programs expect. `ClosedError` once this end is closed.
        """
        if self._fd < 0:
            raise self._closed_error()
        if self._private:
            # Opened by this process for itself, and from now on perhaps not its own any more.
            with self._lock:
                self._private = False
                os.set_blocking(self._fd, True)
                self._take_back()
                self._read_now, self._write_now = descriptors.calls_for(self._fd, careful=True)
                self._hand_out()
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether this end was closed here."""
        return self._fd < 0

    @property
    def capacity(self) -> int:
        """Bytes that the kernel's buffer takes. Assign to it for more: a power of two, at least a page.

        `NoSpaceError` names the limit in /proc/sys/fs that stands in the way, ValueError says that more than
        that is inside. See F_SETPIPE_SZ in fcntl(2).
        """
        with self._lock:
            return descriptors.capacity_of(self._open_fd())

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        with self._lock:
            descriptors.set_capacity(self._open_fd(), capacity)

    def close(self) -> None:
        """Closes this end in this process; what waits in it in other threads ends with `ClosedError`.

        Copies that other processes have stay open, and the other side hears of the end when the last is gone.
        """
        with self._lock:
            self._take_back()
            fd, self._fd = self._fd, -1
            if fd >= 0:
                if "isthmus.aio._ready" in sys.modules:  # then tasks may wait for it
                    sys.modules["isthmus.aio._ready"].forget(fd)
                os.close(fd)

    def _hand_out(self) -> None:
        """Lets the native core work with the descriptor until `_take_back`. The lock is held."""

    def _take_back(self) -> None:
        """Has the descriptor alone again. The lock is held."""

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise self._closed_error()
        return self._fd

    def _closed_error(self) -> ClosedError:
        return ClosedError("this handle is closed")

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._fd >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"<isthmus.{type(self).__name__} {'(closed)' if self._fd < 0 else f'fd {self._fd}'}>"


def _after_fork() -> None:
    for end in list(_ends):
        end._after_fork()


os.register_at_fork(after_in_child=_after_fork)
