"""Descriptors that may be shared with foreign programs: reading, writing and waiting without blocking.

A pipe handed to another program shares its file description with it, flags included, so O_NONBLOCK set by us
would break that program. There are three ways to try a call without waiting in it; `calls_for`
picks one:

- *nowait*: preadv2(2) and pwritev2(2) with RWF_NOWAIT, a flag of the one call. Pipes take it from Linux
  6.5 on; FIFOs, and pipes that were opened again through /proc, do not, and are done carefully.
- *nonblocking*: the descriptor has O_NONBLOCK already; it was opened by this process for itself.
- *careful*: poll first. What is ready to be read does not block; a pipe that is ready to be written has a
  page free, so a write of PIPE_BUF bytes does not block either, unless another process comes in between.

SIGPIPE never kills: Python ignores it unless somebody asked for the default action, and then it is blocked in
this thread during the write and taken away afterwards.
"""

import errno
import fcntl
import io
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from . import _core, _stopping
from ._errors import NoSpaceError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Now: TypeAlias = Callable[[int, Sequence[Buffer], list[int]], bool]

T = TypeVar("T")

__all__ = [
    "AGAIN",
    "PIPE_BUF",
    "SLICE",
    "WOULD_BLOCK",
    "HasFileno",
    "calls_for",
    "capacity_of",
    "deadline_of",
    "fd_of",
    "is_ready",
    "left",
    "look",
    "set_capacity",
    "splice_now",
    "tee_now",
    "wait",
    "way_of",
]

PIPE_BUF = select.PIPE_BUF
"""Bytes that are written to a pipe in one piece or not at all: 4096 on Linux."""
WOULD_BLOCK = -1
SLICE = 0.2
"""Seconds after which a wait looks whether its handle was closed by another thread."""
AGAIN = 0.01
"""Seconds after which one looks again where there is nothing to wait in."""
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_PIPE_MAX = "/proc/sys/fs/pipe-max-size"


class HasFileno(Protocol):
    """Whatever has a descriptor: files, sockets, ends of pipes."""

    def fileno(self) -> int:
        """The descriptor."""


def fd_of(target: int | HasFileno) -> int:
    """The descriptor of a file, a socket, an end of a pipe, or a number; ValueError where there is none."""
    try:
        fd = target if isinstance(target, int) else target.fileno()
    except (AttributeError, io.UnsupportedOperation):
        raise TypeError(
            f"{target!r}: an open file, a socket, an end of a pipe or a descriptor is needed"
        ) from None
    if fd < 0:
        raise ValueError(f"{fd} is no descriptor")
    return fd


# ------------------------------------------------------------------------------------------ time


def deadline_of(timeout: float | None) -> float | None:
    """When a call that begins now has to end; None for never. ValueError below 0 and for NaN."""
    if timeout is None:
        return None
    timeout = float(timeout)
    if isnan(timeout):
        raise ValueError("timeout is NaN: it takes seconds from 0 (tries) upwards, or None (waits)")
    if timeout < 0:
        raise ValueError(f"timeout is {timeout:g}: it takes seconds from 0 (tries) upwards, or None (waits)")
    return time.monotonic() + timeout


def left(deadline: float | None) -> float | None:
    """Seconds until then, not below 0; None for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def wait(fd: int, events: int, deadline: float | None) -> bool:
    """Waits until `fd` is ready; False at the deadline.

    Waits at most SLICE and then says True as well: the caller tries, finds out whether its handle was closed
    by another thread, and comes again. `ShutDown` where reading waits and this process was asked to end.
    """
    if fd < 0:
        return True
    seconds = SLICE if deadline is None else min(SLICE, max(0.0, deadline - time.monotonic()))
    poll = select.poll()
    poll.register(fd, events)
    if _stopping.asked and events & select.POLLIN and not poll.poll(0):
        _stopping.heed()  # a wait for work
    return bool(poll.poll(seconds * 1000)) or deadline is None or time.monotonic() < deadline


def look(fd: int, events: int, times: int) -> bool:
    """Whether `fd` gets ready while one looks so many times, about half a microsecond each."""
    poll = select.poll()
    poll.register(fd, events)
    now = poll.poll
    return any(now(0) for _ in range(times))


# ------------------------------------------------------------------------------------------ reading, writing


# signal.getsignal makes an enum of it, which costs as much as the write itself.
_action: Callable[[int], Any] = sys.modules["_signal"].getsignal
_SIGPIPE = int(signal.SIGPIPE)


def quietly(write: Callable[[], T]) -> T:
    """Writes with SIGPIPE blocked, and takes away the one that the write has raised."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    pending = signal.SIGPIPE in signal.sigpending()
    try:
        return write()
    except BrokenPipeError:
        if not pending:
            signal.sigtimedwait({signal.SIGPIPE}, 0)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# The calls go through `extend` and `map`: between the system call and the count's arrival in the list there
# is no bytecode, so Ctrl+C comes before the call or after it, and never takes a count away that would tell
# where in the stream we are.


def _read_nowait(fd: int, buffers: "Sequence[Buffer]", counts: list[int]) -> bool:
    try:
        counts.extend(map(os.preadv, (fd,), (buffers,), (-1,), (_NOWAIT,)))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return _read_careful(fd, buffers, counts)
    return True


