"""`Mutex`: a lock between processes that says when its owner was killed. The native class does the work."""

import os
from types import TracebackType
from typing import Literal, Self, TypeVar

from . import _core
from ._errors import ClosedError, OwnerDied

__all__ = ["Mutex", "detecting"]


class Mutex(_core.Mutex):
    """A lock between processes that says when its owner was killed.

    `Mutex(name)` opens the mutex of that name in the namespace, or creates it; `Mutex.create` insists on a
    new one, `Mutex.open` on one that exists. `Mutex()` is anonymous: it reaches other processes by fork and
    by pickling. It belongs to the thread that acquires it.

    After its owner's death `acquire` raises `OwnerDied` with the mutex *not* held, in every process, until
    somebody has repaired what it protects in `with mutex.recover():`. With `on_owner_died="recover"` this
    handle takes it from the dead directly.

    With `deadlock="raise"` a wait without a timeout that closes a cycle of waits, across processes, threads
    and tasks, raises `DeadlockError` with that cycle within a few tenths of a second, with the mutex *not*
    held. The others of the cycle go on when what this one holds is released.
    """

    __slots__ = ()

    _flavour: Literal["mutex", "rlock", "condition"] = "mutex"

    def __new__(  # noqa: D102 - the class says it
        cls,
        name: str | None = None,
        *,
        on_owner_died: Literal["raise", "recover"] = "raise",
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        mutex = super().__new__(cls, name, "open_or_create", on_owner_died, namespace, None, cls._flavour)
        return detecting(mutex, deadlock)

    @classmethod
    def create(
        cls,
        name: str,
        *,
        on_owner_died: Literal["raise", "recover"] = "raise",
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Creates the mutex; `FileExistsError` where the name is taken."""
        mutex = super().__new__(cls, name, "create", on_owner_died, namespace, None, cls._flavour)
        return detecting(mutex, deadlock)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        on_owner_died: Literal["raise", "recover"] = "raise",
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens a mutex that exists; `FileNotFoundError` where there is none."""
        mutex = super().__new__(cls, name, "open", on_owner_died, namespace, None, cls._flavour)
        return detecting(mutex, deadlock)

    def recover(self, timeout: float | None = None) -> "_Recovery":
        """Takes the mutex for repair: `with mutex.recover() as death:`.

        `death` is the `OwnerDied` to repair after, or None for a mutex that is sound. Leaving the block
        normally makes it sound and free; an exception, or being killed, leaves it poisoned for the next.
        Raises `Timeout` where a living process held it all the time.
        """
        return _Recovery(self, timeout)

    def __repr__(self) -> str:
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.{type(self).__name__} {what}{' (closed)' if self.closed else ''}>"

    def __reduce__(self) -> tuple[object, ...]:
        # As for queues: by name, or through this process.
        if self.closed:
            raise ClosedError("this handle is closed: it cannot be pickled")
        namespace, name, fd, nonce, recovers = self._place()
        if name is None:
            return _adopt, (
                type(self),
                os.fspath(namespace),
                os.getpid(),
                fd,
                nonce,
                recovers,
                self._detects(),
            )
        return _reopen, (type(self), os.fspath(namespace), name, recovers, self._detects())


class _Recovery:
    """What `Mutex.recover` gives: holds the mutex between entering and leaving."""

    __slots__ = ("_mutex", "_timeout")

    def __init__(self, mutex: Mutex, timeout: float | None) -> None:
        self._mutex = mutex
        self._timeout = timeout

    def __enter__(self) -> OwnerDied | None:
        return self._mutex._recover(self._timeout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._mutex._recovered(kind is None)


D = TypeVar("D", bound=_core.Mutex | _core.Sync)


def detecting(lock: "D", deadlock: Literal["wait", "raise"]) -> "D":
    """Has a handle look for deadlocks, where that is asked for."""
    if deadlock not in {"wait", "raise"}:
        raise ValueError(f'deadlock is {deadlock!r}: it takes "wait" or "raise"')
    if deadlock == "raise":
        lock._detect()
    return lock


def _reopen(cls: type[Mutex], namespace: str, name: str, recovers: bool, detects: bool) -> Mutex:
    on_owner_died: Literal["raise", "recover"] = "recover" if recovers else "raise"
    deadlock: Literal["wait", "raise"] = "raise" if detects else "wait"
    return cls.open(name, on_owner_died=on_owner_died, deadlock=deadlock, namespace=namespace)


def _adopt(
    cls: type[Mutex], namespace: str, pid: int, fd: int, nonce: int, recovers: bool, detects: bool
) -> Mutex:
    on_owner_died: Literal["raise", "recover"] = "recover" if recovers else "raise"
    place = (pid, fd, nonce)
    mutex = _core.Mutex.__new__(cls, None, "open", on_owner_died, namespace, place, cls._flavour)
    return detecting(mutex, "raise" if detects else "wait")
