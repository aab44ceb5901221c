"""Processes whose loops wait, lease and lock are killed: no hang, nothing lost but what a killed call held.

As `test_kills.py`, with many tasks in each process: whoever is killed takes down several waiters, leases or
owners at once, and leaves its bells behind.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from forms import LOOPS
from isthmus import aio
from queues import MIB, drain, idle, queue_of_bytes
from siege import KILLS, Siege, Worker, check_capacity
from support import Peer, Watchdog, wait_until
from workers import Journal

Start = Callable[..., Peer]

CAPACITY = MIB
KINDS = ["asyncio", "uvloop"]

pytestmark = pytest.mark.timeout(0 if KILLS else 120)


@pytest.fixture
def queue() -> Iterator[isthmus.Queue[bytes]]:
    handle = isthmus.Queue.create("besieged", type=bytes, capacity=CAPACITY, max_deliveries=10_000)
    yield handle
    handle.unlink()


def bells(namespace: Path) -> int:
    gc.collect()  # a loop of this process that is closed may still have one
    return len(list(namespace.glob(".bell-*")))


# ---------------------------------------------------------------------------------------------------- sieges


def begin(siege: Siege, way: str, producers: int, consumers: int, tasks: int) -> Callable[[Worker], None]:
    """Starts them; what it gives replaces one of them, by one of the other kind of loop."""
    numbers = iter(range(1, 1 << 24))

    def start(program: str) -> None:
        number = next(numbers)
        common: Any = {"queue": "besieged", "kind": KINDS[number % 2], "tasks": tasks}
        if program.endswith("produce"):
            siege.start("aio_workers.aio_produce", number=number, **common)
        else:
            siege.start("aio_workers.aio_consume", words=1 << 21, way=way, **common)

    for _ in range(producers):
        start("produce")
    for _ in range(consumers):
        start("consume")
    return lambda dead: start(dead.program)


@pytest.mark.parametrize(
    ("way", "producers", "consumers", "tasks", "kills"),
    [
        pytest.param("get", 1, 1, 1, 40, id="get-1x1"),
        pytest.param("get", 2, 2, 5, 80, id="get-2x2"),
        pytest.param("lease", 1, 2, 5, 80, id="lease-1x2"),
        pytest.param("get", 3, 1, 50, 40, id="get-3x1-many-tasks"),
    ],
)
def test_producers_and_consumers_killed_at_random(
    queue: isthmus.Queue[bytes],
    namespace: Path,
    way: str,
    producers: int,
    consumers: int,
    tasks: int,
    kills: int,
) -> None:
    with Siege(seed=41, imports="aio_workers") as siege:
        replace = begin(siege, way, producers, consumers, tasks)
        siege.bombard(kills, Watchdog(), replace)
        siege.wait(Watchdog(), 0.3)
        siege.finish("aio_workers.aio_produce")
        siege.finish("aio_workers.aio_consume")
        assert queue.qsize() == 0
        print(check(siege, way, tasks))
        assert idle(queue)
        check_capacity(queue)
    isthmus.clean()
    assert bells(namespace) == 0


def check(siege: Siege, way: str, tasks: int) -> str:
    """Each message once; lost or twice only what was in the hands of a killed process at that moment."""
    everyone = siege.workers + siege.dead
    senders = {w.arguments["number"]: w for w in everyone if w.program.endswith("produce")}
    takers = [w for w in everyone if w.program.endswith("consume")]
    killed = sum(w.killed for w in takers)
    received: Counter[int] = Counter()
    for taker in takers:
        log = taker.journal.log()
        received.update(log)
        if way == "get":
            last: dict[int, int] = {}
            for entry in log:
                number, sequence = entry >> 40, entry & ((1 << 40) - 1)
                assert sequence > last.get(number, -1), f"FIFO: {sequence} of producer {number}"
                last[number] = sequence
    again = sum(received.values()) - len(received)
    lost = 0
    got: dict[int, set[int]] = {number: set() for number in senders}
    for entry in received:
        got[entry >> 40].add(entry & ((1 << 40) - 1))
    for number, sender in senders.items():
        assert all(sequence < sender.started for sequence in got[number]), "out of nothing"
        lost += sum(sequence not in got[number] for sequence in range(sender.done))
    if way == "get":
        # Taken and written down without an await between: one task at most was in the middle of it.
        assert (again, lost <= killed) == (0, True), f"{again} twice, {lost} lost, {killed} consumers killed"
    else:
        # Written down before it is acknowledged: that one is done again.
        assert (again <= killed, lost) == (True, 0), f"{again} twice, {lost} lost, {killed} consumers killed"
    return (
        f"{len(received)} messages, {siege.kills} kills, {lost} lost, {again} done again, {tasks} tasks each"
    )


@pytest.mark.parametrize("tasks", [1, 6])
def test_owners_of_a_mutex_killed_at_random(tasks: int, namespace: Path) -> None:
    with Siege(seed=42, imports="aio_workers") as siege:
        mutex = isthmus.Mutex.create("lock")
        shared = siege.directory / "shared"
        Journal(shared, words=16).close()
        numbers = iter(range(1 << 24))

        def start(_: object = None) -> None:
            number = next(numbers)
            siege.start(
                "aio_workers.aio_take_turns",
                mutex="lock",
                shared=str(shared),
                kind=KINDS[number % 2],
                tasks=tasks,
                number=number,
            )

        for _ in range(3):
            start()
        siege.bombard(60, Watchdog(), start)
        siege.wait(Watchdog(), 0.3)
        siege.finish("aio_workers.aio_take_turns")
        print(f"{siege.progress()} turns, {siege.kills} kills")
        with mutex.recover(timeout=20):
            pass
        with mutex:
            pass
        mutex.close()
    isthmus.clean()
    assert bells(namespace) == 0


def test_those_who_only_wait_are_killed_and_take_no_wake_up_with_them(namespace: Path) -> None:
    """Wave after wave of waiters dies, and each message goes to the one who lives."""
    with (
        Siege(seed=43, imports="aio_workers") as siege,
        queue_of_bytes("quiet") as q,
        asyncio.Runner() as runner,
    ):
        wrapped = aio.Queue(q)
        for wave in range(KILLS // 5 or 12):
            victims = [
                siege.start("aio_workers.aio_wait", queue="quiet", kind=KINDS[n % 2], tasks=20)
                for n in range(4)
            ]
            wait_until(lambda: all(victim.attached for victim in victims), "them to wait")  # noqa: B023
            siege.kill(*victims)

            async def main(wave: int = wave) -> None:
                getting = asyncio.create_task(wrapped.get())
                await asyncio.sleep(0)
                for n in range(3):
                    q.put(b"%d %d" % (wave, n))
                    assert await getting == b"%d %d" % (wave, n)
                    getting = asyncio.create_task(wrapped.get())
                getting.cancel()

            runner.run(main())
            assert idle(q)
            assert q.stats().consumers_waiting == 0
    isthmus.clean()
    assert bells(namespace) == 0


# --------------------------------------------------------------------------------------- one at a time, exact

CODE = """
import asyncio, sys, uvloop
import isthmus
from isthmus import aio

