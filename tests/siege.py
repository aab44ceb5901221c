"""Workers under load, killed at random and replaced, and what has to be true afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

import isthmus
from queues import limit_of
from support import Hang, Peer, Watchdog, process_state, wait_until
from workers import Journal

KILLS = int(os.environ.get("ISTHMUS_TEST_KILLS", "0"))
"""How many kills each of these tests makes; 0 is each test's own choice. A soak sets it."""

SEED = int(os.environ.get("ISTHMUS_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
"""Every run has another seed, printed with a failure; set it to see the same choices again."""


class Worker:
    """One process of a siege, and its journal."""

    def __init__(self, siege: Siege, program: str, arguments: dict[str, Any], words: int) -> None:
        self.path = siege.directory / f"{siege.started}.{program}"
        siege.started += 1
        self.program = program
        self.arguments = arguments
        self.journal = Journal(self.path, words=words)
        self.pid = siege.fork(program, {"journal": str(self.path), **arguments})
        self.killed = False

    @property
    def done(self) -> int:
        return self.journal.words[Journal.DONE]

    @property
    def started(self) -> int:
        return self.journal.words[Journal.STARTED]

    @property
    def attached(self) -> bool:
        return bool(self.journal.words[Journal.ATTACHED])

    def stop(self) -> None:
        """Asks it to finish by itself."""
        self.journal.words[Journal.STOP] = 1

    def gone(self) -> bool:
        return process_state(self.pid) in ("Z", "X", "")


class Siege:
    """Starts workers, kills them at random, watches for progress."""

    def __init__(self, seed: int, *, imports: str = "workers") -> None:
        print(f"\nISTHMUS_TEST_SEED={SEED} (this test: {seed})")
        self.random = random.Random(f"{SEED} {seed}")
        self.directory = Path(tempfile.mkdtemp(prefix="isthmus-siege-", dir="/dev/shm"))
        start = (
            "import sys; sys.path.insert(0, sys.argv[1]); import workers, " + imports + "; workers.zygote()"
        )
        self.zygote = Peer(start, Path(__file__).parent)
        self.started = 0
        self.kills = 0
        self.killed_attaching = 0
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.zygote.reap()  # its workers die with it
        for worker in self.workers + self.dead:
            worker.journal.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def fork(self, program: str, arguments: dict[str, Any]) -> int:
        self.zygote.send(json.dumps([program, arguments]))
        return int(self.zygote.line())

    def start(self, program: str, *, words: int = 64, **arguments: Any) -> Worker:
        worker = Worker(self, program, arguments, words)
        self.workers.append(worker)
        return worker

    def check_errors(self) -> None:
        """Fails with what a worker failed with."""
        for path in self.directory.glob("*.error"):
            raise AssertionError(f"{path.name} after {self.kills} kills:\n{path.read_text()}")
        for worker in self.workers:
            # In this order: a worker may say that it ends, and end.
            if worker.gone() and not worker.journal.words[Journal.STOP]:
                error = worker.path.with_name(worker.path.name + ".error")
                text = error.read_text() if error.exists() else "no traceback: it crashed"
                raise AssertionError(f"{worker.path.name} ended by itself after {self.kills} kills: {text}")

    def bombard(self, kills: int, dog: Watchdog, replace: Any, *, pause: float = 0.05) -> None:
        """Kills at random moments, one or two at once, those that only just attach too."""
        deadline = self.kills + (KILLS or kills)
        while self.kills < deadline:
            # Mostly while they work, now and then while they attach or before they have come that far.
            self.wait(dog, self.random.choice([0.0, 0.002, self.random.uniform(0, pause), pause]))
            count = min(self.random.choice([1, 1, 1, 2]), len(self.workers))
            victims = self.random.sample(self.workers, count)
            self.kill(*victims)
            for victim in victims:
                replace(victim)

    def kill(self, *victims: Worker) -> None:
        """Kills these at once, and waits until they are dead (they stay zombies for a while)."""
        for victim in victims:
            os.kill(victim.pid, signal.SIGKILL)
        for victim in victims:
            wait_until(victim.gone, f"{victim.pid} to die")
            victim.killed = True
            self.kills += 1
            self.killed_attaching += not victim.attached
            self.workers.remove(victim)
            self.dead.append(victim)

    def wait(self, dog: Watchdog, seconds: float) -> None:
        """Lets them work, under the watchdog."""
        end = time.monotonic() + seconds
        while True:
            self.check_errors()
            self.check_progress(dog, self.progress())
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.02))

    def check_progress(self, dog: Watchdog, progress: object) -> None:
        """Has the watchdog look; where it barks, every worker says where it stands."""
        try:
            dog.check(progress)
        except Hang as hang:
            for worker in self.workers:
                os.kill(worker.pid, signal.SIGUSR1)
            time.sleep(0.5)
            where = [
                f"{worker.path.name} ({worker.pid}, {process_state(worker.pid)}): "
                f"{worker.path.with_name(worker.path.name + '.stack').read_text()}"
                for worker in self.workers
            ]
            raise Hang("\n".join([f"{hang}, after {self.kills} kills", *where])) from None

    def progress(self) -> int:
        """Grows with every message or turn."""
        return sum(worker.done for worker in self.workers) + sum(worker.done for worker in self.dead)

    def finish(self, program: str) -> None:
        """Asks all of one kind to finish and waits for them under the watchdog."""
        leaving = [worker for worker in self.workers if worker.program == program]
        for worker in leaving:
            worker.stop()
        dog = Watchdog()
        while any(not worker.gone() for worker in leaving):
            self.check_errors()
            self.check_progress(dog, (self.progress(), sum(worker.gone() for worker in leaving)))
            time.sleep(0.005)
        self.check_errors()


