"""`aio.LockSet`: several locks at once, in one order that all processes use, from asyncio."""

from typing import Any

from isthmus.lockset import in_order

from ._driver import End
from ._sync import Entered, Permits, Wrapper
from .condition import Condition
from .mutex import Mutex

__all__ = ["LockSet"]


class LockSet(Entered):
    """Several locks at once, all or none: `async with aio.LockSet(a, b, c):`; see `isthmus.LockSet`.

    A task that is cancelled while it waits gives back what it has.
    """

    __slots__ = ("_locks",)

    def __init__(self, *locks: Any) -> None:
        self._locks = in_order(locks, [_handle(lock) for lock in locks])

    async def acquire(self, timeout: float | None = None) -> bool:
        """Takes all of them; False, with none held, when `timeout` seconds went by (None waits, 0 tries)."""
        end = End(timeout)
        held: list[Any] = []
        try:
            for lock in self._locks:
                if not await lock.acquire(end.left()):
                    break
                held.append(lock)
            else:
                held = []
                return True
            return False
        finally:
            for lock in reversed(held):
                lock.release()

    def release(self) -> None:
        """Gives all of them back, the last taken first. The first error is raised when all were tried."""
        failure: BaseException | None = None
        for lock in reversed(self._locks):
            try:
                lock.release()
            except Exception as error:  # noqa: BLE001 - raised below
                failure = failure or error
        if failure is not None:
            raise failure

    def __repr__(self) -> str:
        return f"LockSet({', '.join(map(repr, self._locks))})"


def _handle(lock: Any) -> Any:
    if isinstance(lock, Condition):
        return lock.lock.sync
    if isinstance(lock, Permits):
        return lock._lock
    return lock.sync if isinstance(lock, Mutex | Wrapper) else None
