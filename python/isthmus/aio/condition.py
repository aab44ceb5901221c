"""`aio.Condition`: waiting for something to change under a lock, from asyncio."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from isthmus import _core
from isthmus._core import ASK
from isthmus._errors import NotOwnerError, WouldBlock
from isthmus.condition import Condition as SyncCondition

from ._driver import End, check, settle, until
from ._sync import Wrapper
from ._tasks import context
from .mutex import Mutex

__all__ = ["Condition"]


class Condition(Wrapper[SyncCondition]):
    """Waiting for something to change under a lock, from asyncio; see `isthmus.Condition`.

    A task that is cancelled while it waits takes the lock again first, as with `asyncio.Condition`; a
    notification it had not used goes to the next one.
    """

    __slots__ = ("lock",)

    _class = SyncCondition

    lock: Mutex
    """The lock to hold."""

    def __init__(
        self, handle: "SyncCondition | str | None" = None, *arguments: Any, **attributes: Any
    ) -> None:
        super().__init__(handle, *arguments, **attributes)
        self.lock = Mutex(self._sync.lock)

    async def acquire(self, timeout: float | None = None) -> bool:
        """Takes the lock; see `aio.Mutex.acquire`."""
        return await self.lock.acquire(timeout)

    def release(self) -> None:
        """Gives the lock back."""
        self.lock.release()

    async def __aenter__(self) -> Self:
        await self.lock.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.lock.__aexit__(kind, error, traceback)

    async def wait(self, timeout: float | None = None) -> bool:
        """Lets go of the lock, waits to be notified, takes it again; False when `timeout` seconds went by.

        The task must hold the lock (`NotOwnerError`). `OwnerDied` as `isthmus.Condition.wait` raises it.
        """
        check(timeout)
        me = self._check_held()
        cells, lock = self._sync._cells, self._sync.lock
        # The guard of the cells is held for less than a microsecond; where its holder was stopped in it, this
        # waits like a thread: letting go of the lock and beginning to wait must not be torn apart.
        cell = cells._enter(context=me)
        depth = lock._release_all(me)
        try:
            await until(_core.Wait.sync(cells, "notified", me, cell), timeout)
        except BaseException:
            if cells._leave(cell, context=me):
                cells._notify(1, context=me)
            await self._again(lock, depth, me)
            raise
        notified = cells._leave(cell, context=me)
        await self._again(lock, depth, me)
        return notified

    async def _again(self, lock: Any, depth: int, me: int) -> None:
        try:
            lock._acquire_again(depth, me, ASK)
        except WouldBlock:
            pass
        else:
            return
        again = asyncio.ensure_future(
            settle(
                lambda t: lock._acquire_again(depth, me, t, waited=True),
                lambda _on: _core.Wait.mutex(lock, me),
                0,
                None,
            )
        )
        # Whoever leaves `wait` holds the lock, cancelled or not.
        cancelled: asyncio.CancelledError | None = None
        while not again.done():
            try:
                await asyncio.shield(again)
            except asyncio.CancelledError as error:
                cancelled = error
        again.result()
        if cancelled is not None:
            raise cancelled

    async def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Waits until `predicate()`, asked with the lock held, is true; its last answer."""
        end = End(timeout)
        answer = predicate()
        while not answer:
            left = end.left()
            if left is not None and left <= 0:
                break
            await self.wait(left)
            answer = predicate()
        return answer

    def notify(self, n: int = 1) -> None:
        """Wakes up to `n` of those who wait, the longest waiting first. The task must hold the lock."""
        self._sync._cells._notify(n, context=self._check_held())

    def notify_all(self) -> None:
        """Wakes everyone who waits. The task must hold the lock."""
        self.notify(1 << 32)

    def _check_held(self) -> int:
        me = context()
        if not self._sync.lock._is_mine(me):
            raise NotOwnerError("wait and notify need the lock: use them in `async with condition:`")
        return me

    def waiters(self) -> list[int]:
        """Process ids of those who wait and are not notified, once for each."""
        return self._sync.waiters()
