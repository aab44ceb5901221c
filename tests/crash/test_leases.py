"""Random SIGKILL of those who hold leases: every message is done, and done again only if its holder died.

`ISTHMUS_TEST_KILLS` and `ISTHMUS_TEST_SEED` count as in `test_kills.py`.
"""

from __future__ import annotations

import pytest

import isthmus
from leasers import ENDED, ENDING, POISON, RETURNED, deliveries
from queues import idle
from siege import KILLS, Siege, Worker, check_capacity
from support import Watchdog, wait_until

CAPACITY = 2 << 20
LEASES = 32

pytestmark = pytest.mark.timeout(0 if KILLS else 120)


def check_deliveries(siege: Siege, levels: int) -> str:
    """Nothing is lost or done twice; nothing is handed out twice but after its holder's death or will."""
    everyone = siege.workers + siege.dead
    consumers = [worker for worker in everyone if worker.program == "leasers.work"]
    of_message: dict[int, list[tuple[int, int, bool]]] = {}
    for consumer in consumers:
        last: dict[tuple[int, int], int] = {}
        for entry, count, state in deliveries(consumer.journal.words, consumer.done):
            of_message.setdefault(entry, []).append((count, state, consumer.killed))
            producer, sequence = entry >> 40, entry & ((1 << 40) - 1)
            stream = producer, sequence % levels
            if count == 1:
                before = last.get(stream, -1)
                assert sequence > before, f"FIFO: {sequence} of producer {producer} after {before}"
                last[stream] = sequence
    unseen = again = 0
    for entry, found in of_message.items():
        what = f"message {entry & ((1 << 40) - 1)} of producer {entry >> 40}: {sorted(found)}"
        *earlier, (count, state, killed) = sorted(found)
        assert state == ENDED or (killed and state == ENDING), f"lost, {what}"
        numbers = [number for number, _, _ in found]
        assert len(set(numbers)) == len(numbers), f"one delivery to two, {what}"
        for _, before, holder_killed in earlier:
            assert before == RETURNED or (holder_killed and before != ENDED), f"handed out again, {what}"
        again += len(earlier)
        unseen += count - len(found)
    # A consumer may be killed after a message is its own and before it could say so.
    assert unseen <= siege.kills, f"{unseen} deliveries that nobody knows of, {siege.kills} kills"

    for supplier in (worker for worker in everyone if worker.program == "leasers.supply"):
        number = supplier.arguments["number"]
        assert supplier.started - supplier.done <= 1
        missing = [n for n in range(supplier.done) if number << 40 | n not in of_message]
        assert not missing, f"lost: {missing[:20]} of producer {number}"
        assert number << 40 | supplier.started not in of_message, "out of nothing"
    return f"{len(of_message)} messages, {siege.kills} kills, {again} handed out again, {unseen} unseen"


def check_leases(handle: isthmus.Queue[bytes]) -> None:
    """Every record of a lease can be used."""
    handle.put_many([b"x"] * (LEASES + 1))
    jobs = [handle.lease(timeout=0) for _ in range(LEASES)]
    with pytest.raises(isthmus.Empty, match="leases"):
        handle.lease(timeout=0)
    for job in jobs:
        job.ack()
    handle.get(timeout=0)


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
            check_leases(queue)
            if levels == 1:
                check_capacity(queue)
