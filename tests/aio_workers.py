"""Programs of many tasks that tests run in processes of their own: they cancel, are killed, or both.

What those who are killed have done stands in their journals (see `workers.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import isthmus
from forms import LOOPS
from isthmus import aio
from isthmus.aio import _driver
from workers import Journal, identify, message

SHORT = 0.0005
"""Seconds after which what is cancelled by time is cancelled, at most."""

Call = Callable[[], Coroutine[Any, Any, Any]]


def without_slices() -> None:
    """Whoever is not rung is never woken: a wake-up that is lost is a hang."""
    _driver.Driver._watch = lambda *_: None  # type: ignore[method-assign]


async def perhaps(choose: random.Random, call: Call) -> tuple[bool, Any]:
    """Awaits a call, which may be cancelled in one way or another: (True, value) or (False, error)."""
    match choose.randrange(6):
        case 0:
            return True, await call()
        case 1:
            task = asyncio.ensure_future(call())
            for _ in range(choose.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
        case 2:
            task = asyncio.ensure_future(call())
            await asyncio.sleep(choose.uniform(0, SHORT))
            task.cancel()
        case 3:
            try:
                return True, await asyncio.wait_for(call(), choose.uniform(0, SHORT))
            except isthmus.Timeout:
                raise
            except TimeoutError as late:
                return False, late.__cause__ or late
        case 4:
            try:
                async with asyncio.timeout(choose.uniform(0, SHORT)):
                    return True, await call()
            except isthmus.Timeout:
                raise
            except TimeoutError as late:
                return False, late.__cause__
        case _:
            task = asyncio.ensure_future(call())
            asyncio.get_running_loop().call_later(choose.uniform(0, SHORT), task.cancel)
    try:
        return True, await task
    except asyncio.CancelledError as cancelled:
        return False, cancelled


async def put_in_part(choose: random.Random, q: Any, batch: list[bytes]) -> int:
    """Puts a batch, perhaps a part of it: how many of it are in, as the call says."""
    way = choose.randrange(4)
    if way == 0:
        ok, value = await perhaps(choose, lambda: q.put_many(batch))
        # Cancelled before its first step, it says nothing.
        return int(value if ok else getattr(value, "sent", 0))
    if way == 1:
        try:
            return int(await q.put_many(batch, timeout=choose.uniform(0, SHORT)))
        except isthmus.Full as full:
            return full.sent
    if way == 2:
        ok, _ = await perhaps(choose, lambda: _reserved(q, batch[0]))
        return int(ok)
    ok, _ = await perhaps(choose, lambda: q.put(batch[0]))
    return int(ok)


async def _reserved(q: Any, message: bytes) -> None:
    async with q.reserve(len(message)) as block:
        block[:] = message


async def produce_and_cancel(q: Any, number: int, count: int, seed: str) -> int:
    """Puts `count` messages, each once, and cancels much of that; how often."""
    choose = random.Random(seed)
    sequence = cancelled = 0
    while sequence < count:
        batch = [
            message(number, sequence + k, choose.choice([24, 64, 3000, 5000]))
            for k in range(min(choose.choice([1, 1, 5]), count - sequence))
        ]
        sent = await put_in_part(choose, q, batch)
        cancelled += sent == 0
        sequence += sent
        if choose.randrange(10) == 0:
            await asyncio.sleep(0)
    return cancelled


async def take_some(choose: random.Random, q: Any) -> list[int]:
    """Takes messages in one way or another, perhaps cancelled; which it has got."""
    match choose.randrange(5):
        case 0:
            ok, value = await perhaps(choose, q.get)
            return [_number(value)] if ok else []
        case 1:
            ok, value = await perhaps(choose, lambda: q.get_many(4))
            return [_number(each) for each in value] if ok else []
        case 2:
            ok, view = await perhaps(choose, q.get_view)
            if not ok:
                return []
            with view:
                return [_number(bytes(view))]
        case 3:
            with contextlib.suppress(isthmus.Empty):
                return [_number(await q.get(timeout=choose.uniform(0, SHORT)))]
            return []
        case _:
            ok, job = await perhaps(choose, lambda: _await(q.lease()))
            if not ok:
                return []
            if job.delivery_count < 5 and choose.randrange(2):
                if choose.randrange(2):
                    job.nack()
                return []  # dropped where it was not given back
            await asyncio.sleep(0)
            job.ack()
            return [_number(job.message)]


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _number(got: bytes) -> int:
    producer, sequence = identify(got)
    return producer << 40 | sequence


async def consume_and_cancel(q: Any, seed: str) -> list[int]:
    """Takes messages to the end, and cancels much of that."""
    choose = random.Random(seed)
    got: list[int] = []
    while True:
        try:
            got += await take_some(choose, q)
        except isthmus.ShutDown:
            return got


def cancel_under_load(role: str, kind: str, seed: str, number: str, tasks: str, count: str) -> None:
    """One process of many tasks; prints what came of it."""
    without_slices()

    async def main() -> Any:
        q = aio.Queue.open("q", type=bytes)
        if role == "produce":
            first = int(number) * int(tasks)
            working = [
                produce_and_cancel(q, first + n, int(count), f"{seed} {first + n}") for n in range(int(tasks))
            ]
            result: Any = sum(await asyncio.gather(*working))
        else:
            taking = [consume_and_cancel(q, f"{seed} {number} {n} takes") for n in range(int(tasks))]
            result = await asyncio.gather(*taking)
        q.close()
        return result

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        print(json.dumps(runner.run(main())), flush=True)


LOCKS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "Mutex": (lambda: aio.Mutex.open("lock"), lambda lock: lock),
    "RLock": (lambda: aio.RLock.open("lock"), lambda lock: lock),
    "Semaphore": (lambda: aio.Semaphore.open("lock"), lambda lock: lock),
    "BoundedSemaphore": (lambda: aio.BoundedSemaphore.open("lock"), lambda lock: lock),
    "RWLock": (lambda: aio.RWLock.open("lock"), lambda lock: lock.write),
}
"""Opens a lock, and what of it is entered."""


def count_under_lock(which: str, kind: str, seed: str, tasks: str, turns: str) -> None:
    """Adds to a value under a lock, step by step, and cancels much of that; prints how often it did."""
    without_slices()

    async def main() -> int:
        handle, value = LOCKS[which][0](), isthmus.Value.open("sum")
        lock = LOCKS[which][1](handle)
        added = 0

        async def add(choose: random.Random) -> None:
            nonlocal added
            async with lock:
                before = value.get()
                for _ in range(choose.randrange(3)):
                    await asyncio.sleep(0)
                value.set(before + 1)
                added += 1

        async def work(n: int) -> None:
            choose = random.Random(f"{seed} {n}")
            for _ in range(int(turns)):
                await perhaps(choose, lambda: add(choose))

        await asyncio.gather(*(work(n) for n in range(int(tasks))))
        handle.close()
        value.close()
        return added

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        print(runner.run(main()), flush=True)


# --------------------------------------------------------------------------------- for those who are killed


def aio_produce(journal: str, queue: str, number: int, kind: str, tasks: int) -> None:
    """Puts messages, with several tasks, until told to stop; `started` and `done` count those of its own.

    The tasks take turns at one sequence, so that one message at most was begun and not done at its death.
    """
    words = Journal(journal).words

    async def main() -> None:
        q = aio.Queue.open(queue, type=bytes)
        words[Journal.ATTACHED] = 1
        choose = random.Random(number)
        sequence = 0
        turn = asyncio.Lock()

        async def work() -> None:
            nonlocal sequence
            while not words[Journal.STOP]:
                async with turn:
                    words[Journal.STARTED] = sequence + 1
                    try:
                        await q.put(
                            message(number, sequence, choose.choice([24, 64, 3000, 5000])), timeout=0.5
                        )
                    except isthmus.Full:
                        continue
                    sequence += 1
                    words[Journal.DONE] = sequence

        await asyncio.gather(*(work() for _ in range(tasks)))
        words[Journal.STARTED] = sequence
        q.close()

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())


def aio_consume(journal: str, queue: str, kind: str, tasks: int, way: str) -> None:
    """Gets messages, with several tasks, until told to stop and none is left; logs what it is done with."""
    words = Journal(journal).words

    async def main() -> None:
        q = aio.Queue.open(queue, type=bytes)
        words[Journal.ATTACHED] = 1
        end = len(words) - Journal.LOG

        def log(got: bytes) -> None:
            count = words[Journal.DONE]
            if count == end:
                raise AssertionError("the journal is too short for this test")
            words[Journal.LOG + count] = _number(got)
            words[Journal.DONE] = count + 1

        async def work() -> None:
            while True:
                stop = words[Journal.STOP]
                try:
                    if way == "lease":
                        job = await q.lease(timeout=0.2)
                        await asyncio.sleep(0)
                        log(job.message)
                        job.ack()
                    else:
                        log(await q.get(timeout=0.2))
                except isthmus.Empty:
                    if stop:
                        return

        await asyncio.gather(*(work() for _ in range(tasks)))
        q.close()

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())


def aio_take_turns(journal: str, mutex: str, shared: str, kind: str, tasks: int, number: int) -> None:
    """Takes a mutex with several tasks; inside it changes what only the mutex keeps consistent.

    Words of `shared`: 0 and 1 are equal outside the critical section.
    """
    words = Journal(journal).words
    state = Journal(shared).words

    async def main() -> None:
        lock = aio.Mutex.open(mutex)
        words[Journal.ATTACHED] = 1
        choose = random.Random(number)

        async def inside(*, repair: bool) -> None:
            if state[0] != state[1]:
                if not repair:
                    raise AssertionError(f"inconsistent ({state[0]}, {state[1]}) without a word of warning")
                state[1] = state[0]
            state[0] += 1
            for _ in range(choose.choice([0, 0, 1, 3])):
                await asyncio.sleep(0)
            state[1] += 1
            if state[0] != state[1]:
                raise AssertionError(f"somebody else was inside: ({state[0]}, {state[1]})")
            words[Journal.DONE] += 1

        async def work() -> None:
            while not words[Journal.STOP]:
                try:
                    if not await lock.acquire(timeout=choose.choice([None, 0.001, 0.5])):
                        continue
                except isthmus.OwnerDied:
                    with contextlib.suppress(isthmus.Timeout):
                        async with lock.recover(timeout=0.5) as death:
                            await inside(repair=death is not None)
                    continue
                await inside(repair=False)
                lock.release()

        await asyncio.gather(*(work() for _ in range(tasks)))
        lock.close()

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())


def aio_wait(journal: str, queue: str, kind: str, tasks: int) -> None:
    """Waits for what never comes, until it is killed."""
    words = Journal(journal).words

    async def main() -> None:
        q = aio.Queue.open(queue, type=bytes)
        waiting = [asyncio.ensure_future(q.get()) for _ in range(tasks)]
        await asyncio.sleep(0.01)
        words[Journal.ATTACHED] = 1
        await asyncio.gather(*waiting)

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
