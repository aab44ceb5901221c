"""Cancellation at every await: nothing is lost, nothing is held, nobody sleeps beside what is there.

Nothing here depends on time: loops turn only when told, and their slices are switched off, so a wake-up that
is lost stays lost and the test sees a waiter that never ends. Under load: `test_aio_cancel_load.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import isthmus
from cancelling import At, When, World, world
from forms import LOOPS
from isthmus import aio
from isthmus._errors import WouldBlock
from isthmus.aio import _driver
from queues import KIB, drain, fill, idle, queue_of_bytes

Outcome = tuple[bool, Any]
Call = Callable[[], Coroutine[Any, Any, Any]]

SIZE = 4000
LARGE = 5000
TURNS = 7
"""Turns of a loop after which a call that can go on has gone on."""


async def uncancelled(call: Coroutine[Any, Any, Any]) -> Outcome:
    try:
        return True, await call
    except asyncio.CancelledError as cancelled:
        return False, cancelled


class Plan:
    """When the victim is cancelled: at its k-th await, or some turns after what it waits for has come."""

    def __init__(self, when: When | str, k: int) -> None:
        self.when = when
        self.k = k
        self.at: At | None = None

    def begin(self, world: World, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Outcome]:
        if self.when == "later":
            return world.start(0, uncancelled(call))
        self.at = At(call, self.k, self.when)  # type: ignore[arg-type]

        async def run(at: At) -> Outcome:
            return await at

        return world.start(0, run(self.at))

    def carry_out(self, world: World, victim: asyncio.Task[Outcome]) -> None:
        """What it waits for has come."""
        if self.when == "later":
            for _ in range(self.k):
                world.turn(0)
            victim.cancel()

    @property
    def missed(self) -> bool:
        """It has ended before."""
        return self.at is not None and self.at.awaits < self.k

    def __repr__(self) -> str:
        return f"{self.when} {self.k}"


def plans() -> Iterator[Plan]:
    """Every await, asleep and woken, until there is none any more; every turn after."""
    for when in ("asleep", "woken"):
        for k in range(1, 20):
            plan = Plan(when, k)
            yield plan
            if plan.missed:
                break
    for k in range(TURNS):
        yield Plan("later", k)


def result(task: asyncio.Task[Outcome]) -> Outcome:
    assert task.done(), "a wake-up was lost: it waits beside what is there"
    return task.result()


def three(world: World, plan: Plan, call: Call, *, spins: bool) -> list[asyncio.Task[Outcome]]:
    """The victim, a rival in its loop, one in another."""
    tasks = [plan.begin(world, call())]
    tasks += [world.start(number, uncancelled(call())) for number in (0, 1)]
    for _ in range(3):
        world.turn(0)
        world.turn(1)
    if spins:
        world.no_spin()
        for _ in range(3):
            world.turn(0)
            world.turn(1)
    return tasks


every = pytest.mark.parametrize("kind", LOOPS)
spinning = pytest.mark.parametrize("spins", [False, True], ids=["sleeps", "spins"])


def counted(kind: str, spins: bool, one: Callable[[World, Plan], None]) -> None:
    """Carries out every plan."""
    count = 0
    for plan in plans():
        with world(kind, spins=spins) as made:
            try:
                one(made, plan)
            except BaseException as error:
                error.add_note(f"cancelled: {plan}")
                raise
        count += 1
    assert count >= TURNS + 4, "there was nothing to cancel"


# ----------------------------------------------------------------------------------------------------- taking


async def _in_time(q: Any) -> Any:
    async with asyncio.timeout(1000):
        return await q.get()


async def _entered(q: Any) -> Any:
    async with q.lease() as job:
        return job.message


TAKES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], int]]] = {
    "get": (aio.Queue.get, lambda _: 1),
    "get with a timeout": (lambda q: q.get(1000), lambda _: 1),
    "get_many": (lambda q: q.get_many(1), len),
    "get_view": (aio.Queue.get_view, lambda _: 1),
    "lease": (aio.Queue.lease, lambda job: 1 + (job.ack() or 0)),
    "async for": (aio.Queue.__anext__, lambda _: 1),
    "leases": (lambda q: anext(q.leases()), lambda job: 1 + (job.ack() or 0)),
    "views": (lambda q: anext(q.views()), lambda _: 1),
    "wait_for": (lambda q: asyncio.wait_for(q.get(), 1000), lambda _: 1),
    "timeout": (_in_time, lambda _: 1),
    "entered": (_entered, lambda _: 1),
}


async def _await(awaitable: Any) -> Any:
    return await awaitable


@every
@spinning
@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("take", TAKES)
def test_a_cancelled_take_has_taken_nothing(kind: str, spins: bool, take: str, size: int) -> None:
    call, count = TAKES[take]
    with queue_of_bytes() as q:

        def one(world: World, plan: Plan) -> None:
            tasks = three(world, plan, lambda: _await(call(aio.Queue(q))), spins=spins)
            q.put_many([bytes(size)] * 2)
            plan.carry_out(world, tasks[0])
            world.settle()
            done = [result(task) for task in tasks if task.done()]
            taken = sum(count(value) for ok, value in done if ok)
            del done
            # Both messages are with those who were not cancelled: none is inside beside somebody who waits.
            assert (taken, q.qsize(), q.stats().leased) == (2, 0, 0)
            assert (
                sum(not task.done() for task in tasks) + taken == 3 - (not tasks[0].result()[0])
                if tasks[0].done()
                else taken == 2
            )

        counted(kind, spins, one)
        assert idle(q)


@every
@spinning
def test_of_those_who_only_look_none_stays_behind(kind: str, spins: bool) -> None:
    with queue_of_bytes() as q:

        def one(world: World, plan: Plan) -> None:
            tasks = three(world, plan, lambda: aio.Queue(q).wait_readable(), spins=spins)
            taker = world.start(1, uncancelled(aio.Queue(q).get()))
            q.put_many([b"x", b"y"])
            plan.carry_out(world, tasks[0])
            world.settle()
            assert result(taker)[0]
            for task in tasks[1:]:
                assert result(task) == (True, True)
            assert len(drain(q)) == 1

        counted(kind, spins, one)


@every
@spinning
def test_the_end_reaches_all_who_wait(kind: str, spins: bool) -> None:
    def one(world: World, plan: Plan) -> None:
        with queue_of_bytes() as q:

            async def consume() -> list[bytes]:
                return [message async for message in aio.Queue(q)]

            tasks = three(world, plan, consume, spins=spins)
            q.shutdown()
            plan.carry_out(world, tasks[0])
            world.settle()
            for task in tasks[1:]:
                assert result(task) == (True, [])

    counted(kind, spins, one)


# ---------------------------------------------------------------------------------------------------- putting


async def _reserved(q: Any, message: bytes) -> None:
    async with q.reserve(len(message)) as block:
        block[:] = message


PUTS: dict[str, Callable[[Any, bytes], Any]] = {
    "put": lambda q, message: q.put(message),
    "put with a timeout": lambda q, message: q.put(message, 1000),
    "put_many": lambda q, message: q.put_many([message]),
    "reserve": _reserved,
    "wait_for": lambda q, message: asyncio.wait_for(q.put(message), 1000),
}


@every
@spinning
@pytest.mark.parametrize("size", [SIZE, LARGE])
@pytest.mark.parametrize("put", PUTS)
def test_a_cancelled_put_has_put_nothing(kind: str, spins: bool, put: str, size: int) -> None:
    call = PUTS[put]
    with queue_of_bytes(capacity=64 * KIB) as q:

        def one(world: World, plan: Plan) -> None:
            if put == "reserve" and size == SIZE:
                fill(q, LARGE)
            full = fill(q, size)
            numbers = iter(range(3))
            tasks = three(
                world,
                plan,
                lambda: _await(call(aio.Queue(q), bytes([next(numbers) + 1]) * size)),
                spins=spins,
            )
            for _ in range(2):
                while len(q.get()) != size:
                    pass
            plan.carry_out(world, tasks[0])
            world.settle()
            done = [result(task)[0] for task in tasks if task.done()]
            assert sum(done) == 2, "the room is taken by those who were not cancelled"
            inside = [message for message in drain(q) if len(message) == size]
            put_in = {message[0] - 1 for message in inside if message[0]}
            assert put_in == {n for n, task in enumerate(tasks) if task.done() and task.result()[0]}
            assert len(inside) == full
            for task in tasks:
                task.cancel()
            world.settle()
            drain(q)
            assert idle(q)

        counted(kind, spins, one)


@every
@spinning
def test_of_a_cancelled_batch_as_many_are_in_as_it_says(kind: str, spins: bool) -> None:
    with queue_of_bytes(capacity=64 * KIB) as q:
        batch = [bytes([number]) * SIZE for number in range(1, 30)]

        def one(world: World, plan: Plan) -> None:
            victim = plan.begin(world, aio.Queue(q).put_many(batch))
            world.no_spin()
            got = []
            for turn in range(40):
                if plan.when == "later" and turn == plan.k:
                    victim.cancel()
                with contextlib.suppress(isthmus.Empty):
                    got.append(q.get(timeout=0))
                world.turn(0)
                world.turn(0)
            got += drain(q)
            ok, value = result(victim)
            assert got == batch[: value if ok else value.sent]
            assert idle(q)

        counted(kind, spins, one)


@every
@spinning
@pytest.mark.parametrize("until", ["received", "done"])
def test_a_cancelled_handshake_leaves_the_message(kind: str, spins: bool, until: Any) -> None:
    with queue_of_bytes() as q:

        def one(world: World, plan: Plan) -> None:
            tasks = three(world, plan, lambda: aio.Queue(q).put(b"x", until=until), spins=spins)
            assert q.qsize() == 3
            for number in range(3):
                with q.lease(timeout=0):
                    pass
                if number == 1:
                    plan.carry_out(world, tasks[0])
            world.settle()
            for task in tasks[1:]:
                assert result(task)[0]
            assert tasks[0].done()
            assert idle(q)

        counted(kind, spins, one)


@every
@spinning
def test_who_waits_for_the_mark_is_told(kind: str, spins: bool) -> None:
    with queue_of_bytes(capacity=64 * KIB) as q:

        def one(world: World, plan: Plan) -> None:
            fill(q, SIZE)
            mark = q.fill / 2
            tasks = three(world, plan, lambda: aio.Queue(q).wait_writable(below=mark), spins=spins)
            while q.fill >= mark:
                q.get()
            plan.carry_out(world, tasks[0])
            world.settle()
            for task in tasks[1:]:
                assert result(task) == (True, True)
            drain(q)

        counted(kind, spins, one)


# ------------------------------------------------------------------------------------------------------ locks


@every
@spinning
@pytest.mark.parametrize("how", ["acquire", "async with", "recover", "with a timeout", "wait_for"])
def test_a_cancelled_task_holds_no_mutex(kind: str, spins: bool, how: str) -> None:
    def one(world: World, plan: Plan) -> None:
        mutex = isthmus.Mutex()
        lock = aio.Mutex(mutex)
        inside = []

        async def work() -> None:
            match how:
                case "async with":
                    async with lock:
                        inside.append(1)
                        await asyncio.sleep(0)
                        inside.append(2)
                    return
                case "recover":
                    async with lock.recover() as death:
                        assert death is None
                        inside.append(1)
                        await asyncio.sleep(0)
                        inside.append(2)
                    return
                case "acquire":
                    assert await lock.acquire()
                case "with a timeout":
                    assert await lock.acquire(1000)
                case _:
                    # A task of its own: before Python 3.12 wait_for makes one, which would be the owner.
                    async with asyncio.timeout(1000):
                        assert await lock.acquire()
            inside.append(1)
            lock.release()

        mutex.acquire()
        tasks = three(world, plan, work, spins=spins)
        mutex.release()
        plan.carry_out(world, tasks[0])
        world.settle()
        for task in tasks[1:]:
            assert result(task)[0]
        assert result(tasks[0])
        assert not mutex.locked()
        assert inside.count(1) >= 2
        mutex.close()

    counted(kind, spins, one)


@every
def test_one_who_is_to_be_next_is_woken_behind_others(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but the claimant may take what is free, and others of its loop wait before it."""
    monkeypatch.setattr(_driver, "_PATIENCE", -1.0)
    refusals = 0

    class Fickle(isthmus.Mutex):
        def _acquire_as(self, context: int, waited: bool, timeout: Any) -> bool:
            nonlocal refusals
            if refusals and waited:
                refusals -= 1
                refused = WouldBlock("another was faster")
                refused.on = 0
                raise refused
            return super()._acquire_as(context, waited, timeout)

    mutex = Fickle()
    lock = aio.Mutex(mutex)

    async def work() -> None:
        async with lock:
            await asyncio.sleep(0)

    with world(kind, spins=True) as made:
        mutex.acquire()
        spinner = made.start(0, work())
        others = [made.start(0, work()), made.start(1, work())]
        made.no_spin()
        made.turn(1)
        refusals = 1
        mutex.release()
        made.settle()
        assert refusals == 0
        for task in (spinner, *others):
            assert task.done(), "a wake-up was lost"
        assert not mutex.locked()
    mutex.close()


