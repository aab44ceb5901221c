"""`isthmus.aio`: many loops, loops that end, forks, thousands of tasks; nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import select
import signal
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from forms import LOOPS, begin
from isthmus import aio
from isthmus.aio import _driver
from queues import KIB, drain, idle, queue_of_bytes
from support import PATIENCE, Peer, run_python, wait_until

Start = Callable[..., Peer]


def bells(namespace: Path) -> set[str]:
    return {path.name for path in namespace.glob(".bell-*")}


def descriptors() -> int:
    gc.collect()  # what tests before have left
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def step(loop: asyncio.AbstractEventLoop) -> None:
    """One turn of a loop that does not run otherwise."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def rings(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a bell of this loop has rung and was not heard yet."""
    heard = [bell.fileno() for bell in _driver.Driver.of(loop)._bells]
    return bool(select.select(heard, [], [], 0)[0])


@contextlib.contextmanager
def loops(kind: str, count: int) -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Loops that this thread steps."""
    opened = [LOOPS[kind]() for _ in range(count)]
    yield opened
    for loop in opened:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        step(loop)
        step(loop)
        loop.close()


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes("q") as handle:
        yield handle


def waiting_in(loop: asyncio.AbstractEventLoop, q: isthmus.Queue[bytes]) -> asyncio.Task[bytes]:
    """A task of a loop that is stepped, waiting for a message."""
    before = q.stats().consumers_waiting
    task = loop.create_task(aio.Queue(q).get())
    while q.stats().consumers_waiting == before:
        step(loop)
    return task


# ------------------------------------------------------------------------------------------------ many loops


def test_many_loops_in_threads_share_a_handle(q: isthmus.Queue[bytes], namespace: Path) -> None:
    """And go: their cells in the object, their bells and descriptors are given back."""
    count = 20
    with loops("uvloop", 1) as (loop,):
        step(loop)  # makes what it keeps for ever
    before = descriptors()

    async def work() -> list[bytes]:
        wrapped = aio.Queue(q)
        got = await asyncio.gather(*(wrapped.get() for _ in range(10)))
        for message in got:
            await wrapped.put(message + b"!")
        return got

    for kind in (asyncio.SelectorEventLoop, LOOPS["uvloop"]):

        def run(kind: Any = kind) -> list[bytes]:
            with asyncio.Runner(loop_factory=kind) as runner:
                return runner.run(work())

        running = [begin(run) for _ in range(count)]
        wait_until(lambda: q.stats().consumers_waiting == 10 * count, "all to wait")
        assert len(bells(namespace)) >= count
        for number in range(10 * count):
            q.put(b"%d" % number)
        # What some put back others may have taken; in the end it is as many as there were.
        got = [message for each in running for message in each.result(PATIENCE)]
        left = drain(q)
        assert len(got) == len(left) == 10 * count
        assert {int(message.rstrip(b"!")) for message in left} == set(range(10 * count))
        assert idle(q)
    gc.collect()
    assert bells(namespace) == set()
    assert descriptors() == before


def test_a_loop_more_than_an_object_has_room_for_is_told_so(q: isthmus.Queue[bytes]) -> None:
    """256 cells: one is this process's, the others are loops'."""
    with loops("asyncio", 256) as opened:
        tasks = [waiting_in(loop, q) for loop in opened[:255]]
        with pytest.raises(isthmus.TooLarge) as caught:
            opened[255].run_until_complete(aio.Queue(q).get())
        assert caught.value.limit == 256
        assert q.stats().consumers_waiting == 255
        for _ in tasks:
            q.put(b"x")
        for loop, task in zip(opened, tasks, strict=False):
            while not task.done():
                step(loop)
        assert idle(q)
    # Closed loops give theirs back.
    with loops("asyncio", 1) as (loop,):
        task = waiting_in(loop, q)
        q.put(b"x")
        assert loop.run_until_complete(task) == b"x"


@pytest.mark.parametrize("kind", LOOPS)
def test_a_bell_that_rang_for_one_who_left_rings_the_next(q: isthmus.Queue[bytes], kind: str) -> None:
    with loops(kind, 3) as opened:
        for _ in range(6):
            tasks = {loop: waiting_in(loop, q) for loop in opened}
            q.put(b"x")
            (rung,) = [loop for loop in opened if rings(loop)]
            tasks[rung].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                rung.run_until_complete(tasks[rung])
            others = [loop for loop in opened if loop is not rung]
            (next_one,) = [loop for loop in others if rings(loop)]
            assert next_one.run_until_complete(tasks[next_one]) == b"x"
            assert idle(q)
            for loop in others:
                tasks[loop].cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    loop.run_until_complete(tasks[loop])


@pytest.mark.parametrize("kind", LOOPS)
def test_a_bell_that_rang_for_a_mutex_nobody_wants_any_more_rings_the_next(kind: str) -> None:
    with loops(kind, 3) as opened:
        mutex = isthmus.Mutex()
        wrapped = aio.Mutex(mutex)
        for _ in range(6):
            mutex.acquire()
            tasks = {loop: loop.create_task(wrapped.acquire()) for loop in opened}
            for loop in opened * 3:
                loop.run_until_complete(asyncio.sleep(0.002))
            mutex.release()
            (rung,) = [loop for loop in opened if rings(loop)]
            tasks[rung].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                rung.run_until_complete(tasks[rung])
            others = [loop for loop in opened if loop is not rung]
            (next_one,) = [loop for loop in others if rings(loop)]
            assert next_one.run_until_complete(tasks[next_one]) is True
            # Its task has ended: only it could give it back.
            mutex.close()
            mutex = isthmus.Mutex()
            wrapped = aio.Mutex(mutex)
            for loop in others:
                tasks[loop].cancel()
                with contextlib.suppress(asyncio.CancelledError, isthmus.ClosedError):
                    loop.run_until_complete(tasks[loop])
        mutex.close()


# ------------------------------------------------------------------------------------- closed and forgotten


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        # A loop of uvloop that watches anything is never collected before it is closed.
        ("asyncio", "forgotten"),
        *((kind, how) for kind in LOOPS for how in ("closed", "closed and kept")),
    ],
)
def test_a_loop_that_ends_with_waiters_keeps_nothing_from_others(
    q: isthmus.Queue[bytes], kind: str, how: str, namespace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "asyncio")  # it says that pending tasks were destroyed
    kept = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a loop that was not closed
        for _ in range(5):
            loop = LOOPS[kind]()
            waiting_in(loop, q)
            waiting_in(loop, q)
            gone = weakref.ref(loop)
            if how != "forgotten":
                loop.close()
            if how == "closed and kept":
                kept.append(loop)
            del loop
            gc.collect()
            assert (gone() is None) == (not kept)
    other = begin(q.get)
    with loops(kind, 1) as (loop,):
        third = waiting_in(loop, q)
        wait_until(lambda: q.stats().consumers_waiting >= 2, "them to wait")
        q.put_many([b"1", b"2"])
        got = [other.result(PATIENCE), loop.run_until_complete(third)]
        assert sorted(got) == [b"1", b"2"]
        assert len(bells(namespace)) == 1, "those of closed loops are gone"
    assert idle(q)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_thousand_loops_leave_nothing(q: isthmus.Queue[bytes], kind: str, namespace: Path) -> None:
    seen: list[weakref.ref[Any]] = []
    mutex = isthmus.Mutex("lock")

    async def main(number: int) -> None:
        seen.append(weakref.ref(asyncio.get_running_loop()))
        seen.append(weakref.ref(asyncio.current_task()))
        wrapped, lock = aio.Queue(q), aio.Mutex(mutex)
        waiting = asyncio.create_task(wrapped.get())
        seen.append(weakref.ref(waiting))
        await lock.acquire()
        await asyncio.sleep(0)
        # Whoever waits is rung, or comes in time, or is left waiting and cancelled with the loop.
        assert await lock.acquire(timeout=0.0001) is False
        if number % 3:
            q.put(b"x")
            assert await waiting == b"x"
        lock.release()

    def run(count: int) -> None:
        for number in range(count):
            with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
                runner.run(main(number))

    run(5)
    gc.collect()
    before, tasks = descriptors(), threads()
    run(1000)
    # Without the collector's help there is at most the last loop's.
    assert len(bells(namespace)) <= 1
    gc.collect()
    assert bells(namespace) == set()
    assert (descriptors(), threads()) == (before, tasks)
    assert [each() for each in seen if each() is not None] == []
    assert len(_driver._drivers) == 0
    assert q.stats().consumers_waiting == 0
    drain(q)
    mutex.close()


def test_no_thread_is_started(q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        before = threads(), threading.active_count()
        wrapped, mutex = aio.Queue(q), aio.Mutex()
        waiting = [asyncio.create_task(wrapped.get()) for _ in range(100)]
        await mutex.acquire()
        assert await mutex.acquire(timeout=0.01) is False
        mutex.release()
        await wrapped.put_many([b"x"] * 100)
        await asyncio.gather(*waiting)
        assert await wrapped.wait_readable(timeout=0.3) is False
        with pytest.raises(isthmus.Empty):
            await wrapped.lease(timeout=0.01)
        assert (threads(), threading.active_count()) == before
        mutex.close()

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ thousands


@pytest.mark.parametrize("kind", LOOPS)
def test_thousands_of_tasks_wait_for_one_queue(kind: str) -> None:
    count = 5000

    async def main() -> None:
        with isthmus.Queue(type=bytes) as q:
            wrapped = aio.Queue(q)
            waiting = [asyncio.create_task(wrapped.get()) for _ in range(count)]
            while q.stats().consumers_waiting < count:
                await asyncio.sleep(0.01)
            for task in waiting[::5]:
                task.cancel()
            await wrapped.put_many([b"%d" % number for number in range(count * 4 // 5)])
            got = await asyncio.gather(*waiting, return_exceptions=True)
            messages = [each for each in got if isinstance(each, bytes)]
            assert sorted(map(int, messages)) == list(range(count * 4 // 5))
            assert idle(q)

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())


@pytest.mark.parametrize("kind", LOOPS)
def test_thousands_of_tasks_wait_for_many_objects(kind: str, namespace: Path) -> None:
    many, each = 100, 20

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            queues = [
                stack.enter_context(isthmus.Queue(f"q{number}", type=bytes, capacity=64 * KIB))
                for number in range(many)
            ]
            mutexes = [isthmus.Mutex(f"m{number}") for number in range(many)]
            wrapped = [aio.Queue(q) for q in queues]
            locks = [aio.Mutex(mutex) for mutex in mutexes]
            before = descriptors()
            for lock in locks:
                await lock.acquire()
            counts: Counter[int] = Counter()

            async def hold(number: int) -> None:
                async with locks[number]:
                    counts[number] += 1

            waiting = [asyncio.create_task(q.get()) for q in wrapped for _ in range(each)]
            holding = [asyncio.create_task(hold(number)) for number in range(many) for _ in range(each)]
            while sum(q.stats().consumers_waiting for q in queues) < many * each:
                await asyncio.sleep(0.01)
            # One bell for all of them: a FIFO, and what a loop needs to watch it.
            assert len(bells(namespace)) == 1
            assert descriptors() <= before + 5
            for lock in locks:
                lock.release()
            for q in queues:
                q.put_many([b"x"] * each)
            assert await asyncio.gather(*waiting) == [b"x"] * many * each
            await asyncio.gather(*holding)
            assert counts == Counter(dict.fromkeys(range(many), each))
            for mutex in mutexes:
                mutex.close()

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())


# ------------------------------------------------------------------------------------------- fork and debug

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
