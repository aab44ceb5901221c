"""`RWLock`: many readers or one writer."""

import os
from types import TracebackType
from typing import Literal, Self

from . import _core
from ._errors import OwnerDied
from ._sync import OnHandle, Opening, remade, where
from .mutex import detecting

__all__ = ["RWLock"]


class RWLock(OnHandle):
    """Many readers at a time, or one writer, between processes: `with lock.read:` and `with lock.write:`.

    `RWLock(name)` opens the lock of that name, or creates it; `RWLock()` is anonymous: it reaches other
    processes by fork and by pickling. `read` and `write` are locks with `acquire(timeout)` and `release()`;
    what they hold belongs to the thread that took it.

    Read shares of a process that was killed are given back within 100 ms. After the death of a writer both
    raise `OwnerDied`, in every process, until somebody has repaired what the lock protects in `with
    lock.recover():`. Neither readers nor writers starve: one that has waited for 5 ms is next. So a thread
    that reads already and asks again may wait for a writer that waits for it: do not nest. `deadlock` is as
    with `Mutex`.
    """

    __slots__ = {"read": "The lock for reading.", "write": "The lock for writing."}

    read: _core.Sync
    write: _core.Sync

    def __init__(
        self,
        name: str | None = None,
        *,
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> None:
        self._open(name, "open_or_create", namespace, deadlock)

    def _open(
        self,
        name: str | None,
        mode: Opening,
        namespace: str | os.PathLike[str] | None,
        deadlock: Literal["wait", "raise"],
        adopt: tuple[int, int, int] | None = None,
    ) -> None:
        self.write = detecting(_core.Sync("write", name, mode, None, 0, namespace, adopt), deadlock)
        self.read = self.write._as("read")

    def _handle(self) -> _core.Sync:
        return self.write

    @classmethod
    def _made(
        cls,
        name: str | None,
        mode: Opening,
        namespace: str | os.PathLike[str] | None,
        deadlock: Literal["wait", "raise"],
        adopt: tuple[int, int, int] | None = None,
    ) -> Self:
        lock = cls.__new__(cls)
        lock._open(name, mode, namespace, deadlock, adopt)
        return lock

    @classmethod
    def create(
        cls,
        name: str,
        *,
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Creates the lock; `FileExistsError` where the name is taken."""
        return cls._made(name, "create", namespace, deadlock)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens a lock that exists; `FileNotFoundError` where there is none."""
        return cls._made(name, "open", namespace, deadlock)

    def recover(self, timeout: float | None = None) -> "_Recovery":
        """Takes the lock for repair: `with lock.recover() as death:`.

        `death` is the `OwnerDied` to repair after, or None for a lock that is sound. Leaving the block
        normally makes it sound and free; an exception, or being killed, leaves it poisoned. `Timeout` where
        others held it all the time.
        """
        return _Recovery(self.write, timeout)

    def writer(self) -> int | None:
        """Process id of the writer, None where nobody writes."""
        return self.write._holders()[0]

    def readers(self) -> list[int]:
        """Process ids of the readers, once for each share."""
        return self.write._holders()[1]

    def __reduce__(self) -> tuple[object, ...]:
        namespace, name, place = where(self.write)
        deadlock = "raise" if self.write._detects() else "wait"
        return remade, (type(self), name, "open", namespace, deadlock, place)


class _Recovery:
    """What `RWLock.recover` gives: holds the lock between entering and leaving."""

    __slots__ = ("_lock", "_timeout")

    def __init__(self, lock: _core.Sync, timeout: float | None) -> None:
        self._lock = lock
        self._timeout = timeout

    def __enter__(self) -> OwnerDied | None:
        return self._lock._recover(self._timeout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock._recovered(kind is None)
