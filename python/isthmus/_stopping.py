"""This process was asked to end: one flag for every wait, set by `isthmus.signals.graceful_shutdown`.

Waits in the native module look at a flag there. Waits for descriptors watch `bell` as well, which is
readable from the moment on at which the process is asked. Waits *for work* (a message, a connection, a
signal, a child's end, an event) then raise `ShutDown`; waits that get work done (room in a queue, a lock)
go on.
"""

import math
import os
import select
import time

from . import _core
from ._errors import ShutDown

__all__ = ["asked", "await_readable", "bell", "deadline", "heed", "remaining", "watch"]

bell: int | None = None
"""A descriptor that is readable once this process was asked to end; None where nobody may ask."""
asked = False
"""This process was asked to end."""


def watch(active: bool) -> None:
    """Begins (or ends) the time in which this process may be asked to end."""
    global bell  # noqa: PLW0603 - one process, one state
    tell(stopping=False)
    if active and bell is None:
        bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    elif not active and bell is not None:
        os.close(bell)
        bell = None


def tell(*, stopping: bool) -> None:
    """Says that this process was asked to end, or takes that back."""
    global asked  # noqa: PLW0603 - one process, one state
    asked = stopping
    _core.signal_stopping(stopping)
    if bell is None:
        return
    if stopping:
        os.eventfd_write(bell, 1)
    elif is_readable(bell):
        os.eventfd_read(bell)


def heed() -> None:
    """Raises `ShutDown` once this process was asked to end: for waits for work that look every so often."""
    if asked:
        raise ShutDown("this process was asked to end (graceful_shutdown)")


def deadline(timeout: float | None) -> float | None:
    """When a wait of `timeout` seconds ends, by `time.monotonic()`; None for never."""
    if timeout is None:
        return None
    if not timeout >= 0:  # NaN too
        raise ValueError(f"timeout is {timeout}: it takes seconds from 0 (tries) upwards, or None (waits)")
    return None if math.isinf(timeout) else time.monotonic() + timeout


def remaining(end: float | None) -> float | None:
    """Seconds until `end`, 0 when it has passed."""
    return None if end is None else max(0.0, end - time.monotonic())


def is_readable(fd: int) -> bool:
    """Whether reading would not block."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def await_readable(fd: int, end: float | None, *, work: bool = True, events: int = select.POLLIN) -> bool:
    """Waits until `fd` is readable, or what `events` say; False when `end` (see `deadline`) has come before.

    A wait for `work` raises `ShutDown` when this process is asked to end.
    """
    while True:
        poll = select.poll()
        poll.register(fd, events)
        # Anew each time: it is closed at the end of the block, and the number may be another's then.
        stop = bell if work else None
        if stop is not None:
            poll.register(stop, select.POLLIN)
        left = remaining(end)
        # Rounded up, and in pieces that a C int of milliseconds holds.
        pause = None if left is None else min(math.ceil(left * 1000), 2**31 - 1)
        ready = {found for found, _ in poll.poll(pause)}
        if fd in ready:
            return True
        if stop in ready and left != 0:
            heed()
        if end is not None and time.monotonic() >= end:
            return False


def _in_child() -> None:
    # The child was not asked to end. Its parent's descriptor is shared, so it needs its own.
    global bell  # noqa: PLW0603 - one process, one state
    if bell is not None:
        os.close(bell)
        bell = None
        watch(active=True)
    else:
        tell(stopping=False)


os.register_at_fork(after_in_child=_in_child)
