"""Leases, reservations, views and dead letters, their process killed after each store into shared memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import isthmus
from leasers import check_leases
from queues import LEASES_OF_64_KIB, limit_of, queue_of_bytes
from siege import KILLS, Siege
from stepper import at_each_store, stepping
from support import wait_until

CAPACITY = 64 << 10
SMALL, LARGE = b"small one", b"large" * 1000

pytestmark = pytest.mark.timeout(0 if KILLS else 120)

# The first call of a handle announces it, and is stepped through in test_every_store.py.
OPEN = "q = isthmus.Queue.open(name)\nq.wait_readable(0)\n"
BY_SIZE = pytest.mark.parametrize("message", [SMALL, LARGE], ids=["small", "large"])


@pytest.fixture
def siege() -> Iterator[Siege]:
    """Starts the workers."""
    with stepping(seed=23) as found:
        yield found


def stepped(**attributes: Any) -> Any:
    """The queue that workers are killed on."""
    return queue_of_bytes("stepped", **{"capacity": CAPACITY, **attributes})


def settle(handle: isthmus.Queue[bytes]) -> tuple[list[bytes], list[isthmus.DeadLetter]]:
    """All that can still be got, in its order, and all that is dead; then nothing is left or missing."""
    handle.stats()  # gives back what the dead held
    dead = list(handle.dead)
    handle.put(b"after", timeout=20)
    messages = []
    while (got := handle.get(timeout=20)) != b"after":
        messages.append(got)
    largest = limit_of(handle)
    handle.put(bytes(largest), timeout=20)
    assert len(handle.get(timeout=0)) == largest
    check_leases(handle, LEASES_OF_64_KIB)
    stats = handle.stats()
    assert (stats.depth, stats.bytes_in_use, stats.leased, stats.dead) == (0, 0, 0, 0)
    return messages, dead


# ---------------------------------------------------------------------------------------------- leases

ENDS: dict[str, tuple[bool, bool, bool]] = {
    # what may have become of the message: done, inside, dead
    "q.lease(timeout=1)": (False, True, False),
    "job.ack()": (True, True, False),
    "job.nack('why')": (False, True, False),
    "job.reject('why')": (False, True, True),
}


@BY_SIZE
@pytest.mark.parametrize("operation", ENDS)
def test_a_leased_message_is_done_inside_or_dead_and_never_two_of_these(
    siege: Siege, operation: str, message: bytes
) -> None:
    with stepped() as handle:
        may_be_done, may_be_inside, may_be_dead = ENDS[operation]

        def before() -> None:
            handle.put_many([message, b"next", b"last"])

        def after() -> None:
            messages, dead = settle(handle)
            assert messages[-2:] == [b"next", b"last"]
            inside = messages[:-2]
            assert inside in ([], [message])
            assert [letter.data for letter in dead] in ([], [message])
            assert len(inside) + len(dead) <= 1
            assert may_be_inside or not inside
            assert may_be_dead or not dead
            assert may_be_done or inside or dead
            assert all(letter.reason == "why" for letter in dead)

        prepare = OPEN if operation.startswith("q.") else OPEN + "job = q.lease()"
        at_each_store(siege, operation, prepare, before, after)


@BY_SIZE
@pytest.mark.parametrize("operation", ["q.lease()", "q.get()", "q.get_view()"])
def test_a_message_that_was_given_back_is_there_or_was_got(
    siege: Siege, operation: str, message: bytes
) -> None:
    with stepped() as handle:

        def before() -> None:
            handle.put_many([message, message + b"2", b"last"])
            for job in [handle.lease(), handle.lease()]:
                job.nack("before")

        def after() -> None:
            messages, dead = settle(handle)
            assert dead == []
            assert messages[-2:] == [message + b"2", b"last"]
            assert messages[:-2] == [message] or (operation != "q.lease()" and messages[:-2] == [])

        at_each_store(siege, operation, OPEN, before, after)


@BY_SIZE
def test_the_last_delivery_is_followed_by_death_whatever_was_stored(siege: Siege, message: bytes) -> None:
    with stepped(max_deliveries=1) as handle:

        def before() -> None:
            handle.put(message)

        def after() -> None:
            messages, dead = settle(handle)
            assert messages == []
            assert [letter.data for letter in dead] == [message]
            assert dead[0].reason == "why" or "died holding it" in dead[0].reason

        at_each_store(siege, "job.nack('why')", OPEN + "job = q.lease()", before, after)


def test_one_who_gives_back_what_the_dead_held_may_die_too(siege: Siege) -> None:
    with stepped() as handle:

        def before() -> None:
            handle.put_many([LARGE, b"second", b"third"])
            prepare = OPEN + "jobs = [q.lease(), q.lease()]"
            held = siege.start("operate", operation="0", name="stepped", prepare=prepare)
            wait_until(lambda: held.attached, "the leases")
            siege.kill(held)

        def after() -> None:
            assert settle(handle) == ([LARGE, b"second", b"third"], [])

        at_each_store(siege, "q.stats()", OPEN, before, after, few=True)


def test_leasing_on_one_level_leaves_the_others(siege: Siege) -> None:
    with stepped(priorities=3) as handle:

        def before() -> None:
            for level in (0, 1, 2):
                handle.put_many([bytes([level]), bytes([level]) * 5000], priority=level)

        def after() -> None:
            # "after" is of the lowest level, so it comes last.
            messages, dead = settle_levels(handle)
            assert [each[0] for each in messages] == [2, 2, 1, 1, 0, 0]
            assert [len(each) for each in messages] == [1, 5000] * 3
            assert dead == 0

        at_each_store(
            siege, "q.lease()", OPEN + "q.lease().ack(); q.put(bytes([2]), priority=2)", before, after
        )


def settle_levels(handle: isthmus.Queue[bytes]) -> tuple[list[bytes], int]:
    """As `settle`; what a worker put behind the rest of its level counts as where it was."""
    messages, dead = settle(handle)
    urgent = [each for each in messages if each[0] == 2]
    return sorted(urgent, key=len) + [each for each in messages if each[0] != 2], len(dead)


# ---------------------------------------------------------------------------------------------- sleepers


@BY_SIZE
def test_a_message_given_back_reaches_one_who_sleeps(siege: Siege, message: bytes) -> None:
    with stepped() as handle:
        got: list[bytes] = []
        sleeper = threading.Thread()

        def before() -> None:
            got.clear()
            handle.put(message)

        def sleep() -> None:
            nonlocal sleeper
            sleeper = threading.Thread(target=lambda: got.append(handle.get(timeout=60)), daemon=True)
            sleeper.start()
            wait_until(lambda: handle.stats().consumers_waiting == 1, "the sleeper")

        def after() -> None:
            sleeper.join(20)
            assert got == [message]

        at_each_store(siege, "job.nack()", OPEN + "job = q.lease()", before, after, then=sleep)


@pytest.mark.parametrize("operation", ["job.ack()", "job.reject('why')"])
def test_the_end_reaches_those_who_wait_for_the_last_lease(siege: Siege, operation: str) -> None:
    with stepped(ends_with_producers=True) as handle:
        ended: list[bool] = []
        sleeper = threading.Thread()

        def before() -> None:
            ended.clear()
            with stepped() as producer:
                producer.put(b"x")

        def work() -> None:
            for job in handle.leases():
                job.ack()
            ended.append(True)

        def sleep() -> None:
            nonlocal sleeper
            sleeper = threading.Thread(target=work, daemon=True)
            sleeper.start()
            wait_until(lambda: handle.stats().consumers_waiting == 1, "the sleeper")

        def after() -> None:
            sleeper.join(20)
            assert ended == [True]
            list(handle.dead)

        at_each_store(siege, operation, OPEN + "job = q.lease()", before, after, then=sleep)


@pytest.mark.parametrize("operation", ["job.ack()", "job.reject('why')"])
def test_a_producer_that_waits_hears_what_became_of_its_message(siege: Siege, operation: str) -> None:
    with stepped() as handle:
        outcomes: list[str] = []
        putter = threading.Thread()

        def put() -> None:
            try:
                handle.put(b"x", until="done")
                outcomes.append("told")
            except isthmus.Undelivered as error:
                outcomes.append(error.reason)

        def before() -> None:
            nonlocal putter
            outcomes.clear()
            putter = threading.Thread(target=put, daemon=True)
            putter.start()
            wait_until(lambda: handle.qsize() == 1, "the message")

        def after() -> None:
            wait_until(
                lambda: outcomes or handle.qsize(), "the producer to hear, or the message to come back"
            )
            if not outcomes:
                assert handle.get(timeout=0) == b"x"
            putter.join(20)
            assert outcomes == ["told"] or (outcomes == ["why"] and "reject" in operation)
            list(handle.dead)

        at_each_store(siege, operation, OPEN + "job = q.lease()", before, after)


# ---------------------------------------------------------------------------------------------- in place

RESERVES = {
    "q.reserve(5000).put()": (OPEN + "q.reserve(1).cancel()", [bytes(5000)]),
    "r.put()": (OPEN + "r = q.reserve(20000); memoryview(r)[:] = b'r' * 20000", [b"r" * 20_000]),
    "(r.shorten(5000), r.put())": (
        OPEN + "r = q.reserve(20000); memoryview(r)[:] = b'r' * 20000",
        [b"r" * 5000],
    ),
    "r.cancel()": (OPEN + "r = q.reserve(20000)", []),
}


@pytest.mark.parametrize("operation", RESERVES)
def test_a_reservation_is_put_whole_or_given_back(siege: Siege, operation: str) -> None:
    with stepped() as handle:
        prepare, put = RESERVES[operation]

        def after() -> None:
            messages, dead = settle(handle)
            # Fresh memory is zeroed, memory used before is not: what is put is only as long as it should be.
            assert [len(each) for each in messages] in ([], [len(each) for each in put])
            assert messages in ([], put) or "reserve" in operation
            assert dead == []

        at_each_store(siege, operation, prepare, lambda: None, after)


VIEWS = {
    "q.get_view()": OPEN,
    "v.release()": OPEN + "v = q.get_view()",
    "m.release()": OPEN + "v = q.get_view(); m = memoryview(v); v.release()",
    "job.ack()": OPEN + "job = q.lease(view=True); m = memoryview(job.message)",
    "m2.release()": OPEN + "job = q.lease(view=True); m2 = memoryview(job.message); job.nack('why')",
}


@pytest.mark.parametrize("operation", VIEWS)
def test_what_was_looked_at_gives_its_memory_back(siege: Siege, operation: str) -> None:
    with stepped() as handle:
        back = operation == "m2.release()"

        def before() -> None:
            handle.put_many([LARGE, LARGE + b"2", SMALL])

        def after() -> None:
            messages, dead = settle(handle)
            assert dead == []
            assert messages[-2:] == [LARGE + b"2", SMALL]
            assert messages[:-2] == [LARGE] or (not back and messages[:-2] == [])

        at_each_store(siege, operation, VIEWS[operation], before, after)


# ---------------------------------------------------------------------------------------------- the dead


@BY_SIZE
@pytest.mark.parametrize("operation", ["q.dead.get()", "q.dead.requeue()"])
def test_dead_letters_are_taken_or_stay(siege: Siege, operation: str, message: bytes) -> None:
    with stepped() as handle:
        letters = [message, b"second", message + b"3"]

        def before() -> None:
            handle.put_many(letters)
            for job in [handle.lease() for _ in letters]:
                job.reject("why")

        def after() -> None:
            messages, dead = settle(handle)
            assert all((letter.reason, letter.deliveries) == ("why", 1) for letter in dead)
            found = [letter.data for letter in dead]
            if "requeue" in operation:
                assert sorted(messages + found) == sorted(letters)
                assert messages == [each for each in letters if each in messages]
            else:
                assert messages == []
                assert found in (letters, letters[1:])

        at_each_store(siege, operation, OPEN, before, after)


REFUSES = """
q = isthmus.Queue.open(name, type=isthmus.Codec("none", bytes, int))
q.wait_readable(0)
def get():
    try: q.get()
    except isthmus.InvalidMessage: pass
"""


def test_a_message_that_cannot_be_decoded_is_got_or_dead(siege: Siege) -> None:
    codec = isthmus.Codec("none", bytes, bytes)
    with isthmus.Queue("stepped", type=codec, capacity=CAPACITY) as handle:

        def before() -> None:
            handle.put(LARGE)

        def after() -> None:
            messages, dead = settle(handle)
            assert (messages, [letter.data for letter in dead]) in (
                ([LARGE], []),
                ([], []),
                ([], [LARGE]),
            )
            assert all("invalid literal for int()" in letter.reason for letter in dead)

        at_each_store(siege, "get()", REFUSES, before, after, few=True)
