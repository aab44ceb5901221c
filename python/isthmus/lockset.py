"""`LockSet`: several locks at once, in one order that all processes use."""

import time
from types import TracebackType
from typing import Any, Self

from . import _core
from .condition import Condition

__all__ = ["LockSet"]


def in_order(locks: tuple[Any, ...], handles: list[Any]) -> list[Any]:
    """The locks, sorted by the random number of each object, which is the same in every process."""
    places = {}
    for lock, handle in zip(locks, handles, strict=True):
        if not isinstance(handle, _core.Mutex | _core.Sync) or not hasattr(handle, "release"):
            raise TypeError(f"a LockSet takes locks of isthmus, not {lock!r}")
        number = handle._place()[3]
        if number in places:
            raise ValueError(f"{lock!r} is in the set twice")
        places[number] = lock
    return [places[number] for number in sorted(places)]


class LockSet:
    """Several locks at once: `with LockSet(a, b, c):` holds all of them or none.

    Takes `Mutex`, `RLock`, `Semaphore`, `BoundedSemaphore`, the `read` and `write` of an `RWLock`, and
    `Condition`. They are taken in an order that is the same in every process, whatever the order they are
    given in, so that two sets never wait for each other. Where taking one raises (`OwnerDied`), those before
    it are given back.
    """

    __slots__ = ("_locks",)

    def __init__(self, *locks: Any) -> None:
        handles = [lock.lock if isinstance(lock, Condition) else lock for lock in locks]
        self._locks = in_order(locks, handles)

    def acquire(self, timeout: float | None = None) -> bool:
        """Takes all of them; False, with none held, when `timeout` seconds went by (None waits, 0 tries)."""
        if timeout is not None and not timeout >= 0:
            raise ValueError(
                f"timeout is {timeout}: it takes seconds from 0 (tries) upwards, or None (waits)"
            )
        end = None if timeout is None else time.monotonic() + timeout
        held: list[Any] = []
        try:
            for lock in self._locks:
                if not lock.acquire(None if end is None else max(0.0, end - time.monotonic())):
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

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"LockSet({', '.join(map(repr, self._locks))})"