@every
@spinning
@pytest.mark.parametrize("bounded", [False, True])
def test_a_cancelled_task_holds_no_permit(kind: str, spins: bool, bounded: bool) -> None:
    def one(world: World, plan: Plan) -> None:
        sync: Any = isthmus.BoundedSemaphore(None, 2) if bounded else isthmus.Semaphore(None, 2)
        permits: Any = aio.BoundedSemaphore(sync) if bounded else aio.Semaphore(sync)

        async def work() -> None:
            async with permits:
                await asyncio.sleep(0)

        for _ in range(2):
            sync.acquire()
        tasks = three(world, plan, work, spins=spins)
        for _ in range(2):
            sync.release()
        plan.carry_out(world, tasks[0])
        world.settle()
        for task in tasks[1:]:
            assert result(task)[0]
        assert result(tasks[0])
        assert sync.value == 2
        sync.close()

    counted(kind, spins, one)


@every
@spinning
@pytest.mark.parametrize("victim", ["read", "write"])
@pytest.mark.parametrize("rivals", ["read", "write"])
def test_a_cancelled_task_holds_no_share(kind: str, spins: bool, victim: str, rivals: str) -> None:
    def one(world: World, plan: Plan) -> None:
        sync = isthmus.RWLock()
        lock = aio.RWLock(sync)
        sides = iter([victim, rivals, rivals])

        async def work(side: str) -> None:
            async with getattr(lock, side):
                await asyncio.sleep(0)

        sync.write.acquire()
        tasks = three(world, plan, lambda: work(next(sides)), spins=spins)
        sync.write.release()
        plan.carry_out(world, tasks[0])
        world.settle()
        for task in tasks[1:]:
            assert result(task)[0]
        assert result(tasks[0])
        assert sync.write.acquire(timeout=0) is True, "nobody holds it"
        sync.write.release()
        sync.close()

    counted(kind, spins, one)


