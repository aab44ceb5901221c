"""`aio.RWLock`: many readers or one writer, from asyncio."""

from typing import Any

from isthmus.rwlock import RWLock as SyncRWLock

from ._sync import Permits, Recovery, Wrapper

__all__ = ["RWLock"]


class RWLock(Wrapper[SyncRWLock]):
    """Many readers, or one writer, from asyncio: `async with lock.read:` and `async with lock.write:`.

    What they hold belongs to the task that took it; all else is as with `isthmus.RWLock`. A task that is
    cancelled while it waits holds nothing.
    """

    __slots__ = ("read", "write")

    _class = SyncRWLock

    read: Permits
    """The lock for reading."""
    write: Permits
    """The lock for writing."""

    def __init__(self, handle: "SyncRWLock | str | None" = None, **attributes: Any) -> None:
        super().__init__(handle, **attributes)
        self.read = Permits(self._sync.read, "read")
        self.write = Permits(self._sync.write, "write")

    def recover(self, timeout: float | None = None) -> Recovery:
        """Takes the lock for repair: `async with lock.recover() as death:`; see `isthmus.RWLock.recover`."""
        return Recovery(self._sync.write, timeout)

    def writer(self) -> int | None:
        """Process id of the writer, None where nobody writes."""
        return self._sync.writer()

    def readers(self) -> list[int]:
        """Process ids of the readers, once for each share."""
        return self._sync.readers()
