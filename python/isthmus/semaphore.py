"""`Semaphore` and `BoundedSemaphore`: so many at a time."""

import os
from typing import Literal, Self

from ._sync import Named
from .mutex import detecting

__all__ = ["BoundedSemaphore", "Semaphore"]


class Semaphore(Named):
    """A counter between processes that nobody takes below zero: `acquire` waits, `release` gives.

    `Semaphore(name, value)` opens the semaphore of that name, or creates it with this value (1); what exists
    keeps the value it has. `Semaphore(value=n)` is anonymous: it reaches other processes by fork and by
    pickling.

    Permits belong to nobody: one may take them and another give them, as producers and consumers do, so a
    process that dies takes those it had along. Where permits are to come back from the dead, use
    `BoundedSemaphore`.
    """

    __slots__ = ()

    _kind = "semaphore"
    _default = 1

    def __new__(  # noqa: D102 - the class says it
        cls,
        name: str | None = None,
        value: int | None = None,
        *,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        return cls._made(name, "open_or_create", value, namespace)

    @classmethod
    def create(cls, name: str, value: int = 1, *, namespace: str | os.PathLike[str] | None = None) -> Self:
        """Creates the semaphore; `FileExistsError` where the name is taken."""
        return cls._made(name, "create", value, namespace)

    @property
    def value(self) -> int:
        """Permits there are; another moment may differ."""
        return self._value()


class BoundedSemaphore(Named):
    """So many at a time, between processes: permits belong to who took them and come back from the dead.

    `BoundedSemaphore(name, value)` opens the semaphore of that name, or creates it with so many permits (1);
    another number than it has is an `IncompatibleError`. `BoundedSemaphore(value=n)` is anonymous. `deadlock`
    is as with `Mutex`; where there are several permits, all their holders have to be stuck.

    `release` gives back a permit of this process, whichever thread took it: `NotOwnerError` (also a
    `ValueError`, as of `threading`) where it has none. Permits of a process that was killed are free for
    others within 100 ms.
    """

    __slots__ = ()

    _kind = "bounded_semaphore"
    _default = 1

    def __new__(  # noqa: D102 - the class says it
        cls,
        name: str | None = None,
        value: int | None = None,
        *,
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        return detecting(cls._made(name, "open_or_create", value, namespace), deadlock)

    @classmethod
    def create(
        cls,
        name: str,
        value: int = 1,
        *,
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Creates the semaphore; `FileExistsError` where the name is taken."""
        return detecting(cls._made(name, "create", value, namespace), deadlock)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        deadlock: Literal["wait", "raise"] = "wait",
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens a semaphore that exists; `FileNotFoundError` where there is none."""
        return detecting(cls._made(name, "open", None, namespace), deadlock)

    @property
    def value(self) -> int:
        """Permits that are free, those of the dead included; another moment may differ."""
        return self._value()

    @property
    def permits(self) -> int:
        """Permits there are in all."""
        return self._limit()

    def holders(self) -> list[int]:
        """Process ids of those who have permits, once for each."""
        return self._holders()[1]
