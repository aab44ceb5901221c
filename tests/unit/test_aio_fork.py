"""`isthmus.aio` in forked children, under Ctrl+C, without descriptors, and in debug mode."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus
from event_loops import bells, loops, rings, waiting_in
from forms import LOOPS, begin
from isthmus import aio
from queues import drain, idle, queue_of_bytes
from support import PATIENCE, Peer, run_python, wait_until

Start = Callable[..., Peer]


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes("q") as handle:
        yield handle


FORKS = """
import asyncio, os, sys, time, warnings
import isthmus
from isthmus import aio
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
"""


@pytest.mark.parametrize("kind", LOOPS)
def test_a_child_forked_beside_a_running_loop_has_a_loop_of_its_own(
    q: isthmus.Queue[bytes], kind: str
) -> None:
    factory = FACTORY[kind]
    run_python(
        FORKS
        + f"""
import uvloop
q, back, mutex = isthmus.Queue.open("q"), isthmus.Queue(type=bytes), isthmus.Mutex()

async def child(number):
    # Handles go on working; what the parent's tasks wait for and hold is theirs.
    got = await aio.Queue(q).get(timeout=20)
    await aio.Queue(back).put(b"%d:" % number + got)
    assert await aio.Mutex(mutex).acquire(timeout=0.1) is False

async def main():
    wrapped = aio.Queue(q)
    lock = aio.Mutex(mutex)
    async with lock:
        waiting = asyncio.create_task(aio.Queue(back).get())
        await asyncio.sleep(0.01)
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                try:
                    with asyncio.Runner(loop_factory={factory}) as runner:
                        runner.run(child(number))
                    os._exit(0)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
            children.append(pid)
        mine = asyncio.create_task(wrapped.get())
        for _ in range(4):
            q.put(b"x")
        got = {{await waiting, await aio.Queue(back).get(), await aio.Queue(back).get()}}
        assert got == {{b"0:x", b"1:x", b"2:x"}}, got
        assert await mine == b"x"
        for pid in children:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert mutex.locked()
        q.put(b"last")
        assert await wrapped.get() == b"last"

with asyncio.Runner(loop_factory={factory}) as runner:
    runner.run(main())
assert not mutex.locked()
"""
    )
    assert idle(q)


def test_in_a_forked_child_leaving_the_blocks_of_the_parent_does_nothing(q: isthmus.Queue[bytes]) -> None:
    q.put_many([b"leased", b"seen"])
    out = run_python(
        FORKS
        + """
q, mutex = isthmus.Queue.open("q"), isthmus.Mutex()

async def main():
    wrapped, lock = aio.Queue(q), aio.Mutex(mutex)
    async with lock, wrapped.lease() as job, wrapped.reserve(10):
        pid = os.fork()
        if pid == 0:
            return "child"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert mutex.owner() == os.getpid()
        assert (q.qsize(), q.stats().leased) == (1, 1)
    assert not mutex.locked()
    assert (q.qsize(), q.stats().leased) == (2, 0)
    return "parent"

loop = asyncio.new_event_loop()
who = loop.run_until_complete(main())
if who == "child":
    os._exit(0)
print(who)
loop.close()
"""
    )
    assert out == "parent\n"


def test_a_child_does_not_make_the_loop_of_a_killed_parent_look_alive(
    q: isthmus.Queue[bytes], spawn: Start, namespace: Path
) -> None:
    parent = spawn(
        FORKS
        + """
q = isthmus.Queue.open("q")

async def main():
    waiting = asyncio.create_task(aio.Queue(q).get())
    await asyncio.sleep(0.05)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    print(pid, flush=True)
    await waiting

asyncio.run(main())
"""
    )
    child = int(parent.line())
    try:
        with loops("asyncio", 1) as (loop,):
            task = waiting_in(loop, q)
            parent.kill()
            # Whichever comes first in turn, the dead one is passed over: no wake-up goes to it.
            for number in range(4):
                q.put(b"%d" % number)
                assert rings(loop)
                assert loop.run_until_complete(task) == b"%d" % number
                task = waiting_in(loop, q)
        isthmus.clean()
        assert len(bells(namespace)) == 1, "ours"
    finally:
        os.kill(child, 9)


FACTORY = {"asyncio": "asyncio.new_event_loop", "uvloop": "uvloop.new_event_loop"}


@pytest.mark.parametrize("kind", LOOPS)
def test_ctrl_c_ends_a_loop_that_waits(q: isthmus.Queue[bytes], spawn: Start, kind: str) -> None:
    peers = [
        spawn(
            f"""
            import asyncio, uvloop
            from isthmus import aio
            async def main():
                async with aio.Queue.open("q") as q:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(5):
                            group.create_task({call})
            with asyncio.Runner(loop_factory={FACTORY[kind]}) as runner:
                runner.run(main())
            """
        )
        for call in ("q.get()", "q.get(timeout=1000)", "q.wait_readable()")
    ]
    wait_until(lambda: q.stats().consumers_waiting == 15, "them to wait")
    for peer in peers:
        peer.interrupt()
    for peer in peers:
        code, _, errors = peer.end()
        assert code == -signal.SIGINT
        assert "KeyboardInterrupt" in errors
    q.put(b"x")
    assert drain(q) == [b"x"]
    assert idle(q)


def test_without_a_descriptor_for_a_bell_a_call_that_has_to_wait_says_so(
    q: isthmus.Queue[bytes], namespace: Path
) -> None:
    gc.collect()
    assert bells(namespace) == set()
    run_python("""
        import asyncio, errno, os, resource
        import isthmus
        from isthmus import aio
        async def main():
            async with aio.Queue.open("q", type=bytes) as q:
                await q.put(b"1")
                taken = []
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
                try:
                    while True:
                        taken.append(os.dup(0))
                except OSError:
                    pass
                assert await q.get() == b"1", "this need not wait"
                for call in (q.get, q.wait_readable, lambda: q.get(timeout=1)):
                    try:
                        await call()
                    except OSError as error:
                        assert error.errno == errno.EMFILE, error
                    else:
                        raise AssertionError("no error")
                assert q.stats().consumers_waiting == 0
                for fd in taken[-2:]:
                    os.close(fd)
                waiting = asyncio.create_task(q.get())
                await asyncio.sleep(0.01)
                await q.put(b"2")
                assert await waiting == b"2"
                # And with none left for ringing, a message is found after a slice.
                waiting = asyncio.create_task(q.get())
                await asyncio.sleep(0.01)
                try:
                    while True:
                        os.dup(0)
                except OSError:
                    pass
                q.sync.put(b"3")
                assert await waiting == b"3"
        asyncio.run(main())
    """)
    assert bells(namespace) == set()
    assert idle(q)


@pytest.mark.parametrize("kind", LOOPS)
def test_in_debug_mode_asyncio_has_nothing_to_say(
    q: isthmus.Queue[bytes], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 60
        wrapped, mutex = aio.Queue(q), aio.Mutex()

        async def work(number: int) -> None:
            for n in range(20):
                async with mutex:
                    await wrapped.put(b"%d %d" % (number, n))
                await asyncio.sleep(0)
                await wrapped.get()

        await asyncio.gather(*(work(number) for number in range(10)))
        waiting = asyncio.create_task(wrapped.get())
        await asyncio.sleep(0.01)
        putting = begin(lambda: q.put(b"x"))
        assert await waiting == b"x"
        putting.result(PATIENCE)
        assert await wrapped.wait_readable(timeout=0.3) is False
        mutex.close()

    with asyncio.Runner(debug=True, loop_factory=LOOPS[kind]) as runner:
        runner.run(main())
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
