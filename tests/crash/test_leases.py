"""Random SIGKILL of those who hold leases: every message is done, and done again only if its holder died.

`ISTHMUS_TEST_KILLS` and `ISTHMUS_TEST_SEED` count as in `test_kills.py`.
"""

from __future__ import annotations

import pytest

import isthmus
from leasers import ENDED, POISON, check_deliveries, check_leases, deliveries
from queues import idle
from siege import KILLS, Siege, Worker, check_capacity
from support import Watchdog, wait_until
from workers import message

CAPACITY = 2 << 20
LEASES = 32

pytestmark = pytest.mark.timeout(0 if KILLS else 120)


SIEGES = [
    # kinds of messages, levels, leases held at once, in place, ended by shutdown
    pytest.param("inline", 1, 1, False, False, id="inline"),
    pytest.param("inline", 1, 5, False, True, id="inline-several"),
    pytest.param("inline", 3, 2, False, False, id="inline-levels"),
    pytest.param("mixed", 1, 3, True, False, id="mixed-in-place"),
    pytest.param("mixed", 4, 2, False, True, id="mixed-levels"),
    pytest.param("edge", 2, 1, True, False, id="edge-levels"),
    pytest.param("large", 1, 1, False, False, id="large"),
    pytest.param("large", 2, 3, True, True, id="large-levels-in-place"),
]


@pytest.mark.parametrize(("mixture", "levels", "hold", "in_place", "ends"), SIEGES)
def test_producers_and_leaseholders_killed_at_random(
    mixture: str, levels: int, hold: int, in_place: bool, ends: bool
) -> None:
    queue = isthmus.Queue(
        "besieged", type=bytes, capacity=CAPACITY, priorities=levels, max_deliveries=1_000_000
    )
    with queue, Siege(seed=21) as siege:
        numbers = iter(range(1, POISON))

        def start(program: str) -> Worker:
            number = next(numbers)
            if program == "leasers.supply":
                return siege.start(
                    program, queue="besieged", number=number, mixture=mixture, levels=levels, reserve=in_place
                )
            return siege.start(
                program, words=1 << 21, queue="besieged", number=number, hold=hold, view=in_place
            )

        for program in ["leasers.supply"] * 2 + ["leasers.work"] * 3:
            start(program)
        siege.bombard(40, Watchdog(), lambda dead: start(dead.program))
        siege.wait(Watchdog(), 0.2)  # the last replacements get to work
        siege.finish("leasers.supply")
        if ends:
            queue.shutdown()
            wait_until(
                lambda: all(w.gone() for w in siege.workers if w.program == "leasers.work"),
                "the consumers to see the end, with all leases of the dead handed out again",
            )
        siege.finish("leasers.work")
        print(check_deliveries(siege, levels))
        assert list(queue.dead) == []
        assert idle(queue)
        if not ends:
            check_leases(queue, LEASES)
            if levels == 1:
                check_capacity(queue)


def test_a_message_that_kills_whoever_leases_it_ends_up_dead() -> None:
    """The default of twenty deliveries; all other messages are done meanwhile."""
    queue = isthmus.Queue("besieged", type=bytes, capacity=CAPACITY)
    poison = message(POISON, 0, 5000)
    with queue, Siege(seed=22) as siege:
        numbers = iter(range(1 << 20))

        def start() -> None:
            # One at a time: what is in the same hand as the poison, time after time, would die with it.
            siege.start(
                "leasers.work", words=1 << 16, queue="besieged", number=next(numbers), hold=1, view=False
            )

        def bury() -> None:
            for victim in [worker for worker in siege.workers if worker.gone()]:
                victim.killed = True
                siege.kills += 1
                siege.workers.remove(victim)
                siege.dead.append(victim)
                start()

        for _ in range(3):
            start()
        for sequence in range(400):
            queue.put(message(1, sequence, 100))
            if sequence == 100:
                queue.put(poison)
        dog = Watchdog()
        while not queue.dead:
            siege.check_errors()
            siege.check_progress(dog, (siege.progress(), siege.kills))
            bury()
        bury()
        letter = queue.dead.get()
        assert letter.data == poison
        assert letter.deliveries == siege.kills == queue.max_deliveries == 20
        siege.finish("leasers.work")
        everyone = siege.workers + siege.dead
        log = [(w.pid, *entry) for w in everyone for entry in deliveries(w.journal.words, w.done)]
        done = [entry & 0xFFFF for _, entry, _, state in log if state == ENDED and entry >> 40 == 1]
        assert sorted(done) == list(range(400))
        victims = {count: pid for pid, entry, count, _ in log if entry >> 40 == POISON}
        assert sorted(victims) == list(range(1, 21))
        assert letter.reason == f"process {victims[20]} died holding it"
        assert idle(queue)
        check_leases(queue, LEASES)
        check_capacity(queue)
