"""Random SIGKILL of those who hold leases: every message is done, and done again only if its holder died.

`ISTHMUS_TEST_KILLS` and `ISTHMUS_TEST_SEED` count as in `test_kills.py`.
"""

from __future__ import annotations

import pytest

import isthmus
from leasers import POISON, check_deliveries, check_leases
from queues import idle
from siege import KILLS, Siege, Worker, check_capacity
from support import Watchdog, wait_until

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
