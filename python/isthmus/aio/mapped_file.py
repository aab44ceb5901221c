"""`aio.RangeLock`: locks on ranges of a mapped file, from asyncio."""

import asyncio
import time
from typing import Any

from isthmus._errors import DeadlockError, NotOwnerError
from isthmus._range_lock import RangeLock as SyncRangeLock

from ._sync import Entered

__all__ = ["RangeLock"]


class RangeLock(Entered):
    """A lock on a range of a `MappedFile` from asyncio: `async with aio.RangeLock(file.lock(0, 4096)):`.

    It wraps a lock that `isthmus.MappedFile.lock` gave, is held by the task that took it, and excludes all
    that the lock excludes, other tasks among them. The kernel tells no loop that a range is free, so who
    waits asks again, 1 to 50 ms apart, and sleeps in between; there is no order among those who wait. A task
    that is cancelled while it waits holds nothing. Everything else is as in `isthmus.RangeLock`.
    """

    __slots__ = ("_lock", "_task")

    def __init__(self, lock: SyncRangeLock) -> None:
        self._lock = lock
        self._task: asyncio.Task[Any] | None = None

    @property
    def sync(self) -> SyncRangeLock:
        """The lock that it wraps."""
        return self._lock

    @property
    def held(self) -> bool:
        """True while this process holds it through this very lock."""
        return self._lock.held

    async def acquire(self, timeout: float | None = None) -> bool:
        """Takes the lock; False where others hold the range for longer than `timeout` seconds.

        None waits, 0 tries. `DeadlockError` where this task holds it already. Errors of the file as in
        `isthmus.RangeLock.acquire`.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout is {timeout}: it takes seconds from 0 (tries) upwards, or None")
        me = asyncio.current_task()
        give_up = None if timeout is None else time.monotonic() + timeout
        nap = 0.001
        while not self._lock.acquire(0):
            if timeout != 0 and self._task is me and self._lock.held:
                raise DeadlockError(f"this task holds {self._lock!r} itself")
            left = nap if give_up is None else give_up - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(nap, left))
            nap = min(nap * 2, 0.05)
        self._task = me
        return True

    def release(self) -> None:
        """Gives the lock back; `NotOwnerError` where this task does not hold it."""
        if self._task is not asyncio.current_task():
            raise NotOwnerError(f"{self._lock!r} is not held by this task")
        self._task = None
        self._lock.release()

    def __repr__(self) -> str:
        return f"<isthmus.aio.RangeLock of {self._lock!r}>"
