"""Stops a process at its n-th store into shared memory, instruction or system call, and kills it there.

By ptrace: from the first instruction in the native module on, one by one. What a loaded machine hits by
chance once in a million kills, the moment between two stores, comes in turn.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from siege import KILLS, SEED, Siege, Worker
from support import wait_until

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

_CONT, _SINGLESTEP, _GETREGS, _SETREGS, _ATTACH, _SYSCALL = 7, 9, 12, 13, 16, 24
_WALL = 0x40000000
_RIP = 16  # of the 27 words of user_regs_struct


Found = TypeVar("Found")


class CannotTrace(Exception):
    """This machine does not let us."""


class RanOn(AssertionError):
    """It did not stop after a step, and came to its end."""


def _ptrace(request: int, pid: int, data: object = None) -> None:
    if _libc.ptrace(request, pid, None, data) == -1:
        raise CannotTrace(f"ptrace({request}): {os.strerror(ctypes.get_errno())}")


class Tracee:
    """A worker that is about to do its operation, stopped."""

    def __init__(self, siege: Siege, operation: str, name: str, prepare: str) -> None:
        if platform.machine() != "x86_64":
            raise CannotTrace("stepping is written for x86-64")
        self.worker: Worker = siege.start("operate", operation=operation, name=name, prepare=prepare)
        self.siege = siege
        self.pid = self.worker.pid
        wait_until(self._ready, "the worker to be ready")
        _ptrace(_ATTACH, self.pid)
        self._wait(signal.SIGSTOP)
        self.worker.stop()  # STOP: go ahead, as soon as it runs

    def _ready(self) -> bool:
        self.siege.check_errors()
        return self.worker.attached

    def _wait(self, expected: int = signal.SIGTRAP, *, onward: int = _CONT) -> None:
        """Waits until it stops as expected; another signal is let through, and it goes `onward` as before."""
        others: list[int] = []
        while True:
            _, status = os.waitpid(self.pid, _WALL)
            if not os.WIFSTOPPED(status):
                self.siege.check_errors()
                raise RanOn(f"the worker ended by itself: {status:#x}, after signals {others}")
            if os.WSTOPSIG(status) == expected:
                return
            others.append(os.WSTOPSIG(status))
            _ptrace(onward, self.pid, os.WSTOPSIG(status))

    @property
    def done(self) -> bool:
        return bool(self.worker.done)

    def place(self) -> int:
        """The address of its next instruction."""
        registers = (ctypes.c_ulonglong * 27)()
        _ptrace(_GETREGS, self.pid, registers)
        return int(registers[_RIP])

    def step(self, count: int = 1) -> None:
        """Runs that many instructions."""
        for _ in range(count):
            _ptrace(_SINGLESTEP, self.pid)
            self._wait(onward=_SINGLESTEP)

    def run_to(self, address: int) -> None:
        """Runs until it comes to an address."""
        memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
        original = os.pread(memory, 1, address)
        os.pwrite(memory, b"\xcc", address)
        _ptrace(_CONT, self.pid)
        self._wait()
        os.pwrite(memory, original, address)
        os.close(memory)
        registers = (ctypes.c_ulonglong * 27)()
        _ptrace(_GETREGS, self.pid, registers)
        assert registers[_RIP] == address + 1
        registers[_RIP] = address
        _ptrace(_SETREGS, self.pid, registers)

    def stores(self, shared: mmap.mmap, count: int) -> int:
        """Runs until the content of a shared file has changed that many times; says how often it did."""
        before = ctypes.create_string_buffer(shared[:], len(shared))
        content = (ctypes.c_char * len(shared)).from_buffer(shared)
        differs, size = ctypes.CDLL(None).memcmp, ctypes.c_size_t(len(shared))
        found = 0
        while found < count:
            for _ in range(32):
                self.step()
                # Compared where it is: a copy at each instruction would cost more than the step.
                if differs(content, before, size):
                    ctypes.memmove(before, content, len(shared))
                    found += 1
                    if found == count:
                        break
            if self.done:
                break
        return found

    def system_calls(self, count: int) -> bool:
        """Runs to the entry or exit of a system call, that many times; False when it was done before."""
        for _ in range(count):
            _ptrace(_SYSCALL, self.pid)
            self._wait(onward=_SYSCALL)
            if self.done:
                return False
        return True

    def kill(self) -> None:
        """Ends it where it stands."""
        os.kill(self.pid, signal.SIGKILL)
        while not os.WIFSIGNALED(os.waitpid(self.pid, _WALL)[1]):
            pass
        self.siege.kill(self.worker)


class Course:
    """What an operation went through: where our native code begins, and the steps from there to its end.

    Steps of a copy that repeats one instruction, or calls of others' code in between, are not points.
    """

    def __init__(self, tracee: Tracee, limit: int = 200_000) -> None:
        lines = Path(f"/proc/{tracee.pid}/maps").read_text().splitlines()
        ranges = [
            tuple(int(end, 16) for end in line.split()[0].split("-"))
            for line in lines
            if "_core" in line.rpartition("/")[2] and "isthmus" in line and " r-xp " in line
        ]
        assert ranges, "the native module is not mapped"
        first: int | None = None
        self.begin = 0
        self.points: list[int] = []
        previous = 0
        for number in range(limit):
            place = tracee.place()
            if place != previous and any(low <= place < high for low, high in ranges):
                if first is None:
                    first, self.begin = number, place
                self.points.append(number - first)
            previous = place
            if first is not None and number % 64 == 0 and tracee.done:
                break
            tracee.step()
        assert first is not None, "our native code was not met"
        assert tracee.done, f"the operation takes more than {limit} instructions"


@contextlib.contextmanager
def stepping(seed: int) -> Iterator[Siege]:
    """Starts the workers, all on one CPU with this process.

    Stepping is many times slower where one CPU has to be woken by another at each instruction.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with Siege(seed=seed) as found:
            yield found
    finally:
        os.sched_setaffinity(0, allowed)