@every
@spinning
def test_an_event_reaches_all_who_wait(kind: str, spins: bool) -> None:
    def one(world: World, plan: Plan) -> None:
        sync = isthmus.Event()
        tasks = three(world, plan, lambda: aio.Event(sync).wait(), spins=spins)
        sync.set()
        plan.carry_out(world, tasks[0])
        world.settle()
        for task in tasks[1:]:
            assert result(task) == (True, True)
        sync.close()

    counted(kind, spins, one)


@every
def test_a_notification_of_one_who_is_cancelled_goes_to_the_next(kind: str) -> None:
    def one(world: World, plan: Plan) -> None:
        mutex = isthmus.Mutex()
        sync = isthmus.Condition(None, mutex)
        condition = aio.Condition(sync)

        async def work() -> bool:
            async with condition:
                return await condition.wait()

        tasks = three(world, plan, work, spins=False)
        for _ in range(2):
            with sync:
                sync.notify()
        plan.carry_out(world, tasks[0])
        world.settle()
        told = sum(result(task) == (True, True) for task in tasks if task.done())
        assert told == 2, "two were notified, and two of those who were not cancelled know"
        assert not mutex.locked()
        for task in tasks:
            task.cancel()
        world.settle()
        assert sync.waiters() == []
        sync.close()
        mutex.close()

    counted(kind, False, one)