def _write_nowait(fd: int, buffers: "Sequence[Buffer]", counts: list[int]) -> bool:
    try:
        if _action(_SIGPIPE):
            counts.extend(map(os.pwritev, (fd,), (buffers,), (-1,), (_NOWAIT,)))
        else:
            quietly(lambda: counts.extend(map(os.pwritev, (fd,), (buffers,), (-1,), (_NOWAIT,))))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return _write_careful(fd, buffers, counts)
    return True


def _read_nonblocking(fd: int, buffers: "Sequence[Buffer]", counts: list[int]) -> bool:
    try:
        counts.extend(map(os.readv, (fd,), (buffers,)))
    except BlockingIOError:
        return False
    return True


def _write_nonblocking(fd: int, buffers: "Sequence[Buffer]", counts: list[int]) -> bool:
    try:
        if _action(_SIGPIPE):
            counts.extend(map(os.writev, (fd,), (buffers,)))
        else:
            quietly(lambda: counts.extend(map(os.writev, (fd,), (buffers,))))
    except BlockingIOError:
        return False
    return True


def is_ready(fd: int, events: int) -> bool:
    """Whether poll(2) says so now."""
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(0))


def _read_careful(fd: int, buffers: "Sequence[Buffer]", counts: list[int]) -> bool:
    return is_ready(fd, select.POLLIN) and _read_nonblocking(fd, buffers, counts)


def _write_careful(fd: int, buffers: "Sequence[Buffer]", counts: list[int]) -> bool:
    if not is_ready(fd, select.POLLOUT):
        return False
    some, size = [], 0
    for buffer in buffers:
        piece = memoryview(buffer).cast("B")[: PIPE_BUF - size]
        some.append(piece)
        size += len(piece)
        if size == PIPE_BUF:
            break
    return _write_nonblocking(fd, some, counts)


def calls_for(fd: int, *, careful: bool = False) -> "tuple[Now, Now]":
    """How to read from this descriptor and write to it without waiting.

    Both take the descriptor, buffers, and a list to which they append how many bytes went; False when it
    would block. `careful` looks at nothing and takes the way that always works.
    """
    if careful:
        return _read_careful, _write_careful
    if not os.get_blocking(fd):
        return _read_nonblocking, _write_nonblocking
    # Not for files on a disk: there it fails for a page that is not in memory, of which poll knows nothing.
    if _NOWAIT and stat.S_ISFIFO(os.fstat(fd).st_mode) and _kernel_takes_nowait():
        return _read_nowait, _write_nowait
    return _read_careful, _write_careful


def way_of(call: "Now") -> int:
    """The number by which the native core knows how `calls_for` has chosen to read or write."""
    if call in (_read_nowait, _write_nowait):
        return 0
    return 1 if call in (_read_nonblocking, _write_nonblocking) else 2


_kernel: list[bool] = []


def _kernel_takes_nowait() -> bool:
    if not _kernel:
        reader, writer = os.pipe()
        try:
            os.pwritev(writer, [b"x"], -1, _NOWAIT)
            os.preadv(reader, [bytearray(1)], -1, _NOWAIT)
            _kernel.append(True)
        except OSError:
            _kernel.append(False)
        finally:
            os.close(reader)
            os.close(writer)
    return _kernel[0]


# ------------------------------------------------------------------------------------------ capacity


def capacity_of(fd: int) -> int:
    """Bytes that the kernel's buffer of this pipe or FIFO takes."""
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)


def set_capacity(fd: int, capacity: int) -> int:
    """Asks for at least that many bytes, and says how many there are: the kernel rounds up to a power of two.

    `NoSpaceError` names the limit that stands in the way, and ValueError says that more is inside than would
    fit. See F_SETPIPE_SZ in fcntl(2).
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity}: a pipe has at least 1 byte (the kernel makes that a page)")
    if capacity > 1 << 31:  # the kernel has no larger ones, and takes the number modulo 2**32
        raise NoSpaceError(_over_the_limit(capacity))
    try:
        return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, capacity)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise ValueError(f"capacity={capacity}: more than that is in the pipe") from error
        if error.errno in (errno.EPERM, errno.EINVAL, errno.ENOMEM):
            raise NoSpaceError(_over_the_limit(capacity)) from error
        raise


def _over_the_limit(capacity: int) -> str:
    limit = int(Path(_PIPE_MAX).read_text())
    if capacity > limit:
        return f"capacity={capacity} is over the limit of {limit} in {_PIPE_MAX}, which root may raise"
    return (
        f"capacity={capacity}: this user's pipes have all the memory they may have; see "
        "/proc/sys/fs/pipe-user-pages-soft and pipe-user-pages-hard"
    )


# ------------------------------------------------------------------------------------------ moving


def splice_now(source: int, target: int, size: int) -> int | None:
    """Moves bytes inside the kernel: how many, 0 at the end of `source`, WOULD_BLOCK, or None for "cannot".

    One of both has to be a pipe. The kernel cannot where the other file does not know splice(2): terminals,
    files opened for appending.
    """

    def move() -> int:
        return os.splice(source, target, size, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)

    try:
        return move() if _action(_SIGPIPE) else quietly(move)
    except BlockingIOError:
        return WOULD_BLOCK
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV):
            return None
        raise


def tee_now(source: int, target: int, size: int) -> int:
    """Copies bytes from pipe to pipe inside the kernel: how many, 0 at the end, or WOULD_BLOCK."""

    def copy() -> int:
        return _core.tee(source, target, size)

    return copy() if _action(_SIGPIPE) else quietly(copy)
