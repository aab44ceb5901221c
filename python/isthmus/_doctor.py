"""`doctor`: who waits for whom, and whether it can ever end."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from . import _core
from ._errors import DeadlockError

__all__ = ["Diagnosis", "Finding", "check", "doctor"]

# Between two looks: a wait that was there in both, unchanged, was not just passing by.
_PAUSE = 0.02


class Finding(NamedTuple):
    """Something that is wrong, or may be."""

    kind: str
    """`"deadlock"`, `"stopped"`, `"held long"`, `"poisoned"` or `"lost"`."""
    text: str
    """A sentence that says who, what and since when."""
    objects: list[str]
    """Names of the objects it is about; where they were found, of those that have none."""
    pids: list[int]
    """Processes it is about."""


class Diagnosis(NamedTuple):
    """What `doctor` found."""

    findings: list[Finding]
    locks: int
    """How many locks were looked at."""
    waiting: int
    """How many threads and tasks wait for one."""

    @property
    def deadlocks(self) -> list[Finding]:
        """The findings that are deadlocks."""
        return [finding for finding in self.findings if finding.kind == "deadlock"]


class _Who(NamedTuple):
    key: int
    pid: int
    context: int
    command: str
    alive: bool

    def __str__(self) -> str:
        # Contexts above every thread id are tasks of event loops (aio/_tasks.py).
        what = "a task" if self.context > 1 << 22 else f"thread {self.context}"
        command = f" ({self.command})" if self.command else ""
        return f"{what} of process {self.pid}{command}"


class _Wait(NamedTuple):
    who: _Who
    mode: str
    timed: bool
    since: float


class _Lock(NamedTuple):
    name: str
    named: bool
    kind: str
    nonce: int
    holders: list[tuple[_Who, str]]
    waits: list[_Wait]
    claim: _Who | None
    died: tuple[int, float] | None
    users: int

    def __str__(self) -> str:
        kind = _KINDS.get(self.kind, self.kind)
        return f"{kind} {self.name!r}" if self.named else f"{kind} without a name ({self.name})"


_KINDS = {"rwlock": "read-write lock", "bounded_semaphore": "bounded semaphore", "rlock": "recursive mutex"}


def _read(namespace: str | os.PathLike[str] | None) -> list[_Lock]:
    locks = []
    for name, named, kind, nonce, holders, waits, claim, died, users in _core.situation_of(namespace):
        locks.append(
            _Lock(
                name,
                named,
                kind,
                nonce,
                [(_Who(*who), mode) for who, mode in holders],
                [_Wait(_Who(*who), mode, timed, since) for who, mode, timed, since in waits],
                None if claim is None else _Who(*claim),
                died,
                users,
            )
        )
    return locks


def _blockers(lock: _Lock, wait: _Wait) -> tuple[list[_Who], bool]:
    """Who stands in the way, and whether any of them stuck is enough (or it takes all)."""
    if wait.mode == "permit":
        return [who for who, _ in lock.holders], False
    if wait.mode == "shared":
        writers = [who for who, mode in lock.holders if mode == "exclusive"]
        # Behind a writer that waits and is to be next.
        return writers or ([lock.claim] if lock.claim is not None else []), True
    return [who for who, _ in lock.holders], True


Stuck = dict[int, tuple[_Lock, _Wait]]


def _stuck(locks: Iterable[_Lock]) -> Stuck:
    """The waits that cannot end, by who waits: what is left when all are taken away that may."""
    stuck: Stuck = {}
    for lock in locks:
        for wait in lock.waits:
            # A wait with a timeout ends; and who sets an event or notifies may be anybody.
            if wait.who.alive and not wait.timed and wait.mode != "signal" and lock.kind != "semaphore":
                stuck[wait.who.key] = (lock, wait)
    while True:
        free = []
        for key, (lock, wait) in stuck.items():
            blockers, one_is_enough = _blockers(lock, wait)
            ends = [who.key not in stuck for who in blockers]
            if not blockers or (all(ends) if one_is_enough else any(ends)):
                free.append(key)
        if not free:
            return stuck
        for key in free:
            del stuck[key]


def _cycles(stuck: Stuck) -> list[list[int]]:
    """Each cycle of waits once, beginning with its oldest."""
    cycles: dict[frozenset[int], list[int]] = {}
    for start in stuck:
        path: list[int] = []
        key = start
        while key not in path:
            path.append(key)
            lock, wait = stuck[key]
            key = next(who.key for who in _blockers(lock, wait)[0] if who.key in stuck)
        cycle = path[path.index(key) :]
        oldest = min(range(len(cycle)), key=lambda index: stuck[cycle[index]][1].since)
        cycles.setdefault(frozenset(cycle), cycle[oldest:] + cycle[:oldest])
    return list(cycles.values())


def _confirmed(namespace: str | os.PathLike[str] | None) -> tuple[list[_Lock], Stuck]:
    """Reads twice: what is stuck in both, and has not changed."""
    first = _stuck(_read(namespace))
    if first:
        time.sleep(_PAUSE)
    locks = _read(namespace)
    again = _stuck(locks)

    def same(key: int) -> bool:
        before = first.get(key)
        now = again[key]
        return before is not None and (before[0].nonce, before[1].since) == (now[0].nonce, now[1].since)

    kept = {key: found for key, found in again.items() if same(key)}
    # Only cycles all of whose waits were there before count.
    return locks, kept if len(kept) == len(again) else _stuck(_only(locks, kept))


def _only(locks: list[_Lock], kept: Stuck) -> list[_Lock]:
    return [lock._replace(waits=[wait for wait in lock.waits if wait.who.key in kept]) for lock in locks]


def _sentence(cycle: list[int], stuck: Stuck) -> str:
    now = time.time()
    parts = []
    for index, key in enumerate(cycle):
        lock, wait = stuck[key]
        holder = stuck[cycle[(index + 1) % len(cycle)]][1].who
        parts.append(
            f"{wait.who} waits for {lock} since {max(0.0, now - wait.since):.1f} s, which {holder} has"
        )
    return "Deadlock: " + "; ".join(parts) + "."


def check(namespace: str, key: int, nonce: int) -> None:
    """Raises `DeadlockError` where the wait of `key` for the object `nonce` closes a cycle.

    The youngest wait of a cycle closed it; where that one does not raise within a second, the others do.
    """
    _, stuck = _confirmed(namespace)
    if key not in stuck or stuck[key][0].nonce != nonce:
        return
    for cycle in _cycles(stuck):
        if key in cycle:
            youngest = max(stuck[each][1].since for each in cycle)
            mine = stuck[key][1].since
            if mine == youngest or time.time() - youngest > 1.0:
                raise DeadlockError(_sentence(cycle, stuck), cycle=[_name(stuck[each]) for each in cycle])


def _name(found: tuple[_Lock, _Wait]) -> tuple[int, str]:
    return found[1].who.pid, found[0].name


def doctor(*, hold_limit: float = 10.0, namespace: str | os.PathLike[str] | None = None) -> Diagnosis:
    """Looks for what keeps programs from going on, in a whole namespace, without disturbing anybody.

    Finds deadlocks across processes, threads and tasks, each cycle as a sentence; waits for a process that is
    stopped; locks for which somebody has waited longer than `hold_limit` seconds; poisoned locks; and objects
    that nobody uses any more. What it reads changes meanwhile, so deadlocks are read twice. Locks without a
    name are seen as far as the processes that have them open let this user look (ptrace(2)).
    """
    locks, stuck = _confirmed(namespace)
    findings = []
    for cycle in _cycles(stuck):
        found = [stuck[key] for key in cycle]
        objects = [lock.name for lock, _ in found]
        findings.append(
            Finding("deadlock", _sentence(cycle, stuck), objects, [wait.who.pid for _, wait in found])
        )
    for lock in locks:
        findings += _about(lock, hold_limit, stuck)
    waiting = sum(len(lock.waits) for lock in locks)
    return Diagnosis(findings + _lost(namespace), len(locks), waiting)


def _about(lock: _Lock, hold_limit: float, stuck: Stuck) -> list[Finding]:
    findings = []
    now = time.time()
    alive = [wait for wait in lock.waits if wait.who.alive]
    longest = max((now - wait.since for wait in alive if wait.mode != "signal"), default=0.0)
    holders = {who.pid: who for who, _ in lock.holders if who.alive}
    for pid, who in holders.items():
        if alive and _is_stopped(pid):
            text = (
                f"{len(alive)} wait for {lock}, which {who} has; that process is stopped (kill -CONT {pid})."
            )
            findings.append(Finding("stopped", text, [lock.name], [pid]))
        elif longest > hold_limit and not any(wait.who.key in stuck for wait in alive):
            text = f"{who} has {lock}, for which others have waited for up to {longest:.1f} s."
            findings.append(Finding("held long", text, [lock.name], [pid]))
    if lock.died is not None:
        pid, since = lock.died
        when = time.strftime("%H:%M:%S", time.localtime(since)) if since else "an unknown time"
        text = f"{lock} is poisoned: process {pid} died holding it, noticed at {when} (it takes a recover())."
        findings.append(Finding("poisoned", text, [lock.name], [pid]))
    return findings


def _is_stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return stat.rpartition(b")")[2].split()[0] in {b"T", b"t"}
    except (OSError, IndexError):
        return False


def _lost(namespace: str | os.PathLike[str] | None) -> list[Finding]:
    found = []
    for row in _core.objects(namespace):
        name, kind, persistent, attached, problem = _row(row)
        if not attached and not persistent and problem is None:
            what = _KINDS.get(kind, kind)
            text = f"{what} {name!r} is left over: nobody uses it (isthmus clean removes it)."
            found.append(Finding("lost", text, [name], []))
    return found


def _row(row: Any) -> tuple[str, str, bool, list[Any], str | None]:
    return row[0], row[1], row[4], row[7], row[8]