def check_messages(siege: Siege, *, get_batch: int, put_batch: int) -> str:
    """No duplicate, nothing out of nothing, FIFO per producer, at most the messages of killed calls lost."""
    everyone = siege.workers + siege.dead
    producers = {w.arguments["number"]: w for w in everyone if w.program == "produce"}
    consumers = [w for w in everyone if w.program == "consume"]
    received: Counter[int] = Counter()
    for consumer in consumers:
        last: dict[int, int] = {}
        log = consumer.journal.log()
        for entry in log:
            producer, sequence = entry >> 40, entry & ((1 << 40) - 1)
            before = last.get(producer, -1)
            assert sequence > before, f"FIFO: {sequence} of producer {producer} after {before}"
            last[producer] = sequence
        received.update(log)
    twice = [entry for entry, count in received.items() if count > 1]
    assert not twice, f"duplicates: {[(e >> 40, e & ((1 << 40) - 1)) for e in twice[:20]]}"

    lost = 0
    got_of: dict[int, set[int]] = {number: set() for number in producers}
    for entry in received:
        got_of[entry >> 40].add(entry & ((1 << 40) - 1))
    for number, sender in producers.items():
        got = got_of[number]
        beyond = [sequence for sequence in got if sequence >= sender.started]
        assert not beyond, f"out of nothing: {beyond[:20]} of producer {number}, which began {sender.started}"
        # What was started and not done at the producer's death may have come through or not.
        assert sender.started - sender.done <= max(1, put_batch)
        lost += sum(sequence not in got for sequence in range(sender.done))
    killed = sum(w.killed for w in consumers)
    assert lost <= killed * max(1, get_batch), f"{lost} messages lost with {killed} killed consumers"
    return f"{len(received)} messages, {siege.kills} kills, {lost} lost"


def check_flood(siege: Siege, batch: int) -> str:
    """As `check_messages`, for `flood` and `drink`: millions of messages, so by arrays."""
    everyone = siege.workers + siege.dead
    drinkers = [w for w in everyone if w.program == "drink"]
    received = []
    for drinker in drinkers:
        count, first = drinker.done, Journal.LOG
        pairs = np.array(drinker.journal.words[first : first + 2 * count], dtype=np.uint64).reshape(-1, 2)
        torn = pairs[pairs[:, 0] != ~pairs[:, 1]]
        assert not len(torn), f"torn: {torn[:5]}"
        numbers = pairs[:, 0] >> np.uint64(40)
        for number in np.unique(numbers):
            mine = pairs[numbers == number, 0]
            assert (mine[1:] > mine[:-1]).all(), f"FIFO of producer {number}"
        received.append(pairs[:, 0])
    everything = np.sort(np.concatenate(received))
    twice = everything[1:][everything[1:] == everything[:-1]]
    assert not len(twice), f"duplicates: {twice[:5]}"
    numbers = everything >> np.uint64(40)
    sequences = everything & np.uint64((1 << 40) - 1)
    lost = 0
    for flooder in (w for w in everyone if w.program == "flood"):
        mine = sequences[numbers == flooder.arguments["number"]]
        assert not len(mine) or mine[-1] < flooder.started, "out of nothing"
        lost += flooder.done - int((mine < flooder.done).sum())
    killed = sum(w.killed for w in drinkers)
    assert lost <= killed * batch, f"{lost} messages lost with {killed} killed consumers"
    return f"{len(everything)} messages, {siege.kills} kills, {lost} lost"


def room(handle: isthmus.Queue[bytes], size: int, *, patience: float = 0.0) -> int:
    """How many messages of a size fit; what they took is given back.

    What the dead held is looked for by those who wait, so the first look may need patience.
    """
    count = 0
    timeout = 0.0
    while True:
        try:
            handle.put(bytes(size), timeout=timeout)
        except isthmus.Full:
            if timeout >= patience:
                break
            timeout = patience
        else:
            count += 1
            timeout = 0.0
    for _ in range(count):
        assert len(handle.get(timeout=0)) == size
    return count


def check_capacity(handle: isthmus.Queue[bytes]) -> None:
    """An empty queue takes as much as one of its capacity that nothing has ever happened to."""
    assert handle.stats().bytes_in_use == 0
    with isthmus.Queue(type=bytes, capacity=handle.capacity) as fresh:
        # The largest message takes every unit of memory there is for large ones.
        for size in (0, 64, 1000, limit_of(fresh)):
            fits, expected = room(handle, size, patience=0.1), room(fresh, size)
            assert fits == expected, f"capacity for messages of {size} bytes is gone"
        # Smaller runs of units leave a rest at the seam of where the search for them begins.
        for size in (5000, 65_536, 300_000):
            assert room(fresh, size) - room(handle, size) in {0, 1}
    assert handle.stats().bytes_in_use == 0


__all__ = ["SEED", "Hang", "Siege", "Worker", "check_capacity", "check_flood", "check_messages"]
