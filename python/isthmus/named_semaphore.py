"""`NamedSemaphore`: a counter that any C program shares. The native class does the work."""

import os
from typing import NamedTuple, Self

from . import _core
from ._errors import ClosedError, IsthmusError

__all__ = ["NamedSemaphore", "NamedSemaphoreInfo", "semaphores", "unlink"]

_DIRECTORY = "/dev/shm"  # noqa: S108 - that is where the C library has them
_PREFIX = "sem."


class NamedSemaphoreInfo(NamedTuple):
    """One named semaphore, as `isthmus ls --kernel` shows it."""

    name: str
    """As C programs give it to sem_open: `/seats`."""
    value: int | None
    """How many there are; None where this user may not open it, or it is none."""
    uid: int
    """User id of the owner."""
    mode: int
    """Permission bits."""
    created: float
    """Seconds since the epoch."""

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it. `FileNotFoundError` where it is gone."""
        _core.unlink_semaphore(self.name)


class NamedSemaphore(_core.NamedSemaphore):
    """A POSIX semaphore with a name (sem_overview(7)): a counter that any C program shares.

    `NamedSemaphore("/seats", 4)` opens the semaphore of that name, or makes it with 4, which counts only
    then; `NamedSemaphore.create` insists on a new one, `NamedSemaphore.open` on one that exists. It stays
    until `unlink()` or a restart of the machine. `mode` are the permission bits of a new one, less the umask.

    `acquire` waits until the counter is above 0 and takes one; `release` gives one, also one that was never
    taken. `with semaphore:` does both. **Nothing comes back from the dead**: a process that is killed between
    the two has taken one for good, because a semaphore knows no owners; `isthmus.Mutex` does. Who waits
    longest is not necessarily the next.

    It is glibc's semaphore: programs of another C library have others. A handle may be used by any number of
    threads and by forked children, and pickles by its name.
    """

    __slots__ = ()

    def __new__(cls, name: str, initial: int = 1, *, mode: int = 0o600) -> Self:  # noqa: D102 - the class says it
        return super().__new__(cls, name, "open_or_create", initial, mode)

    @classmethod
    def create(cls, name: str, initial: int = 1, *, mode: int = 0o600) -> Self:
        """Makes the semaphore; `FileExistsError` where the name is taken."""
        return super().__new__(cls, name, "create", initial, mode)

    @classmethod
    def open(cls, name: str) -> Self:
        """Opens a semaphore that exists; `FileNotFoundError` where there is none."""
        return super().__new__(cls, name, "open", 0, 0)

    def __repr__(self) -> str:
        state = " (closed)" if self.closed else f" = {self.value}"
        return f"<isthmus.{type(self).__name__} {self.name!r}{state}>"

    def __reduce__(self) -> tuple[object, ...]:
        if self.closed:
            raise ClosedError("this handle is closed: it cannot be pickled")
        return _reopen, (type(self), self.name)


def _reopen(cls: type[NamedSemaphore], name: str) -> NamedSemaphore:
    return cls.open(name)


def unlink(name: str) -> None:
    """Removes the name of a semaphore, whoever made it; those who have it open go on using it.

    `FileNotFoundError` where there is none, `PermissionError` where it is another user's.
    """
    _core.unlink_semaphore(name)


def semaphores() -> list[NamedSemaphoreInfo]:
    """The named semaphores of this machine (of this /dev/shm), by name."""
    found = []
    with os.scandir(_DIRECTORY) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.name.startswith(_PREFIX) or not entry.is_file(follow_symlinks=False):
                continue
            name = f"/{entry.name.removeprefix(_PREFIX)}"
            value = None
            try:
                about = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            try:
                semaphore = NamedSemaphore.open(name)
                value = semaphore.value
                semaphore.close()
            except FileNotFoundError:
                continue
            except (IsthmusError, OSError, ValueError):
                pass  # another user's, or something else under such a name
            mode = about.st_mode & 0o7777
            found.append(NamedSemaphoreInfo(name, value, about.st_uid, mode, about.st_mtime))
    return found
