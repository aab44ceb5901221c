"""Random SIGKILL in the objects of synchronization: nobody waits for the dead, and nothing is counted twice.

`ISTHMUS_TEST_KILLS=1000` makes that many kills in each test.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from siege import KILLS, SEED
from support import PATIENCE, wait_until

pytestmark = pytest.mark.timeout(0 if KILLS else 120)


class Crowd:
    """Forked workers in a loop, killed at random and replaced. Each turn of theirs is counted."""

    def __init__(self, turn: Callable[[], object], size: int) -> None:
        self.turns = isthmus.Value()
        self.failures = isthmus.Queue(type=str)
        self._turn = turn
        self._pids: set[int] = set()
        self._random = random.Random(SEED)
        self.kills = 0
        print(f"\nISTHMUS_TEST_SEED={SEED}")
        for _ in range(size):
            self.start()

    def start(self) -> None:
        if (pid := os.fork()) == 0:
            status = 1
            try:
                while True:
                    self._turn()
                    self.turns.add(1)
            except BaseException as error:
                self.failures.put(f"{type(error).__name__}: {error}")
            finally:
                os._exit(status)
        self._pids.add(pid)

    def check(self) -> None:
        """Fails with what a worker failed with."""
        with contextlib.suppress(isthmus.Empty):
            raise AssertionError(f"after {self.kills} kills: {self.failures.get(timeout=0)}")

    def bombard(self, kills: int) -> None:
        """Kills one after the other; after each, those that are left go on."""
        for _ in range(KILLS or kills):
            time.sleep(self._random.choice([0, 0.001, 0.005, self._random.uniform(0, 0.03)]))
            self.kill(self._random.choice(sorted(self._pids)))
            self.kills += 1
            self.start()
            if self.kills % 10 == 0:
                self.goes_on()
        self.goes_on()

    def goes_on(self) -> None:
        """Waits for some more turns."""
        before = self.turns.get()

        def went_on() -> bool:
            self.check()
            return bool(self.turns.get() > before + 5)

        wait_until(went_on, "the others to go on")

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self._pids.discard(pid)

    def end(self) -> None:
        for pid in list(self._pids):
            self.kill(pid)
        if self.failures.closed:
            return
        self.check()
        self.failures.close()
        self.turns.close()


@pytest.fixture
def crowd() -> Iterator[Callable[..., Crowd]]:
    started: list[Crowd] = []

    def start(turn: Callable[[], object], size: int = 4) -> Crowd:
        started.append(Crowd(turn, size))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_permits_come_back(crowd: Any) -> None:
    pool = isthmus.BoundedSemaphore("pool", 2)
    most = isthmus.Value()

    def turn() -> None:
        with pool:
            if len(pool.holders()) > 2:
                most.add(1)

    many = crowd(turn)
    many.bombard(80)
    many.end()
    assert most.get() == 0
    wait_until(lambda: pool.value == 2, "all permits to be back")
    assert [pool.acquire(timeout=PATIENCE) for _ in range(2)] == [True, True]
    assert pool.holders() == [os.getpid()] * 2
    pool.release()
    pool.release()


def in_order(lock: Any, again: Callable[[], Any], cells: memoryview) -> None:
    """Writes two numbers that have to be equal, and repairs them where another was killed in between."""
    try:
        with lock:
            assert cells[0] == cells[1]
            cells[0] += 1
            cells[1] += 1
    except isthmus.OwnerDied:
        with again() as death:
            if death is not None:
                cells[1] = cells[0]


@pytest.mark.parametrize("kind", ["RLock", "Condition", "RWLock"])
def test_whoever_comes_after_a_killed_owner_is_told(crowd: Any, kind: str) -> None:
    lock: Any = getattr(isthmus, kind)("ledger")
    held = lock.write if kind == "RWLock" else lock
    again = (lock.lock if kind == "Condition" else lock).recover
    with isthmus.SharedArray(None, (2,), "q") as array:
        cells = array.view()

        def turn() -> None:
            in_order(held, again, cells)
            if kind == "RWLock":
                with contextlib.suppress(isthmus.OwnerDied), lock.read:
                    assert cells[0] == cells[1]

        many = crowd(turn)
        many.bombard(40)
        many.end()
        in_order(held, again, cells)
        in_order(held, again, cells)
        assert cells[0] == cells[1] > 0
        cells.release()


def test_read_shares_come_back_to_writers(crowd: Any) -> None:
    lock = isthmus.RWLock("table")

    def turn() -> None:
        with lock.read:
            time.sleep(0.001)

    many = crowd(turn, 3)
    for _ in range(6):
        many.bombard(8)
        assert lock.write.acquire(timeout=PATIENCE) is True
        assert lock.readers() == []
        lock.write.release()
    many.end()


def test_a_killed_arrival_breaks_the_barrier_for_the_others_at_once(crowd: Any) -> None:
    barrier = isthmus.Barrier("start", 3)

    def turn() -> None:
        try:
            barrier.wait()
        except isthmus.BrokenBarrierError:
            time.sleep(0.002)
            if barrier.broken:
                barrier.reset()

    many = crowd(turn, 3)
    many.bombard(40)
    many.end()
    assert barrier.parties == 3


def test_an_event_is_not_lost_with_its_setter(crowd: Any) -> None:
    ping, pong = isthmus.Event("ping"), isthmus.Event("pong")

    def turn() -> None:
        ping.wait()
        ping.clear()
        pong.set()

    many = crowd(turn, 2)
    for _ in range(60):
        ping.set()
        many.kill(min(many._pids))
        many.start()
        ping.set()
        assert pong.wait(timeout=PATIENCE) is True
        pong.clear()
    many.end()


def test_so_many_go_on_as_were_notified_whoever_is_killed() -> None:
    """Of six that wait three are notified; of those that are, one is killed: three living ones go on."""
    condition, went_on = isthmus.Condition("news"), isthmus.Value()
    choose = random.Random(SEED)
    for _ in range(12):
        went_on.set(0)
        pids = [_waiter(condition, went_on) for _ in range(6)]
        wait_until(lambda: len(condition.waiters()) == 6, "six to wait")
        victims = choose.sample(pids[:3], choose.choice([1, 2]))
        for victim in victims:
            os.kill(victim, signal.SIGSTOP)  # it cannot use what it is given
        with condition:
            condition.notify(3)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
        wait_until(lambda: went_on.get() == 3, "three to go on")
        time.sleep(0.2)
        assert went_on.get() == 3, "no notification counts twice"
        with condition:
            condition.notify_all()
        for pid in set(pids) - set(victims):
            assert os.waitpid(pid, 0)[1] == 0


def _waiter(condition: isthmus.Condition, went_on: isthmus.Value) -> int:
    before = len(condition.waiters())
    if (pid := os.fork()) == 0:
        status = 1
        try:
            with condition:
                condition.wait()
            went_on.add(1)
            status = 0
        finally:
            os._exit(status)
    wait_until(lambda: len(condition.waiters()) == before + 1, "it to wait")
    return pid


@pytest.mark.parametrize("kind", ["Mutex", "RLock", "BoundedSemaphore", "Semaphore", "read", "write"])
def test_one_that_is_stopped_while_it_waits_holds_nobody_up(kind: str) -> None:
    lock: Any = isthmus.RWLock("o") if kind in {"read", "write"} else getattr(isthmus, kind)("o")
    held = lock.write if kind in {"read", "write"} else lock
    wanted = lock.read if kind == "read" else held
    held.acquire()
    pids = []
    for _ in range(2):
        if (pid := os.fork()) == 0:
            wanted.acquire()
            os._exit(0)
        pids.append(pid)
    wait_until(lambda: isthmus.doctor().waiting == 2, "both to wait")
    time.sleep(0.02)  # one of them has claimed what comes
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    held.release()
    for _ in range(20):
        assert held.acquire(timeout=PATIENCE) is True
        held.release()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert held.acquire(timeout=PATIENCE) is True
    held.release()
