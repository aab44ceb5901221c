"""`isthmus.aio`: what only asyncio has. What it has in common with the sync classes is in tests/contract."""

from __future__ import annotations

import asyncio
import gc
import pickle
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

import isthmus
from forms import LOOPS
from isthmus import aio
from queues import KIB, MIB, drain, fill, idle, pattern

Value = TypeVar("Value")
Run = Callable[[Awaitable[Any]], Any]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """`run(coroutine)` on a loop of each kind."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner.run  # type: ignore[misc]


async def settled() -> None:
    """Lets every other task come to where it waits."""
    for _ in range(20):
        await asyncio.sleep(0.001)


async def many_waiting(q: Any, count: int) -> None:
    while q.stats().consumers_waiting + q.stats().producers_waiting != count:
        await asyncio.sleep(0.001)


# ------------------------------------------------------------------------------------------ making, wrapping


def test_a_handle_is_wrapped_and_goes_on_being_used(run: Run, q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        wrapped = aio.Queue(q)
        assert wrapped.sync is q
        await wrapped.put(b"1")
        assert q.get(timeout=0) == b"1"
        waiting = asyncio.create_task(wrapped.get())
        await many_waiting(q, 1)
        q.put(b"2")
        assert await waiting == b"2"
        again = aio.Queue(q)
        await again.put(b"3")
        assert await wrapped.get() == b"3"

    run(main())
    q.put(b"still open")
    assert q.get() == b"still open"


def test_attributes_are_not_for_wrapping(q: isthmus.Queue[bytes]) -> None:
    with pytest.raises(TypeError, match="priorities"):
        aio.Queue(q, priorities=2)  # type: ignore[call-overload]
    mutex = isthmus.Mutex()
    with pytest.raises(TypeError, match="on_owner_died"):
        aio.Mutex(mutex, on_owner_died="recover")
    mutex.close()


def test_what_never_waits_needs_no_loop(namespace: object) -> None:
    q = aio.Queue("jobs", type=bytes, capacity=MIB, priorities=2)
    assert (q.name, q.type, q.priorities, q.qsize(), q.empty(), q.closed) == (
        "jobs",
        bytes,
        2,
        0,
        True,
        False,
    )
    assert repr(q) == "<isthmus.aio.Queue 'jobs'>"
    q.close()
    assert repr(q) == "<isthmus.aio.Queue 'jobs' (closed)>"
    mutex = aio.Mutex()
    assert (mutex.name, mutex.locked(), mutex.owner()) == (None, False, None)
    assert repr(mutex) == "<isthmus.aio.Mutex anonymous>"
    mutex.close()


def test_async_with_closes_a_queue_and_holds_a_mutex(run: Run) -> None:
    async def main() -> None:
        async with aio.Queue(type=bytes) as q:
            await q.put(b"x")
            assert await q.get() == b"x"
        assert q.closed
        with pytest.raises(isthmus.ClosedError):
            async with q:
                pass
        mutex = aio.Mutex()
        async with mutex:
            assert mutex.locked()
        assert not mutex.locked()
        mutex.close()

    run(main())


def test_locks_are_for_tasks() -> None:
    mutex = aio.Mutex()
    acquiring = mutex.acquire()
    with pytest.raises(RuntimeError, match=r"no running event loop|in a task"):
        acquiring.send(None)
    assert not mutex.locked()
    mutex.close()


# ------------------------------------------------------------------------------------------------ iterating


def test_async_for_takes_messages_to_the_end(run: Run, q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        wrapped = aio.Queue(q)

        async def consume() -> list[bytes]:
            return [message async for message in wrapped]

        consumers = [asyncio.create_task(consume()) for _ in range(3)]
        for number in range(100):
            await wrapped.put(b"%d" % number)
            if number % 10 == 0:
                await asyncio.sleep(0)
        await wrapped.shutdown()
        got = await asyncio.gather(*consumers)
        assert sorted(int(each) for some in got for each in some) == list(range(100))

    run(main())


def test_iterating_over_leases_and_views_may_stop_early(run: Run, q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        wrapped = aio.Queue(q)
        await wrapped.put_many([pattern(9000, salt) for salt in range(6)])
        async for job in wrapped.leases():
            with job:
                assert job.message == pattern(9000)
            break
        async for view in wrapped.views():
            assert bytes(view) == pattern(9000, 1)
            view.release()
            break
        leasing = wrapped.leases()
        job = await anext(leasing)
        await leasing.aclose()  # type: ignore[attr-defined]
        job.nack()
        async with wrapped.lease() as job:
            assert (job.message, job.delivery_count) == (pattern(9000, 2), 2)
        assert drain(q) == [pattern(9000, salt) for salt in (3, 4, 5)]

    run(main())
    gc.collect()
    assert idle(q)


def test_a_lease_that_is_awaited_and_one_that_is_entered(run: Run, q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        wrapped = aio.Queue(q)
        await wrapped.put_many([b"1", b"2"])
        job = await wrapped.lease()
        job.ack()
        with pytest.raises(KeyError):
            async with wrapped.lease() as job:
                raise KeyError
        async with wrapped.lease() as job:
            assert job.delivery_count == 2
        assert idle(q)

    run(main())


# --------------------------------------------------------------------------------------------- cancellation


def test_a_cancelled_wait_takes_nothing_and_leaves_nothing(run: Run, q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        wrapped = aio.Queue(q)
        takes: list[Callable[[], Any]] = [wrapped.get, wrapped.get_view, wrapped.wait_readable]
        takes.append(lambda: wrapped.get_many(3))
        for take in takes:
            waiting: asyncio.Future[Any] = asyncio.ensure_future(take())
            await many_waiting(q, 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert q.stats().consumers_waiting == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await take()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(take(), 0.005)
        q.put(b"x")
        assert await wrapped.get() == b"x"

    run(main())


def test_a_cancelled_put_many_says_how_many_are_in(run: Run) -> None:
    async def main() -> None:
        with isthmus.Queue(type=bytes, capacity=64 * KIB) as q:
            messages = [bytes([number]) * 4000 for number in range(100)]
            putting = asyncio.create_task(aio.Queue(q).put_many(messages))
            await many_waiting(q, 1)
            putting.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await putting
            got = drain(q)
            assert 0 < caught.value.sent == len(got)  # type: ignore[attr-defined]
            assert got == messages[: len(got)]
            with pytest.raises(TimeoutError) as late:
                async with asyncio.timeout(0.01):
                    await aio.Queue(q).put_many(messages)
            assert late.value.__cause__.sent == len(drain(q))  # type: ignore[union-attr]

    run(main())


def test_a_cancelled_put_until_done_leaves_the_message(run: Run, q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        putting = asyncio.create_task(aio.Queue(q).put(b"x", until="done"))
        while q.empty():
            await asyncio.sleep(0)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert drain(q) == [b"x"]

    run(main())


def test_a_reservation_whose_put_is_cancelled_gives_its_memory_back(run: Run) -> None:
    async def main() -> None:
        with isthmus.Queue(type=bytes, capacity=64 * KIB) as q:
            fill(q, 4000)

            async def work() -> None:
                async with aio.Queue(q).reserve(5000) as block:
                    block[:1] = b"x"
                    started.set()

            started = asyncio.Event()
            working = asyncio.create_task(work())
            await started.wait()
            await settled()
            # The ring is full of small messages; what is left decides whether it waits or is in already.
            if not working.done():
                working.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await working
            drain(q)
            assert idle(q)

    run(main())


def test_a_wake_up_for_one_who_was_cancelled_at_that_moment_goes_to_the_next(
    run: Run, q: isthmus.Queue[bytes]
) -> None:
    async def main() -> None:
        wrapped = aio.Queue(q)
        for first in range(3):
            waiting = [asyncio.create_task(wrapped.get()) for _ in range(3)]
            await many_waiting(q, 3)
            q.put(b"x")
            # Rung, not heard yet; or heard, and the task has not run yet.
            for _ in range(first):
                await asyncio.sleep(0)
            victim = next(task for task in waiting if not task.done())
            victim.cancel()
            left = [task for task in waiting if task is not victim]
            await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            q.put_many([b"y", b"z"])
            await asyncio.wait(waiting)
            assert len(drain(q)) + sum(not task.cancelled() for task in waiting) == 3

    run(main())


# ------------------------------------------------------------------------------------------------- fairness


def test_one_who_never_has_to_wait_lets_others_run(run: Run, q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        wrapped = aio.Queue(q)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        mutex = aio.Mutex()

        async def lock() -> None:
            for _ in range(1000):
                async with mutex:
                    pass

        async def put() -> None:
            for _ in range(1000):
                await wrapped.put(b"x")

        async def get() -> None:
            for _ in range(900):
                await wrapped.get()

        async def iterate() -> None:
            async for _ in wrapped:
                pass

        ticking = asyncio.create_task(tick())
        for work in (put, get, lock, put, iterate):
            before = ticks
            if work is iterate:
                q.shutdown()
            await work()
            assert ticks - before >= 900 // 64
        ticking.cancel()
        mutex.close()

    run(main())


def test_one_who_gives_a_mutex_back_and_wants_it_again_is_not_the_only_one_to_get_it(run: Run) -> None:
    async def main() -> None:
        mutex = aio.Mutex()
        turns = [0] * 4

        async def work(number: int) -> None:
            while max(turns) < 50:
                async with mutex:
                    turns[number] += 1
                    await asyncio.sleep(0)

        await asyncio.gather(*(work(number) for number in range(4)))
        assert min(turns) >= 48
        mutex.close()

    run(main())


def test_those_who_wait_are_served_in_the_order_they_came(run: Run, q: isthmus.Queue[bytes]) -> None:
    async def main() -> None:
        wrapped = aio.Queue(q)
        served: list[int] = []

        async def work(number: int) -> None:
            await wrapped.get()
            served.append(number)

        waiting = []
        for number in range(20):
            waiting.append(asyncio.create_task(work(number)))
            await many_waiting(q, number + 1)
        q.put_many([b"x"] * 10)
        while len(served) < 10:
            await asyncio.sleep(0)
        for _ in range(10):
            q.put(b"x")
        await asyncio.gather(*waiting)
        assert served == list(range(20))

    run(main())


# ------------------------------------------------------------------------------------------------ the rest


def test_a_task_that_has_ended_is_forgotten(run: Run) -> None:
    async def main() -> None:
        mutex = aio.Mutex()

        async def work() -> None:
            async with mutex:
                pass

        task = asyncio.create_task(work())
        await task
        gone = weakref.ref(task)
        del task
        await settled()
        gc.collect()
        assert gone() is None
        mutex.close()

    run(main())


def test_a_mutex_whose_task_ended_stays_held(run: Run) -> None:
    async def main() -> None:
        mutex = aio.Mutex()
        await asyncio.create_task(mutex.acquire())
        assert mutex.locked()
        assert await mutex.acquire(timeout=0.01) is False
        with pytest.raises(isthmus.NotOwnerError):
            mutex.release()
        mutex.close()

    run(main())


def test_a_queue_wrapped_or_not_goes_to_other_processes_as_the_handle_inside() -> None:
    with isthmus.Queue("jobs", type=bytes) as q:
        there = pickle.loads(pickle.dumps(aio.Queue(q)))
        assert isinstance(there, aio.Queue)
        q.put(b"x")
        assert there.sync.get(timeout=0) == b"x"
        there.close()


def test_waiting_for_several_things_at_once(run: Run, q: isthmus.Queue[bytes]) -> None:
    """What is cancelled as the loser of a race loses nothing."""

    async def main() -> None:
        wrapped = aio.Queue(q)
        with isthmus.Queue(type=bytes) as other:
            got = []
            for number in range(50):
                tasks = [asyncio.create_task(wrapped.get()), asyncio.create_task(aio.Queue(other).get())]
                await asyncio.sleep(0)
                (q if number % 2 else other).put(b"%d" % number)
                done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
                got += [int(task.result()) for task in done]
            assert got == list(range(50))

    run(main())
