"""`isthmus.aio`: many loops, loops that end, thousands of tasks; nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from event_loops import bells, descriptors, loops, rings, step, threads, waiting_in
from forms import LOOPS, begin
from isthmus import aio
from isthmus.aio import _driver
from queues import KIB, drain, idle, queue_of_bytes
from support import PATIENCE, Peer, wait_until

Start = Callable[..., Peer]


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes("q") as handle:
        yield handle


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