async def main():
    {body}

factory = asyncio.new_event_loop if {kind!r} == "asyncio" else uvloop.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""


def program(kind: str, body: str) -> str:
    return CODE.format(kind=kind, body=body)


GETS = """
    q = aio.Queue.open("q", type=bytes)
    waiting = [asyncio.create_task(q.get()) for _ in range(5)]
    await asyncio.sleep(0.05)
    print("waits", flush=True)
    await asyncio.gather(*waiting)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_loop_does_not_hold_others_up(spawn: Start, kind: str) -> None:
    with queue_of_bytes("q") as q:
        stopped = spawn(program(kind, GETS))
        stopped.expect("waits")
        living = spawn(
            program(
                kind,
                """
    q = aio.Queue.open("q", type=bytes)
    print("waits", flush=True)
    async for message in q:
        print(message.decode(), flush=True)
        if message == b"19":
            break
""",
            )
        )
        living.expect("waits")
        stopped.stop()
        for number in range(20):
            q.put(b"%d" % number)
            living.expect(str(number))
        living.finish()
        # It is not dead: what comes now is for those who were waiting in it.
        stopped.resume()
        q.put_many([b"x"] * 5)
        stopped.finish()
        assert idle(q)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_owner_keeps_its_mutex(spawn: Start, kind: str) -> None:
    mutex = isthmus.Mutex("lock")
    holder = spawn(
        program(
            kind,
            """
    async with aio.Mutex.open("lock"):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
