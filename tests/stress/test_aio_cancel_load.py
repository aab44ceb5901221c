"""Cancellation at random under load: several processes of many tasks, every message accounted for.

Slices are switched off in all of them (`aio_workers.without_slices`): a wake-up that is lost is a hang.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from queues import KIB, idle
from siege import SEED
from support import Peer

Start = Callable[..., Peer]

WORKER = f"""
import runpy, sys
directory = {str(Path(__file__).parents[1])!r}
sys.path.insert(0, directory)
runpy.run_path(directory + "/aio_workers.py", run_name="__main__")
"""

LOOPS = ["asyncio", "uvloop"]
PATIENCE = 60.0


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("priorities", [1, 2])
def test_no_message_is_lost_or_comes_twice(spawn: Start, number: int, priorities: int) -> None:
    choose = random.Random(f"{SEED} {number}")
    seed = str(choose.random())
    producers, consumers, tasks, count = choose.choice([(1, 1, 16, 300), (2, 2, 4, 600), (2, 1, 8, 300)])
    print(f"ISTHMUS_TEST_SEED={SEED}: {producers} producers, {consumers} consumers, {tasks} tasks each")
    # Small, so that both sides wait.
    with isthmus.Queue("q", type=bytes, capacity=64 * KIB * priorities, priorities=priorities) as q:
        taking = [
            spawn(WORKER, "cancel_under_load", "consume", choose.choice(LOOPS), seed, n, tasks, 0)
            for n in range(consumers)
        ]
        putting = [
            spawn(WORKER, "cancel_under_load", "produce", choose.choice(LOOPS), seed, n, tasks, count)
            for n in range(producers)
        ]
        cancelled = sum(json.loads(peer.finish(PATIENCE)) for peer in putting)
        q.shutdown()
        received = [json.loads(peer.finish(PATIENCE)) for peer in taking]
        got = Counter(each for process in received for task in process for each in task)
        sent = Counter(n << 40 | k for n in range(producers * tasks) for k in range(count))
        assert got == sent, f"lost {(sent - got).total()}, out of nothing or twice {(got - sent).total()}"
        assert cancelled, "nothing was cancelled"
        assert idle(q)
    print(f"{sent.total()} messages, {cancelled} calls of put cancelled")


LOCKS: dict[str, Callable[[], Any]] = {
    "Mutex": lambda: isthmus.Mutex("lock"),
    "RLock": lambda: isthmus.RLock("lock"),
    "Semaphore": lambda: isthmus.Semaphore("lock", 1),
    "BoundedSemaphore": lambda: isthmus.BoundedSemaphore("lock", 1),
    "RWLock": lambda: isthmus.RWLock("lock"),
}


@pytest.mark.parametrize("which", LOCKS)
def test_a_lock_is_never_left_held(spawn: Start, which: str) -> None:
    choose = random.Random(f"{SEED} {which}")
    print(f"ISTHMUS_TEST_SEED={SEED}")
    handle, value = LOCKS[which](), isthmus.Value("sum", 0)
    peers = [
        spawn(WORKER, "count_under_lock", which, choose.choice(LOOPS), str(choose.random()), tasks, 150)
        for tasks in (2, 8, 12)
    ]
    added = [int(peer.finish(PATIENCE)) for peer in peers]
    assert value.get() == sum(added)
    assert all(added)
    lock = handle.write if which == "RWLock" else handle
    assert lock.acquire(timeout=0) is True, "nobody has it"
    lock.release()
    handle.close()
    value.close()
