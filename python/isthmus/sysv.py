"""System V message queues, semaphores and shared memory: listing those of other programs, and removing them.

They belong to nobody: what a killed program leaves behind stays until somebody removes it or the machine
restarts, and the limits on their number are small. `sysvipc(7)` tells what they are; `ipcs` and `ipcrm` do
the same from the shell. Isthmus has better ones of its own, so it neither makes nor uses any.
"""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from . import _core
from ._errors import Unsupported

__all__ = ["Entry", "Segment", "SemaphoreSet", "SysVQueue", "everything", "queues", "segments", "semaphores"]

_TABLES = Path("/proc/sysvipc")
_SHM_DEST = 0o1000
"""Among the permissions of a segment: it goes with the last who has it attached."""


class SysVQueue(NamedTuple):
    """A System V message queue."""

    id: int
    """The number that the kernel gave it."""
    key: int
    """What programs find it by; 0 for a private one."""
    mode: int
    """Permission bits."""
    uid: int
    """User id of the owner."""
    depth: int
    """Messages inside."""
    bytes_in_use: int
    """Bytes of the messages inside."""
    last_sender: int
    """Process id of who sent last; 0 for nobody, or a process that is not visible here."""
    last_receiver: int
    """Process id of who received last, likewise."""
    last_used: float
    """Seconds since the epoch of the last message in or out; 0.0 for never."""
    changed: float
    """Seconds since the epoch when it was made, or its owner or mode was changed."""

    def remove(self) -> None:
        """Removes the queue with its messages; who waits for it gets an error (EIDRM).

        `FileNotFoundError` where it is gone, `PermissionError` where it is another user's.
        """
        _remove("queue", self)


class SemaphoreSet(NamedTuple):
    """A set of System V semaphores."""

    id: int
    """The number that the kernel gave it."""
    key: int
    """What programs find it by; 0 for a private one."""
    mode: int
    """Permission bits."""
    uid: int
    """User id of the owner."""
    values: tuple[int, ...] | None
    """The semaphores of the set; None where this user may not read them."""
    size: int
    """How many there are."""
    last_used: float
    """Seconds since the epoch of the last semop; 0.0 for never."""
    changed: float
    """Seconds since the epoch when it was made, set, or its owner or mode was changed."""

    def remove(self) -> None:
        """Removes the set; who waits for it gets an error (EIDRM).

        `FileNotFoundError` where it is gone, `PermissionError` where it is another user's.
        """
        _remove("semaphores", self)


class Segment(NamedTuple):
    """A System V shared memory segment."""

    id: int
    """The number that the kernel gave it."""
    key: int
    """What programs find it by; 0 for a private one, and for one that is removed and still attached."""
    mode: int
    """Permission bits."""
    uid: int
    """User id of the owner."""
    size: int
    """Bytes."""
    attached: int
    """How often it is attached, in all processes together."""
    creator: int
    """Process id of who made it; 0 for a process that is not visible here."""
    last_user: int
    """Process id of who attached or detached it last, likewise."""
    removed: bool
    """It has been removed already, and goes with the last who has it attached."""
    last_used: float
    """Seconds since the epoch of the last attaching or detaching; 0.0 for never."""
    changed: float
    """Seconds since the epoch when it was made, or its owner or mode was changed."""

    @property
    def abandoned(self) -> bool:
        """True where nobody has it attached and its creator is gone: nobody is likely to want it."""
        return not self.attached and (not self.creator or not Path(f"/proc/{self.creator}").exists())

    def remove(self) -> None:
        """Removes the segment: its key at once, its memory with the last who has it attached.

        `FileNotFoundError` where it is gone, `PermissionError` where it is another user's.
        """
        _remove("segment", self)


Entry: TypeAlias = SysVQueue | SemaphoreSet | Segment
"""Any of the three."""


def queues() -> list[SysVQueue]:
    """The System V message queues that this process can see, by number."""
    return [
        SysVQueue(
            id=row["msqid"],
            key=row["key"] & 0xFFFF_FFFF,
            mode=row["perms"] & 0o777,
            uid=row["uid"],
            depth=row["qnum"],
            bytes_in_use=row["cbytes"],
            last_sender=row["lspid"],
            last_receiver=row["lrpid"],
            last_used=float(max(row["stime"], row["rtime"])),
            changed=float(row["ctime"]),
        )
        for row in _rows("msg")
    ]


def semaphores() -> list[SemaphoreSet]:
    """The sets of System V semaphores that this process can see, by number."""
    found = []
    for row in _rows("sem"):
        values = _core.sysv_values(row["semid"], row["nsems"])
        found.append(
            SemaphoreSet(
                id=row["semid"],
                key=row["key"] & 0xFFFF_FFFF,
                mode=row["perms"] & 0o777,
                uid=row["uid"],
                values=None if values is None else tuple(values),
                size=row["nsems"],
                last_used=float(row["otime"]),
                changed=float(row["ctime"]),
            )
        )
    return found


def segments() -> list[Segment]:
    """The System V shared memory segments that this process can see, by number."""
    return [
        Segment(
            id=row["shmid"],
            key=row["key"] & 0xFFFF_FFFF,
            mode=row["perms"] & 0o777,
            uid=row["uid"],
            size=row["size"],
            attached=row["nattch"],
            creator=row["cpid"],
            last_user=row["lpid"],
            removed=bool(row["perms"] & _SHM_DEST),
            last_used=float(max(row["atime"], row["dtime"])),
            changed=float(row["ctime"]),
        )
        for row in _rows("shm")
    ]


def everything() -> list[Entry]:
    """All of them: queues, then sets of semaphores, then segments."""
    return [*queues(), *semaphores(), *segments()]


def _rows(table: str) -> Iterator[dict[str, int]]:
    try:
        lines = (_TABLES / table).read_text().splitlines()
    except FileNotFoundError:
        raise Unsupported(f"this kernel has no System V objects: {_TABLES / table} does not exist") from None
    titles = lines[0].split()
    rows = []
    for line in lines[1:]:
        row = dict(zip(titles, line.split(), strict=True))
        # Permissions are the only octal column.
        rows.append({title: int(text, 8 if title == "perms" else 10) for title, text in row.items()})
    number = titles[1]  # after the key
    yield from sorted(rows, key=lambda row: row[number])


def _remove(kind: Literal["queue", "semaphores", "segment"], entry: Entry) -> None:
    # The kernel gives numbers again after a while: what is removed has to be what was listed. Whoever may
    # remove an object may change it as well, so this guards against mistakes and not against enemies.
    listed = [one for one in everything() if type(one) is type(entry)]
    same = [one for one in listed if (one.id, one.key) == (entry.id, entry.key)]
    if not same or not _core.sysv_remove(kind, entry.id):
        raise FileNotFoundError(
            errno.ENOENT,
            f"there is no System V {kind} any more with number {entry.id} and key {entry.key:#010x}",
        )
