"""`aio.Semaphore` and `aio.BoundedSemaphore`: so many at a time, from asyncio."""

from typing import TypeVar

from isthmus.semaphore import BoundedSemaphore as SyncBoundedSemaphore
from isthmus.semaphore import Semaphore as SyncSemaphore

from ._sync import Entered, Wrapper, acquire
from ._tasks import context

__all__ = ["BoundedSemaphore", "Semaphore"]

S = TypeVar("S", SyncSemaphore, SyncBoundedSemaphore)


class _Permits(Entered, Wrapper[S]):
    """What both take."""

    __slots__ = ()

    async def acquire(self, timeout: float | None = None) -> bool:
        """Takes a permit; False when `timeout` seconds went by (None waits, 0 tries)."""
        return await acquire(self._sync, "permit", timeout)


class Semaphore(_Permits[SyncSemaphore]):
    """A counter that nobody takes below zero, from asyncio; see `isthmus.Semaphore`.

    A task that is cancelled while it waits takes no permit, and its wake-up goes to the next.
    """

    __slots__ = ()

    _class = SyncSemaphore

    def release(self, n: int = 1) -> None:
        """Gives `n` permits. `TooLarge` beyond 2,147,483,647."""
        self._sync.release(n)

    @property
    def value(self) -> int:
        """Permits there are; another moment may differ."""
        return self._sync.value


class BoundedSemaphore(_Permits[SyncBoundedSemaphore]):
    """So many at a time, from asyncio, permits of the dead coming back; see `isthmus.BoundedSemaphore`.

    A task that is cancelled while it waits takes no permit, and its wake-up goes to the next.
    """

    __slots__ = ()

    _class = SyncBoundedSemaphore

    def release(self) -> None:
        """Gives a permit of this process back. `NotOwnerError`, a `ValueError`, where it has none."""
        self._sync._release(1, context())

    @property
    def value(self) -> int:
        """Permits that are free, those of the dead included; another moment may differ."""
        return self._sync.value

    @property
    def permits(self) -> int:
        """Permits there are in all."""
        return self._sync.permits

    def holders(self) -> list[int]:
        """Process ids of those who have permits, once for each."""
        return self._sync.holders()
