"""Sending, stopping, resuming and ending processes, and waiting for their end."""

import os
import signal as _signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from isthmus._errors import Timeout
from isthmus._stopping import await_readable, deadline, remaining

from ._info import number_of
from ._target import ProcessHandle, Target

__all__ = ["Termination", "resume", "send", "sigqueue", "stop", "terminate", "wait_for_exit"]


class Termination(NamedTuple):
    """How `terminate` ended a process."""

    status: int | None
    """Its exit code, or minus the signal that ended it; None where that cannot be known (no child)."""
    killed: bool
    """True where SIGTERM was not enough, and SIGKILL was sent."""


def send(target: Target, signal: int, *, group: bool = False) -> None:
    """Sends a signal to a process, without the race of kill: see `ProcessHandle.send`.

    With `group` it goes to the process group whose number is that of the process; a group also after its
    leader has ended.
    """
    if group and isinstance(target, int):
        try:
            handle = ProcessHandle(target)
        except ProcessLookupError:  # the leader is gone; the number stays taken while the group exists
            os.killpg(target, number_of(signal))
            return
        with handle:
            handle.send(signal, group=True)
        return
    with ProcessHandle(target) as handle:
        handle.send(signal, group=group)


def sigqueue(
    target: Target, signal: int, value: int = 0, *, timeout: float | None = 0.0, group: bool = False
) -> None:
    """Sends a signal with a number, without the race of the C library: see `ProcessHandle.sigqueue`."""
    with ProcessHandle(target) as handle:
        handle.sigqueue(signal, value, timeout=timeout, group=group)


def wait_for_exit(target: Target, timeout: float | None = None) -> int | None:
    """Waits for the end of any process, a child or not; returns its exit code, or minus the signal.

    None where the code cannot be known: for a process that is no child of this one, before Linux 6.15 or
    where its parent has not collected it. `Timeout` after `timeout` seconds (None waits, 0 looks);
    `ProcessLookupError` where there is no such process; `ShutDown` when `graceful_shutdown` asks this process
    to end. A stopped process has not ended. Children are not collected: they stay zombies for whoever waits
    for them, but `Popen` and `multiprocessing.Process` are told. poll(2) on a pidfd.
    """
    with suppress(ProcessLookupError), ProcessHandle(target) as handle:
        return handle.wait_for_exit(timeout)
    return code_of_the_ended(target)


def stop(target: Target, timeout: float | None = None, *, group: bool = False) -> None:
    """Stops a process (SIGSTOP) and waits until all its threads stand still.

    It cannot refuse. `Timeout` after `timeout` seconds: a thread inside the kernel (state D) stops when it
    comes out. `ProcessLookupError` where the process has ended.
    """
    with ProcessHandle(target) as handle:
        handle.send(_signal.SIGSTOP, group=group)
        end = deadline(timeout)
        pause = 0.0002
        while not all(map(_stands_still, members(handle.pid) if group else [handle.pid])):
            handle._check_alive(group)
            if remaining(end) == 0:
                raise Timeout(f"process {handle.pid} does not stand still after {timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 2, 0.02)


def resume(target: Target, *, group: bool = False) -> None:
    """Lets a stopped process go on (SIGCONT). On one that runs it has no effect but the signal."""
    send(target, _signal.SIGCONT, group=group)


def terminate(
    target: Target, grace: float = 10.0, *, group: bool = False, timeout: float | None = None
) -> Termination:
    """Ends a process: SIGTERM, and SIGKILL when it has not ended after `grace` seconds; waits for the end.

    A stopped process is resumed, so that it can act on SIGTERM. One that has ended already is fine. With
    `group` all of the process group that it leads are ended, and waited for. `Timeout` where a killed process
    does not end within `timeout` seconds (None waits): it is in a call inside the kernel (state D).
    """
    limit = deadline(grace)
    try:
        handle = ProcessHandle(target)
    except ProcessLookupError:
        return Termination(code_of_the_ended(target), False)
    with handle:
        for number in (_signal.SIGTERM, _signal.SIGCONT):
            with suppress(ProcessLookupError):
                handle.send(number, group=group)
        if killed := not _wait_ended(handle, limit, group):
            with suppress(ProcessLookupError):
                handle.send(_signal.SIGKILL, group=group)
            if not _wait_ended(handle, deadline(timeout), group):
                raise Timeout(f"process {handle.pid} was killed and has not ended after {timeout:g} s")
        return Termination(handle.status(), killed)


def _wait_ended(handle: ProcessHandle, end: float | None, group: bool) -> bool:
    # Ending others is a part of ending oneself: these waits go on in a graceful shutdown.
    if not await_readable(handle.fileno(), end, work=False):
        return False
    pause = 0.001
    while group and any(True for _ in members(handle.pid)):  # nobody tells when a group is empty
        if remaining(end) == 0:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


def code_of_the_ended(target: Target) -> int | None:
    """What the object knows of a process that has ended; an error where there is none to know."""
    if isinstance(target, int | ProcessHandle):
        raise ProcessLookupError(
            3, f"there is no process {target if isinstance(target, int) else target.pid}"
        )
    for name in ("returncode", "exitcode"):
        code = getattr(target, name, None)
        if isinstance(code, int):
            return code
    return None


def _fields(path: Path) -> list[str]:
    """/proc/<pid>/stat from the state on; nothing where the process is gone."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _stands_still(pid: int) -> bool:
    """Whether every thread is stopped or gone."""
    threads = Path(f"/proc/{pid}/task")
    try:
        states = [_fields(thread / "stat")[:1] for thread in threads.iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(not state or state[0] in "TtZX" for state in states)


def members(group: int) -> Iterator[int]:
    """The living processes of a process group."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            fields = _fields(entry / "stat")
            if fields and fields[0] not in "ZX" and int(fields[2]) == group:
                yield int(entry.name)