""",
        )
    )
    holder.expect("held")
    holder.stop()

    async def main() -> None:
        lock = aio.Mutex(mutex)
        waiting = [asyncio.create_task(lock.acquire(timeout=0.5)) for _ in range(3)]
        assert await asyncio.gather(*waiting) == [False] * 3
        assert lock.owner() == holder.pid
        acquiring = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0)
        holder.resume()
        holder.send("let go")
        assert await acquiring is True

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())
    holder.finish()
    mutex.close()


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_a_killed_loop_had_on_lease_comes_back(spawn: Start, kind: str) -> None:
    with queue_of_bytes("q") as q:
        q.put_many([b"%d" % number for number in range(30)])
        peer = spawn(
            program(
                kind,
                """
    q = aio.Queue.open("q", type=bytes)
    jobs = [await q.lease() for _ in range(10)]
    views = [await q.get_view() for _ in range(2)]
    reserving = q.reserve(9000)
    await reserving.__aenter__()
    print("held", flush=True)
    await asyncio.Event().wait()
""",
            )
        )
        peer.expect("held")
        assert (q.stats().leased, q.qsize()) == (10, 18)

        async def main() -> list[bytes]:
            wrapped = aio.Queue(q)
            rest = await wrapped.get_many(18)
            assert rest == [b"%d" % number for number in range(12, 30)]
            waiting = [asyncio.create_task(_lease(wrapped)) for _ in range(10)]
            await asyncio.sleep(0)
            peer.kill()
            jobs = await asyncio.gather(*waiting)
            assert {job.delivery_count for job in jobs} == {2}
            for job in jobs:
                job.ack()
            return sorted(job.message for job in jobs)

        async def _lease(wrapped: Any) -> Any:
            return await wrapped.lease()

        with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
            assert runner.run(main()) == [b"%d" % number for number in range(10)]
        assert idle(q)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_killed_leave_in_the_namespace_is_swept(spawn: Start, kind: str, namespace: Path) -> None:
    isthmus.clean()
    with queue_of_bytes("q") as q:
        peers = [spawn(program(kind, GETS)) for _ in range(3)]
        for peer in peers:
            peer.expect("waits")
        assert bells(namespace) == 3
        isthmus.clean()
        assert bells(namespace) == 3, "those of the living stay"
        for peer in peers[:2]:
            peer.kill()
        isthmus.clean()
        assert bells(namespace) == 1
        q.put_many([b"x"] * 5)
        peers[2].finish()
        assert bells(namespace) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_bell_is_as_good_as_rung(kind: str, namespace: Path) -> None:
    isthmus.clean()
    loop = LOOPS[kind]()

    def turn() -> None:
        loop.call_soon(loop.stop)
        loop.run_forever()

    with queue_of_bytes("q") as q, queue_of_bytes("other") as other:
        wrapped = aio.Queue(q)
        getting = loop.create_task(wrapped.get())
        loop.create_task(aio.Queue(other).get())
        while not (q.stats().consumers_waiting and other.stats().consumers_waiting):
            turn()
        (path,) = namespace.glob(".bell-*")
        with open(path, "wb", buffering=0, opener=lambda p, f: os.open(p, f | os.O_NONBLOCK)) as fifo:
            size = fcntl.fcntl(fifo, fcntl.F_GETPIPE_SZ)
            while fifo.write(os.urandom(4095) + b"\0"):
                size -= 4096
            assert size == 0
        q.put(b"x")  # does not wait, and does not fail
        assert loop.run_until_complete(getting) == b"x"
        # It empties, and rings as before.
        for _ in range(30):
            turn()
        getting = loop.create_task(wrapped.get())
        turn()
        q.put(b"y")
        assert loop.run_until_complete(getting) == b"y"
        for task in asyncio.all_tasks(loop):
            task.cancel()
        turn()
        drain(other)
    turn()
    loop.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sender_killed_between_its_message_and_the_ring_costs_a_slice(spawn: Start, kind: str) -> None:
    """The filter of seccomp(2) kills it at the first system call, which is the one that would ring."""
    with queue_of_bytes("q") as q:

        async def main() -> None:
            waiting = asyncio.create_task(aio.Queue(q).get())
            while not q.stats().consumers_waiting:
                await asyncio.sleep(0)
            sender = spawn("""
                import ctypes, isthmus
                q = isthmus.Queue.open("q", type=bytes)
                PR_SET_SECCOMP, SECCOMP_MODE_STRICT = 22, 1
                ctypes.CDLL(None).prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0)
                q.put(b"x", timeout=0)
            """)
            assert await waiting == b"x"
            assert sender.end()[0] == -signal.SIGKILL

        with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
            runner.run(main())
        assert idle(q)
