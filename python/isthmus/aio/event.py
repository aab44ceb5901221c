"""`aio.Event`: a flag that many wait for, from asyncio."""

from isthmus.event import Event as SyncEvent

from ._sync import Wrapper, wait

__all__ = ["Event"]


class Event(Wrapper[SyncEvent]):
    """A flag between processes, from asyncio; see `isthmus.Event`."""

    __slots__ = ()

    _class = SyncEvent

    def set(self) -> None:
        """Sets the flag and wakes everyone who waits."""
        self._sync.set()

    def clear(self) -> None:
        """Clears the flag: `wait` waits again."""
        self._sync.clear()

    def is_set(self) -> bool:
        """True while the flag is set."""
        return self._sync.is_set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is or was set since; False when `timeout` seconds went by (None waits, 0 looks)."""
        return await wait(self._sync, "set", self._sync._generation(), timeout)
