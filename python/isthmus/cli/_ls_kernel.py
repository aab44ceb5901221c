"""``isthmus ls --kernel``: what the kernel has for processes to share, whoever made it."""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import isthmus
from isthmus import named_semaphore, posix_mq, sysv
from isthmus.cli._ls import print_table, when
from isthmus.cli._show import CommandError, counted, printable, say, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

TITLES = ("KIND", "NAME", "SIZE", "CONTENT", "OWNER", "MODE", "SINCE", "USED BY")
_SHM = Path("/dev/shm")  # noqa: S108 - that is where the kernel's shared memory is


class Row(NamedTuple):
    """One thing that the kernel has."""

    kind: str
    name: str
    size: int | None
    content: str
    uid: int
    mode: int
    since: float
    users: list[int]
    details: dict[str, Any]
    """What JSON shows beside the others."""


def run(options: argparse.Namespace) -> int:
    """List what is there; that a part of it cannot be listed is said, and is no failure."""
    if options.namespace is not None:
        raise CommandError("--kernel lists what is in no namespace: leave --namespace out", 2)
    users = _Users()
    rows: list[Row] = []
    for part in (_posix_queues, _posix_semaphores, _posix_memory, _sysv):
        try:
            rows += part(users)
        except (isthmus.Unsupported, OSError) as error:
            say(str(error))
    if users.hidden:
        say(f"{counted(users.hidden, 'process', 'processes')} may not be looked into by this user")
    if options.json:
        print(json.dumps([_as_dictionary(row) for row in rows], indent=2))
    elif not rows:
        say("the kernel has no named object of these kinds")
    else:
        print_table(TITLES, [_cells(row) for row in rows], [False] * len(rows))
    return 0


def _as_dictionary(row: Row) -> dict[str, Any]:
    users = [{"pid": pid, "command": _command(pid)} for pid in row.users]
    shown = {"kind": row.kind, "name": row.name, "size": row.size, "uid": row.uid}
    return {**shown, "mode": f"{row.mode:04o}", "since": row.since or None, "used_by": users, **row.details}


def _cells(row: Row) -> tuple[str, ...]:
    users = ", ".join(f"{pid} {_command(pid)}".rstrip() for pid in row.users)
    return (
        row.kind,
        printable(row.name),
        "-" if row.size is None else size(row.size),
        row.content,
        printable(_owner(row.uid)),
        f"{row.mode:04o}",
        when(row.since),
        printable(users or "nobody"),
    )


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return os.fsdecode(b" ".join(words).strip())


def _posix_queues(users: _Users) -> Iterator[Row]:
    place = posix_mq.mounted()
    for one in posix_mq.queues():
        content = "not this user's to open"
        if one.depth is not None:
            content = (
                f"{one.depth} of {counted(one.maxsize or 0, 'message')} of up to {size(one.message_max or 0)}"
            )
        if one.registered is not None:
            content += f"; notifies {one.registered}"
        who = users.of_file(place / one.name[1:]) if place is not None else []
        details = one._asdict()
        del details["mode"]
        yield Row("posix queue", one.name, one.bytes_in_use, content, one.uid, one.mode, 0.0, who, details)


def _posix_semaphores(users: _Users) -> Iterator[Row]:
    for one in named_semaphore.semaphores():
        content = "not this user's to open" if one.value is None else f"= {one.value}"
        who = users.of_file(_SHM / f"sem.{one.name[1:]}")
        details = {"value": one.value}
        yield Row("posix semaphore", one.name, None, content, one.uid, one.mode, one.created, who, details)


def _posix_memory(users: _Users) -> Iterator[Row]:
    for entry in sorted(_SHM.iterdir()):
        try:
            about = entry.lstat()
        except FileNotFoundError:
            continue
        # Folders are namespaces: `isthmus ls` shows what is in them.
        if not stat.S_ISREG(about.st_mode) or entry.name.startswith("sem."):
            continue
        mode = about.st_mode & 0o7777
        content = f"{size(about.st_blocks * 512)} in use"
        details = {"bytes_in_use": about.st_blocks * 512}
        who, since = users.of_file(entry), about.st_mtime
        yield Row(
            "posix memory", f"/{entry.name}", about.st_size, content, about.st_uid, mode, since, who, details
        )


def _sysv(users: _Users) -> Iterator[Row]:
    for queue in sysv.queues():
        content = counted(queue.depth, "message")
        seen = [
            pid for pid in (queue.last_sender, queue.last_receiver) if pid and Path(f"/proc/{pid}").exists()
        ]
        yield _sysv_row("sysv queue", queue, queue.bytes_in_use, content, list(dict.fromkeys(seen)))
    for one in sysv.semaphores():
        values = counted(one.size, "semaphore")
        if one.values is not None:
            values = "= " + " ".join(map(str, one.values[:8])) + " …" * (one.size > 8)
        yield _sysv_row("sysv semaphores", one, None, values, [])
    for segment in sysv.segments():
        content = f"attached {segment.attached} ×" if segment.attached else "attached by nobody"
        content += "; abandoned" * segment.abandoned + "; removed" * segment.removed
        row = _sysv_row("sysv memory", segment, segment.size, content, users.of_segment(segment.id))
        row.details["abandoned"] = segment.abandoned
        yield row


def _sysv_row(kind: str, one: sysv.Entry, count: int | None, content: str, users: list[int]) -> Row:
    details = one._asdict()
    for known in ("mode", "uid", "size"):
        details.pop(known, None)
    if isinstance(one, sysv.SemaphoreSet):
        details["semaphores"] = one.size
    return Row(
        kind, f"{one.id} ({one.key:#x})", count, content, one.uid, one.mode, one.changed, users, details
    )


class _Users:
    """Who has a file open or mapped, looked up in /proc once for all of them."""

    def __init__(self) -> None:
        self.hidden = 0
        self._files: dict[tuple[int, int], set[int]] = {}
        self._segments: dict[int, set[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                self._look(int(entry.name), entry)

    def _look(self, pid: int, process: Path) -> None:
        try:
            self._maps((process / "maps").read_bytes().splitlines(), pid)
            for link in (process / "fd").iterdir():
                self._note(_try(link.stat), pid)
        except PermissionError:
            self.hidden += 1
        except OSError:
            pass  # it has ended meanwhile

    def _maps(self, lines: Iterable[bytes], pid: int) -> None:
        for line in lines:
            _, _, _, device, inode, *path = line.split(maxsplit=5)
            if not path:
                continue
            if path[0].startswith(b"/SYSV"):
                self._segments.setdefault(int(inode), set()).add(pid)
            elif path[0].startswith(b"/dev/shm/"):
                major, minor = (int(part, 16) for part in device.split(b":"))
                self._files.setdefault((os.makedev(major, minor), int(inode)), set()).add(pid)

    def _note(self, about: os.stat_result | None, pid: int) -> None:
        if about is not None and stat.S_ISREG(about.st_mode):
            self._files.setdefault((about.st_dev, about.st_ino), set()).add(pid)

    def of_file(self, path: Path) -> list[int]:
        about = _try(path.lstat)
        return [] if about is None else sorted(self._files.get((about.st_dev, about.st_ino), ()))

    def of_segment(self, number: int) -> list[int]:
        return sorted(self._segments.get(number, ()))


def _try(call: Callable[[], os.stat_result]) -> os.stat_result | None:
    try:
        return call()
    except OSError:
        return None
