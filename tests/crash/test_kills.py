"""Random SIGKILL under load: no hang, no torn message, no duplicate, no more lost than the killed call held.

Hundreds of kills here; `ISTHMUS_TEST_KILLS=5000 pytest tests/crash` makes that many in each test. The seed is
printed with a failure, `ISTHMUS_TEST_SEED` sets it. Every possible point of death, one by one, is what the
crash sweep of the Rust core goes through; these kills are there to meet what nobody thought of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import isthmus
from siege import KILLS, Siege, Worker, check_capacity, check_flood, check_messages
from support import Watchdog
from workers import Journal

CAPACITY = 2 << 20

pytestmark = pytest.mark.timeout(0 if KILLS else 120)


@pytest.fixture
def queue() -> Iterator[isthmus.Queue[bytes]]:
    """The queue under siege; this process is attached and does nothing while workers die."""
    handle = isthmus.Queue.create("besieged", type=bytes, capacity=CAPACITY)
    yield handle
    handle.unlink()


SIEGES = [
    # kinds of messages, producers, consumers, batch of put, batch of get, kills
    pytest.param("inline", 1, 1, 0, 0, 40, id="inline-1x1"),
    pytest.param("inline", 2, 2, 0, 0, 40, id="inline-2x2"),
    pytest.param("mixed", 2, 2, 0, 0, 40, id="mixed-2x2"),
    pytest.param("large", 1, 1, 0, 0, 40, id="large-1x1"),
    pytest.param("large", 3, 2, 0, 0, 40, id="large-3x2"),
    pytest.param("edge", 2, 2, 0, 0, 40, id="edge-2x2"),
    pytest.param("inline", 2, 2, 32, 32, 40, id="inline-batches"),
    pytest.param("mixed", 2, 3, 16, 16, 40, id="mixed-batches"),
]


@pytest.mark.parametrize(("mixture", "producers", "consumers", "put_batch", "get_batch", "kills"), SIEGES)
def test_producers_and_consumers_killed_at_random(
    queue: isthmus.Queue[bytes],
    mixture: str,
    producers: int,
    consumers: int,
    put_batch: int,
    get_batch: int,
    kills: int,
) -> None:
    with Siege(seed=1) as siege:
        numbers = iter(range(1, 1 << 24))

        def start(program: str) -> None:
            if program == "produce":
                siege.start(
                    "produce", queue="besieged", number=next(numbers), mixture=mixture, batch=put_batch
                )
            else:
                siege.start("consume", words=1 << 23, queue="besieged", batch=get_batch)

        for _ in range(producers):
            start("produce")
        for _ in range(consumers):
            start("consume")
        siege.bombard(kills, Watchdog(), lambda dead: start(dead.program))
        siege.wait(Watchdog(), 0.3)  # the last replacements get to work
        siege.finish("produce")
        siege.finish("consume")
        assert queue.qsize() == 0
        print(check_messages(siege, get_batch=get_batch, put_batch=put_batch))
        check_capacity(queue)


@pytest.mark.parametrize(
    ("width", "batch", "pairs"), [(16, 64, 1), (16, 64, 2), (200, 8, 1), (16, 1, 2), (5000, 16, 1)]
)
def test_killed_inside_put_and_get(queue: isthmus.Queue[bytes], width: int, batch: int, pairs: int) -> None:
    """Workers that do nothing but put and get, so that most of the kills hit them in the middle of it."""
    with Siege(seed=13) as siege:
        numbers = iter(range(1, 1 << 24))

        def start(program: str) -> None:
            if program == "flood":
                siege.start("flood", queue="besieged", number=next(numbers), batch=batch, width=width)
            else:
                siege.start("drink", words=1 << 24, queue="besieged", batch=batch, width=width)

        for program in ("flood", "drink") * pairs:
            start(program)
        siege.bombard(40, Watchdog(), lambda dead: start(dead.program), pause=0.02)
        siege.wait(Watchdog(), 0.1)
        siege.finish("flood")
        siege.finish("drink")
        assert queue.qsize() == 0
        print(check_flood(siege, batch))
        check_capacity(queue)


@pytest.mark.parametrize("mixture", ["inline", "large"])
def test_only_consumers_die(queue: isthmus.Queue[bytes], mixture: str) -> None:
    """With one producer that lives, what is lost is exactly what killed consumers had in hand."""
    with Siege(seed=2) as siege:
        siege.start("produce", queue="besieged", number=1, mixture=mixture, batch=0)
        producer = siege.workers.pop()

        def start() -> None:
            siege.start("consume", words=1 << 23, queue="besieged", batch=0)

        for _ in range(3):
            start()
        siege.bombard(40, Watchdog(), lambda _: start())
        siege.workers.append(producer)
        siege.wait(Watchdog(), 0.3)
        siege.finish("produce")
        siege.finish("consume")
        print(check_messages(siege, get_batch=0, put_batch=0))
        check_capacity(queue)


@pytest.mark.parametrize("mixture", ["inline", "large"])
def test_only_producers_die(queue: isthmus.Queue[bytes], mixture: str) -> None:
    """With one consumer that lives, nothing at all is lost, and it sees all of each producer in order."""
    with Siege(seed=3) as siege:
        siege.start("consume", words=1 << 23, queue="besieged", batch=0)
        consumer = siege.workers.pop()
        numbers = iter(range(1, 1 << 24))

        def start() -> None:
            siege.start("produce", queue="besieged", number=next(numbers), mixture=mixture, batch=0)

        for _ in range(3):
            start()
        siege.bombard(40, Watchdog(), lambda _: start())
        siege.workers.append(consumer)
        siege.finish("produce")
        siege.finish("consume")
        print(check_messages(siege, get_batch=0, put_batch=0))
        check_capacity(queue)


@pytest.mark.parametrize("on_owner_died", ["raise", "recover"])
@pytest.mark.parametrize("takers", [2, 5])
def test_lock_holders_killed_at_random(on_owner_died: str, takers: int) -> None:
    """What the mutex protects is never seen half changed, except by those who were told."""
    lock = isthmus.Mutex.create("besieged")
    with Siege(seed=4) as siege:
        shared = Journal(siege.directory / "shared", words=512)
        numbers = iter(range(1 << 24))

        def start() -> None:
            siege.start(
                "take_turns",
                mutex="besieged",
                shared=str(siege.directory / "shared"),
                on_owner_died=on_owner_died,
                number=next(numbers),
            )

        for _ in range(takers):
            start()
        siege.bombard(60, Watchdog(), lambda _: start())
        siege.wait(Watchdog(), 0.3)
        siege.finish("take_turns")
        turns = sum(worker.done for worker in siege.workers + siege.dead)
        assert turns <= shared.words[0] <= turns + siege.kills
        print(f"{turns} turns, {siege.kills} kills, {siege.killed_attaching} of them while attaching")
        shared.close()
        with lock.recover(timeout=20):
            pass
        with lock:
            pass
    lock.close()


def test_a_worker_started_by_exec_is_killed_like_any_other(
    queue: isthmus.Queue[bytes], namespace: object
) -> None:
    """The same with processes that share no ancestor that ever loaded isthmus; few, for they start slowly."""
    with Siege(seed=5) as siege:
        code = "import json, sys, workers; sys.exit(workers.run(sys.argv[1], json.loads(sys.argv[2])))"
        path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        running: dict[int, subprocess.Popen[bytes]] = {}

        def fork(program: str, arguments: dict[str, object]) -> int:
            process = subprocess.Popen(
                [sys.executable, "-c", code, program, json.dumps(arguments)], env=environment
            )
            running[process.pid] = process
            return process.pid

        siege.fork = fork  # type: ignore[method-assign]
        numbers = iter(range(1, 1 << 24))

        def start(program: str) -> None:
            if program == "produce":
                siege.start("produce", queue="besieged", number=next(numbers), mixture="mixed", batch=0)
            else:
                siege.start("consume", words=1 << 23, queue="besieged", batch=0)

        def replace(dead: Worker) -> None:
            running.pop(dead.pid).wait()
            start(dead.program)

        try:
            for program in ("produce", "consume") * 2:
                start(program)
            # Starting Python takes a while on a loaded machine, and that is not this test's matter.
            siege.bombard(16, Watchdog(limit=15.0), replace, pause=0.4)
            siege.wait(Watchdog(limit=15.0), 0.5)
            siege.finish("produce")
            siege.finish("consume")
            print(check_messages(siege, get_batch=0, put_batch=0))
            check_capacity(queue)
        finally:
            for process in running.values():
                process.kill()
                process.wait()
