"""`aio.Mutex`: a mutex from asyncio, owned by a task."""

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from isthmus import _core
from isthmus._core import ASK
from isthmus._errors import DeadlockError, NotOwnerError, OwnerDied, WouldBlock
from isthmus.mutex import Mutex as SyncMutex
from isthmus.rlock import RLock as SyncRLock

from ._driver import TURN, check, checkpoint, settle
from ._tasks import context

__all__ = ["Mutex", "RLock"]

R = TypeVar("R")


class Mutex:
    """A mutex from asyncio: held by a task, against the tasks, threads and processes that share it.

    `aio.Mutex(m)` wraps an open `isthmus.Mutex`, which goes on working; `aio.Mutex(name, …)` opens or creates
    one with the arguments of `isthmus.Mutex`. `async with mutex:` holds it. Death of an owner is as there:
    `OwnerDied` until somebody has repaired what it protects in `async with mutex.recover():`. A task that is
    cancelled while it waits holds nothing, and its wake-up goes to the next; one that ends holding it leaves
    it held, as a thread would. Tasks of one loop that share a handle get it in the order in which they asked.
    """

    __slots__ = ("__weakref__", "_mutex", "_pid", "_turn", "_waiting")

    _class: type[SyncMutex] = SyncMutex

    def __init__(self, mutex: SyncMutex | str | None = None, **attributes: Any) -> None:
        self._pid = os.getpid()
        self._turn = 0
        self._waiting = 0
        if isinstance(mutex, SyncMutex):
            if attributes:
                raise TypeError(
                    f"{', '.join(attributes)}: attributes are for opening a mutex, not for wrapping one"
                )
            self._mutex = mutex
        else:
            self._mutex = self._class(mutex, **attributes)

    @classmethod
    def create(cls, name: str, **attributes: Any) -> Self:
        """Creates the mutex; `FileExistsError` where the name is taken."""
        return cls(cls._class.create(name, **attributes))

    @classmethod
    def open(cls, name: str, *, namespace: str | os.PathLike[str] | None = None, **attributes: Any) -> Self:
        """Opens a mutex that exists; `FileNotFoundError` where there is none."""
        return cls(cls._class.open(name, namespace=namespace, **attributes))

    @property
    def sync(self) -> SyncMutex:
        """The mutex for code that is not asynchronous."""
        return self._mutex

    def _wait(self, _on: int) -> _core.Wait:
        return _core.Wait.mutex(self._mutex, context())

    async def acquire(self, timeout: float | None = None) -> bool:
        """Takes the mutex; False when `timeout` seconds went by (None waits, 0 tries).

        Raises `OwnerDied` as `isthmus.Mutex.acquire` does, and `DeadlockError` where this task holds it
        already and would wait for ever.
        """
        check(timeout)
        me = context()
        return await self._run(lambda waited, t: self._mutex._acquire_as(me, waited, t), me, timeout)

    async def _run(self, call: Callable[[bool, Any], R], me: int, timeout: float | None) -> R:
        self._turn += 1
        if not self._turn % TURN:
            await checkpoint()
        # Who gives it back and wants it again goes behind those who wait for it through this handle. They
        # would never find it free otherwise: nothing else runs in between. Who has it may take it again, or
        # hears that it cannot.
        if not self._waiting or timeout == 0 or self._mutex._is_mine(me):
            try:
                return call(False, ASK)
            except WouldBlock:
                pass
        self._check_self(me, timeout)
        self._waiting += 1
        try:
            return await settle(lambda t: call(True, t), self._wait, 0, timeout)
        finally:
            self._waiting -= 1

    def _check_self(self, me: int, timeout: float | None) -> None:
        if timeout is None and self._mutex._is_mine(me):
            raise DeadlockError("this task holds the mutex already: acquiring it again would never end")

    def release(self) -> None:
        """Gives the mutex back. `NotOwnerError` where this task does not hold it."""
        self._mutex._release_as(context())

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except RuntimeError as wrong:
            # In a forked child the mutex is still the parent's, and the loop does not run. A condition's wait
            # that could not get it back says why, and is what there is to see.
            if self._pid == os.getpid() and (error is None or not isinstance(wrong, NotOwnerError)):
                raise

    def recover(self, timeout: float | None = None) -> "_Recovery":
        """Takes the mutex for repair: `async with mutex.recover() as death:`; see `isthmus.Mutex.recover`."""
        check(timeout)
        return _Recovery(self, timeout)

    def locked(self) -> bool:
        """True where somebody holds the mutex, dead or alive."""
        return self._mutex.locked()

    def owner(self) -> int | None:
        """Process id of the owner, None where nobody holds the mutex."""
        return self._mutex.owner()

    def close(self) -> None:
        """Ends the handle, for those who share it too; a mutex that is held stays held by its owner."""
        self._mutex.close()

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it."""
        self._mutex.unlink()

    @property
    def name(self) -> str | None:
        """The name, or None for an anonymous mutex."""
        return self._mutex.name

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._mutex.closed

    def __repr__(self) -> str:
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.aio.{type(self).__name__} {what}{' (closed)' if self.closed else ''}>"


class RLock(Mutex):
    """A recursive mutex from asyncio: its task may take it again. All else is as with `aio.Mutex`."""

    __slots__ = ()

    _class = SyncRLock


class _Recovery:
    """What `aio.Mutex.recover` gives: holds the mutex between entering and leaving."""

    __slots__ = ("_me", "_mutex", "_timeout")

    def __init__(self, mutex: Mutex, timeout: float | None) -> None:
        self._mutex = mutex
        self._timeout = timeout

    async def __aenter__(self) -> OwnerDied | None:
        me = self._me = context()
        mutex = self._mutex._mutex
        return await self._mutex._run(
            lambda waited, t: mutex._recover(t, context=me, waited=waited), me, self._timeout
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._mutex._mutex._recovered(kind is None, context=self._me)
