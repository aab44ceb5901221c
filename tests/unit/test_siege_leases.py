"""What the kill tests of leases check is checked itself: each of their assertions fails when it should."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from leasers import COUNT_SHIFT, ENDED, ENDING, LEASED, RETURNED, RETURNING, check_deliveries, check_leases
from queues import KIB, LEASES_OF_64_KIB, queue_of_bytes
from workers import Journal

Log = list[tuple[int, int, int]]
"""Which message, which delivery of it, how far the consumer came."""


def siege(*logs: Log, killed: int = 0, done: int = 4, started: int = 4) -> Any:
    """A siege with one producer and these consumers, the first `killed` of which were killed."""
    supplier = SimpleNamespace(
        program="leasers.supply", arguments={"number": 1}, started=started, done=done, killed=False
    )
    consumers = []
    for index, log in enumerate(logs):
        words = [0] * Journal.LOG
        for sequence, count, state in log:
            words += [1 << 40 | sequence, count << COUNT_SHIFT | state]
        journal = SimpleNamespace(words=memoryview(bytearray(8 * len(words))).cast("Q"))
        for place, word in enumerate(words):
            journal.words[place] = word
        consumers.append(
            SimpleNamespace(program="leasers.work", journal=journal, done=len(log), killed=index < killed)
        )
    return SimpleNamespace(workers=[supplier, *consumers], dead=[], kills=killed)


ALL: Log = [(number, 1, ENDED) for number in range(4)]

GOOD = {
    "all by one": siege(ALL),
    "by two": siege(ALL[::2], ALL[1::2]),
    "killed holding it": siege([(0, 1, LEASED)], [(1, 1, ENDED), (0, 2, ENDED), *ALL[2:]], killed=1),
    "killed acknowledging it, done": siege([(0, 1, ENDING)], ALL[1:], killed=1),
    "killed acknowledging it, not done": siege([(0, 1, ENDING)], [(0, 2, ENDED), *ALL[1:]], killed=1),
    "killed giving it back": siege([(0, 1, RETURNING)], [(0, 2, ENDED), *ALL[1:]], killed=1),
    "given back": siege([(0, 1, RETURNED), *ALL[1:], (0, 2, ENDED)]),
    "killed before it said a word": siege([], [(0, 2, ENDED), *ALL[1:]], killed=1),
    "the last put was interrupted": siege(ALL, started=5),
    "and came through": siege([*ALL, (4, 1, ENDED)], started=5),
    "redelivered after newer ones": siege([(0, 1, LEASED)], [*ALL[1:], (0, 2, ENDED)], killed=1),
}

BAD = {
    "lost": (siege(ALL[1:]), "lost"),
    "lost with its holder": (siege([(0, 1, LEASED)], ALL[1:], killed=1), "lost"),
    "lost given back": (siege([(0, 1, RETURNED), *ALL[1:]]), "lost"),
    "never ended by one who lives": (siege([(0, 1, ENDING), *ALL[1:]]), "lost"),
    "done twice": (siege(ALL, [(0, 2, ENDED)]), "handed out again"),
    "one delivery twice": (siege([(0, 1, LEASED)], ALL, killed=1), "one delivery to two"),
    "taken from the living": (siege([(0, 1, LEASED)], [(0, 2, ENDED), *ALL[1:]]), "handed out again"),
    "done by the dead and again": (siege([ALL[0]], [(0, 2, ENDED), *ALL[1:]], killed=1), "handed out again"),
    "deliveries to nobody": (siege([(0, 3, ENDED), *ALL[1:]], [], killed=1), "nobody knows of"),
    "out of order": (siege(ALL[::-1]), "FIFO"),
    "out of nothing": (siege([*ALL, (4, 1, ENDED)]), "out of nothing"),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_is_right_passes(case: str) -> None:
    assert check_deliveries(GOOD[case], levels=1)


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_fails_and_is_named(case: str) -> None:
    wrong, name = BAD[case]
    with pytest.raises(AssertionError, match=name):
        check_deliveries(wrong, levels=1)


def test_the_order_is_that_of_each_level() -> None:
    backwards = siege([ALL[1], ALL[0], ALL[3], ALL[2]])
    assert check_deliveries(backwards, levels=2)
    with pytest.raises(AssertionError, match="FIFO"):
        check_deliveries(backwards, levels=1)


def test_a_lease_that_is_missing_is_noticed() -> None:
    with queue_of_bytes(capacity=64 * KIB) as q:
        check_leases(q, LEASES_OF_64_KIB)
        q.put(b"x")
        job = q.lease()
        with pytest.raises(AssertionError, match="15 of 16"):
            check_leases(q, LEASES_OF_64_KIB)
        job.ack()
