"""Processes that add to a value are killed at random: the sum is exact, whoever died."""

from __future__ import annotations

import pytest

import isthmus
from siege import KILLS, Siege, Worker
from support import Watchdog
from workers import Journal

ADDITIONS = 100_000
STEADY = 3
STEP = 1 << 20
"""What those who are killed add: more than the others add in all, so that the sums can be told apart."""

pytestmark = pytest.mark.timeout(0 if KILLS else 120)


@pytest.mark.parametrize("kind", [int, float])
def test_the_sum_is_exact_although_others_are_killed(kind: type[int | float]) -> None:
    with isthmus.Value("besieged", type=kind) as value, Siege(seed=21) as siege:

        def start(step: int, *, limited: bool) -> Worker:
            return siege.start("count_up", value="besieged", step=step, limited=limited)

        steady = [start(1, limited=True) for _ in range(STEADY)]
        siege.workers.clear()  # these are not killed

        def permit(additions: int) -> None:
            for worker in steady:
                worker.journal.words[Journal.LOG] = min(additions, ADDITIONS)

        def replace(_: Worker) -> None:
            # A part of the work for each kill, so that they work all the time while others die.
            permit(siege.kills * ADDITIONS // 40)
            start(STEP, limited=False)

        for _ in range(3):
            start(STEP, limited=False)
        siege.bombard(40, Watchdog(), replace, pause=0.02)
        victims = siege.dead + siege.workers
        siege.workers += steady
        permit(ADDITIONS)
        dog = Watchdog()
        while any(worker.done < ADDITIONS for worker in steady):
            siege.check_errors()
            siege.check_progress(dog, sum(worker.done for worker in steady))
        siege.finish("count_up")

        total = value.get()
        assert type(total) is kind
        assert total == int(total)
        others, ones = divmod(int(total), STEP)
        assert ones == STEADY * ADDITIONS
        done, started = (sum(getattr(worker, what) for worker in victims) for what in ("done", "started"))
        # In the call in which it was killed each has added or not; all others count.
        assert done <= others <= started
        assert started - done <= siege.kills
        print(f"{ones} + {others} additions, {siege.kills} kills, {others - done} of them behind the commit")
