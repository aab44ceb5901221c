"""`Condition`: waiting for something to change under a lock."""

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

from . import _core
from ._errors import NotOwnerError
from ._sync import OnHandle, Opening, remade, where
from .mutex import Mutex

__all__ = ["Condition"]


class _Lock(Mutex):
    """The lock that a condition has of its own: recursive, in the same object."""

    __slots__ = ()

    _flavour: Literal["mutex", "rlock", "condition"] = "condition"


class Condition(OnHandle):
    """Waiting for something to change under a lock, between processes.

    `Condition(name)` opens the condition of that name, or creates it, with a recursive lock of its own;
    `Condition()` is anonymous: it reaches other processes by fork and by pickling. `Condition(name,
    lock=mutex)` waits under a `Mutex` or `RLock` of yours, which all who use the condition must give.

    `notify(n)` is exact: that many of those who wait go on, the longest waiting first. A notification that a
    killed waiter had not used goes to the next one within 100 ms. The owner's death while it holds the lock
    is as with `Mutex`: `wait` and `acquire` raise `OwnerDied` until somebody has repaired, `with
    condition.lock.recover():`.
    """

    __slots__ = {"_cells": "The waiters.", "lock": "The lock to hold, its own or yours."}

    lock: Mutex

    def __init__(
        self,
        name: str | None = None,
        lock: Mutex | None = None,
        *,
        namespace: str | os.PathLike[str] | None = None,
    ) -> None:
        self._open(name, "open_or_create", namespace, lock)

    def _open(
        self,
        name: str | None,
        mode: Opening,
        namespace: str | os.PathLike[str] | None,
        lock: Mutex | None,
        adopt: tuple[int, int, int] | None = None,
    ) -> None:
        if lock is not None and not isinstance(lock, Mutex):
            raise TypeError(f"lock is {lock!r}: it takes a Mutex or an RLock of isthmus")
        self._cells = _core.Sync("condition", name, mode, None, 0, namespace, adopt)
        if lock is None:
            # The lock is a part of the same object, opened once more through this process.
            where, _, fd, nonce = self._cells._place()
            place = adopt or (os.getpid(), fd, nonce)
            lock = _core.Mutex.__new__(
                _Lock, name, "open", "raise", where, None if name else place, "condition"
            )
        self.lock = lock

    def _handle(self) -> _core.Sync:
        return self._cells

    @classmethod
    def _made(
        cls,
        name: str | None,
        mode: Opening,
        namespace: str | os.PathLike[str] | None,
        lock: Mutex | None = None,
        adopt: tuple[int, int, int] | None = None,
    ) -> Self:
        condition = cls.__new__(cls)
        condition._open(name, mode, namespace, lock, adopt)
        return condition

    @classmethod
    def create(
        cls, name: str, lock: Mutex | None = None, *, namespace: str | os.PathLike[str] | None = None
    ) -> Self:
        """Creates the condition; `FileExistsError` where the name is taken."""
        return cls._made(name, "create", namespace, lock)

    @classmethod
    def open(
        cls, name: str, lock: Mutex | None = None, *, namespace: str | os.PathLike[str] | None = None
    ) -> Self:
        """Opens a condition that exists; `FileNotFoundError` where there is none."""
        return cls._made(name, "open", namespace, lock)

    def acquire(self, timeout: float | None = None) -> bool:
        """Takes the lock; see `Mutex.acquire`."""
        return self.lock.acquire(timeout)

    def release(self) -> None:
        """Gives the lock back."""
        self.lock.release()

    def __enter__(self) -> Self:
        self.lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.lock.__exit__(kind, error, traceback)

    def wait(self, timeout: float | None = None) -> bool:
        """Lets go of the lock, waits to be notified, takes it again; False when `timeout` seconds went by.

        The caller must hold the lock (`NotOwnerError`). Where it cannot be taken again because its owner
        died, `OwnerDied` is raised with the lock *not* held. `ShutDown` (with the lock held) when this
        process is asked to end, by `graceful_shutdown`.
        """
        cells = self._cells
        self._check_held()
        cell = cells._enter()
        depth = self.lock._release_all()
        try:
            cells._wait("notified", cell, timeout)
        except BaseException:
            # A notification that came at this very moment goes to the next one.
            if cells._leave(cell):
                cells._notify(1)
            self.lock._acquire_again(depth)
            raise
        notified = cells._leave(cell)
        self.lock._acquire_again(depth)
        return notified

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Waits until `predicate()`, asked with the lock held, is true; its last answer."""
        end = None if timeout is None else time.monotonic() + timeout
        answer = predicate()
        while not answer:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            answer = predicate()
        return answer

    def notify(self, n: int = 1) -> None:
        """Wakes up to `n` of those who wait, the longest waiting first. The caller must hold the lock."""
        self._check_held()
        self._cells._notify(n)

    def notify_all(self) -> None:
        """Wakes everyone who waits. The caller must hold the lock."""
        self.notify(1 << 32)

    def _check_held(self) -> None:
        if not self.lock._is_mine():
            raise NotOwnerError("wait and notify need the lock: use them in `with condition:`")

    def waiters(self) -> list[int]:
        """Process ids of those who wait and are not notified, once for each."""
        return self._cells._holders()[1]

    def close(self) -> None:
        """Ends this handle, and the lock's if it is its own. Closing twice does nothing."""
        if isinstance(self.lock, _Lock):
            self.lock.close()
        self._cells.close()

    def __reduce__(self) -> tuple[object, ...]:
        namespace, name, place = where(self._cells)
        lock = None if isinstance(self.lock, _Lock) else self.lock
        return remade, (type(self), name, "open", namespace, lock, place)
