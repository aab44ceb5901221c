"""What waiting in event loops costs others: no system call where nobody waits so, one ring where one does.

Shown by the kernel: a seccomp(2) filter ends the process at any system call but the few it allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

import pytest

import isthmus
from forms import LOOPS
from isthmus import aio
from queues import KIB, drain, fill, queue_of_bytes
from support import Peer

Start = Callable[..., Peer]

SILENTLY = """
import asyncio, ctypes, gc, os, struct, sys
import isthmus
from isthmus import aio

def forbid():
    # read, write, exit_group; clock_gettime, which no process of its own kernel page needs; getpid, which
    # asyncio asks for at each look at its task before Python 3.12.
    allowed = {"x86_64": (0, 1, 231, 228, 39), "aarch64": (63, 64, 94, 113, 172)}[os.uname().machine]
    code = [(0x20, 0, 0, 0)]  # load the number
    for left, number in zip(range(len(allowed), 0, -1), allowed):
        code.append((0x15, left, 0, number))  # equal: jump to the last one
    code += [(0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)]  # kill the process; allow
    program = b"".join(struct.pack("HBBI", *each) for each in code)
    buffer = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, ctypes.get_errno()
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0) == 0, ctypes.get_errno()

q = isthmus.Queue.open("q")
w = aio.Queue(q)
m = isthmus.Mutex("m")
lock = aio.Mutex(m)

def drive(coroutine):
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return end.value

def pair():
    q.put(b"x", timeout=0)
    q.get(timeout=0)

def batch():
    q.put_many([b"x"] * 3, timeout=0)
    q.get_many(3, timeout=0)

def lease():
    q.put(b"x", timeout=0)
    q.lease(timeout=0).ack()

def large():
    q.put(bytes(5000), timeout=0)
    q.get(timeout=0)

def mutex():
    m.acquire()
    m.release()

def task_pair():
    drive(w.put(b"x"))
    drive(w.get())

def task_batch():
    drive(w.put_many([b"x"] * 3))
    drive(w.get_many(3))

async def hold():
    async with lock:
        pass

def task_mutex():
    drive(hold())

async def main():
    work, warm = globals()[sys.argv[1]], int(sys.argv[2])
    for _ in range(warm):
        work()
    gc.collect()
    gc.disable()
    forbid()
    for _ in range(20):
        work()
    os.write(1, b"silent" + os.linesep.encode())
    os._exit(0)

asyncio.run(main())
"""

WORK = ["pair", "batch", "lease", "large", "mutex", "task_pair", "task_batch", "task_mutex"]


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes("q", capacity=64 * KIB) as handle:
        yield handle


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs only when told."""
    loop = LOOPS[request.param]()
    yield loop
    if not loop.is_closed():
        for task in asyncio.all_tasks(loop):
            task.cancel()
        step(loop)
        step(loop)
        loop.close()


def step(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def silent(spawn: Start, work: str, warm: int = 256) -> bool:
    """Whether a process does this without a system call, having done it `warm` times."""
    peer = spawn(SILENTLY, work, warm)
    with contextlib.suppress(AssertionError):
        return peer.line() == "silent"
    code, _, errors = peer.end()
    assert (code, errors) == (-signal.SIGSYS, "")
    return False


@pytest.mark.parametrize("work", WORK)
def test_where_nobody_waits_there_is_no_system_call(spawn: Start, q: isthmus.Queue[bytes], work: str) -> None:
    assert silent(spawn, work)


@pytest.mark.parametrize("how", ["message", "cancelled", "time out", "closed loop"])
def test_those_who_have_waited_leave_no_cost_behind(
    spawn: Start, q: isthmus.Queue[bytes], loop: asyncio.AbstractEventLoop, how: str
) -> None:
    tasks = [loop.create_task(aio.Queue(q).get(0.05 if how == "time out" else None)) for _ in range(5)]
    while q.stats().consumers_waiting < 5:
        step(loop)
    match how:
        case "message":
            q.put_many([b"x"] * 5)
        case "time out":
            pass
        case _:
            for task in tasks:
                task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    if how == "closed loop":
        loop.close()
    assert q.stats().consumers_waiting == 0
    assert silent(spawn, "pair")
    assert silent(spawn, "task_pair")


def test_those_who_have_waited_for_room_leave_no_cost_behind(
    spawn: Start, q: isthmus.Queue[bytes], loop: asyncio.AbstractEventLoop
) -> None:
    fill(q, 4000)
    tasks = [loop.create_task(aio.Queue(q).put(bytes(4000))) for _ in range(3)]
    while q.stats().producers_waiting < 3:
        step(loop)
    tasks[0].cancel()
    drain(q)
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    drain(q)
    assert silent(spawn, "pair")
    assert silent(spawn, "large")


def test_who_waits_for_something_else_costs_nothing(
    spawn: Start, q: isthmus.Queue[bytes], loop: asyncio.AbstractEventLoop
) -> None:
    with queue_of_bytes("other") as other:
        loop.create_task(aio.Queue(other).get())
        while not other.stats().consumers_waiting:
            step(loop)
        for work in WORK:
            assert silent(spawn, work), work


@pytest.mark.parametrize("tasks", [1, 200])
def test_a_loop_that_waits_is_rung_once_until_it_has_looked(
    spawn: Start, q: isthmus.Queue[bytes], loop: asyncio.AbstractEventLoop, tasks: int
) -> None:
    for _ in range(tasks):
        loop.create_task(aio.Queue(q).get())
    while q.stats().consumers_waiting < tasks:
        step(loop)
    for work in ("pair", "task_pair"):
        # It does not run: the first message rings, and no other does.
        assert silent(spawn, work, 1)
        step(loop)
        step(loop)
    # It has looked and waits again. To ring takes more than writing.
    assert q.stats().consumers_waiting == tasks
    assert not silent(spawn, "pair", 0)
    drain(q)
