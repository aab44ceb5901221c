"""`Event`: a flag that many wait for."""

import os
from typing import Self

from ._sync import Named

__all__ = ["Event"]


class Event(Named):
    """A flag between processes: `wait` until somebody has `set` it.

    `Event(name)` opens the event of that name, or creates it, not set. `Event()` is anonymous: it reaches
    other processes by fork and by pickling. The flag stays when who set it dies, and a waiter that sleeps
    through `set` and `clear` still learns of it.
    """

    __slots__ = ()

    _kind = "event"

    def __new__(  # noqa: D102 - the class says it
        cls, name: str | None = None, *, namespace: str | os.PathLike[str] | None = None
    ) -> Self:
        return cls._made(name, "open_or_create", None, namespace)

    @classmethod
    def create(cls, name: str, *, namespace: str | os.PathLike[str] | None = None) -> Self:
        """Creates the event; `FileExistsError` where the name is taken."""
        return cls._made(name, "create", None, namespace)

    def set(self) -> None:
        """Sets the flag and wakes everyone who waits."""
        self._set(True)

    def clear(self) -> None:
        """Clears the flag: `wait` waits again."""
        self._set(False)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is or was set since; False when `timeout` seconds went by (None waits, 0 looks).

        `ShutDown` when this process is asked to end, by `graceful_shutdown`.
        """
        return self._wait("set", self._generation(), timeout)
