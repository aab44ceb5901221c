"""`isthmus.sysv`: System V objects of other programs are listed and removed."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from isthmus import sysv
from kernel_peers import SYSV
from programs import Program, compiled
from support import PATIENCE, process_state, wait_until


@pytest.fixture
def program() -> Iterator[Program]:
    """A C program that makes System V objects."""
    started = Program(compiled(SYSV))
    yield started
    started.reap()


_made: list[int] = []
"""Keys of what the test has made; nobody else's objects are touched."""


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Removes what a test has made and left."""
    yield
    for one in sysv.everything():
        if one.key in _made:
            one.remove()
    _made.clear()


def made(program: Program, command: str) -> tuple[int, int]:
    """Number and key of what the program makes."""
    key = random.randrange(1, 1 << 31)
    _made.append(key)
    program.send(command.format(key))
    return int(program.line()), key


def only(entries: list[Any], number: int) -> Any:
    (found,) = [entry for entry in entries if entry.id == number]
    return found


def test_a_queue_is_listed_with_what_is_inside_and_removed(program: Program) -> None:
    number, key = made(program, "queue {}")
    queue = only(sysv.queues(), number)
    assert (queue.key, queue.mode, queue.uid) == (key, 0o640, os.geteuid())
    assert (queue.depth, queue.bytes_in_use) == (1, 5)
    assert (queue.last_sender, queue.last_receiver) == (program.pid, 0)
    assert abs(queue.changed - time.time()) < PATIENCE
    assert abs(queue.last_used - time.time()) < PATIENCE
    queue.remove()
    assert number not in [one.id for one in sysv.queues()]
    with pytest.raises(FileNotFoundError, match=rf"queue .*number {number} and key {key:#010x}"):
        queue.remove()


def test_semaphores_are_listed_with_their_values_and_removed_under_a_waiter(program: Program) -> None:
    number, key = made(program, "semaphores {} 3")
    found = only(sysv.semaphores(), number)
    assert (found.key, found.mode, found.size, found.values) == (key, 0o600, 3, (3, 0, 7))
    assert found.last_used == 0.0
    program.send("sleep")
    program.expect("sleeping")
    wait_until(lambda: process_state(program.pid) == "S", "the program to sleep")
    found.remove()
    program.expect("-1")  # EIDRM: it does not sleep for ever
    assert number not in [one.id for one in sysv.semaphores()]
    with pytest.raises(FileNotFoundError, match="semaphores"):
        found.remove()


def test_a_segment_is_listed_with_its_users_and_goes_with_the_last(program: Program) -> None:
    number, key = made(program, "segment {} 5000")
    segment = only(sysv.segments(), number)
    assert (segment.key, segment.mode, segment.size, segment.attached) == (key, 0o604, 5000, 0)
    assert segment.creator == program.pid
    assert not segment.abandoned
    program.send("attach")
    program.expect("attached")
    segment = only(sysv.segments(), number)
    assert (segment.attached, segment.removed, segment.last_user) == (1, False, program.pid)
    segment.remove()
    segment = only(sysv.segments(), number)  # the program still uses it
    assert (segment.removed, segment.key, segment.attached) == (True, 0, 1)
    program.kill()
    wait_until(
        lambda: number not in [one.id for one in sysv.segments()], "the segment to go with the program"
    )


def test_what_a_killed_program_leaves_is_called_abandoned(program: Program) -> None:
    number, _ = made(program, "segment {} 4096")
    program.send("attach")
    program.expect("attached")
    program.stop()
    assert not only(sysv.segments(), number).abandoned
    program.kill()
    wait_until(lambda: only(sysv.segments(), number).attached == 0, "the kernel to detach it")
    left = only(sysv.segments(), number)
    assert left.abandoned
    left.remove()
    assert number not in [one.id for one in sysv.segments()]


@pytest.mark.parametrize(
    ("command", "listing"),
    [("queue {}", sysv.queues), ("semaphores {} 2", sysv.semaphores), ("segment {} 10", sysv.segments)],
)
def test_an_object_that_has_the_number_but_not_the_key_stays(
    program: Program, command: str, listing: Callable[[], list[Any]]
) -> None:
    number, key = made(program, command)
    entry = only(listing(), number)
    with pytest.raises(FileNotFoundError):
        entry._replace(key=key ^ 1).remove()
    assert only(listing(), number).key == key


def test_lists_are_sorted_and_show_all(program: Program) -> None:
    ids = [made(program, "queue {}")[0] for _ in range(5)]
    listed = [one.id for one in sysv.queues()]
    assert listed == sorted(listed)
    assert set(ids) <= set(listed)


def test_sysv_ipc_on_the_other_end() -> None:
    sysv_ipc: Any = pytest.importorskip("sysv_ipc", reason="of the extra [test]")
    queue = sysv_ipc.MessageQueue(None, sysv_ipc.IPC_CREX)
    queue.send(b"12345678", type=3)
    segment = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=4096)
    semaphore = sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, initial_value=6)
    assert only(sysv.queues(), queue.id).depth == 1
    assert only(sysv.semaphores(), semaphore.id).values == (6,)
    only(sysv.queues(), queue.id).remove()
    only(sysv.semaphores(), semaphore.id).remove()
    only(sysv.segments(), segment.id).remove()
    with pytest.raises(sysv_ipc.ExistentialError):
        queue.receive()
    with pytest.raises(sysv_ipc.ExistentialError):
        semaphore.acquire()
    segment.detach()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_another_users_object_is_refused_and_its_values_are_not_read(program: Program) -> None:
    number, _ = made(program, "semaphores {} 3")
    entry = only(sysv.semaphores(), number)
    pid = os.fork()
    if pid == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            entry.remove()
        except PermissionError as error:
            os._exit(0 if str(number) in str(error) and only(sysv.semaphores(), number).values is None else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert only(sysv.semaphores(), number) == entry


def test_a_kernel_without_system_v_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sysv, "_TABLES", tmp_path)
        for listing in (sysv.queues, sysv.semaphores, sysv.segments):
            with pytest.raises(isthmus.Unsupported, match="no System V objects"):
                listing()