def trace(siege: Siege, operation: str, name: str, prepare: str) -> Tracee:
    """A worker stopped before its operation; skips the test where the machine does not allow that."""
    try:
        return Tracee(siege, operation, name, prepare)
    except CannotTrace as reason:
        pytest.skip(f"no ptrace here: {reason}")


def at_each_store(
    siege: Siege,
    operation: str,
    prepare: str,
    before: Callable[[], None],
    after: Callable[[], None],
    *,
    then: Callable[[], None] = lambda: None,
    few: bool = False,
) -> None:
    """Kills it after each change of the shared file it makes, and at some instructions in between.

    `before` comes before its preparations, `then` after them. Of a copy, that changes the file a hundred
    times, only some of the changes are taken, and with `few` (many instructions between them) of others too.
    """
    with (Path(os.environ["ISTHMUS_NAMESPACE"]) / "stepped").open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)

    def run(stop: Callable[[Tracee], Found], where: str, attempts: int = 3) -> Found:
        before()
        tracee = trace(siege, operation, "stepped", prepare)
        then()
        try:
            found = stop(tracee)
        except RanOn as error:
            # Once in millions of steps, on a virtual machine: a step that is none. It came to its end.
            if not tracee.done or attempts == 1:
                raise
            print(f"{where} of {operation} once more: {error}")
            siege.kill(tracee.worker)
            after()
            return run(stop, where, attempts - 1)
        tracee.kill()
        try:
            after()
        except BaseException as error:
            error.add_note(f"killed at {where} of {operation}")
            raise
        return found

    def at_store(number: int) -> Callable[[Tracee], int]:
        def stop(tracee: Tracee) -> int:
            tracee.run_to(course.begin)
            return tracee.stores(shared, number)

        return stop

    def at_step(number: int) -> Callable[[Tracee], None]:
        def stop(tracee: Tracee) -> None:
            tracee.run_to(course.begin)
            tracee.step(number)

        return stop

    course = run(Course, "the end")
    stores = run(at_store(1 << 30), "the end")
    choose = random.Random(f"{SEED} {operation}")
    changes = list(range(1, stores + 1))
    if stores > 40 and not KILLS:
        changes = [*changes[:15], *sorted(choose.sample(changes[15:-15], 5)), *changes[-15:]]
    if few and not KILLS:
        changes = sorted(choose.sample(changes, 4))
    instructions = sorted(choose.sample(course.points, min(KILLS or (1 if few else 4), len(course.points))))
    print(
        f"{operation}: {len(changes)} of {stores} stores, {len(instructions)} of {len(course.points)} points"
    )
    for number in changes:
        run(at_store(number), f"store {number}")
    for number in instructions:
        run(at_step(number), f"instruction {number}")
    shared.close()


__all__ = ["CannotTrace", "Course", "Tracee", "at_each_store", "stepping", "trace"]
