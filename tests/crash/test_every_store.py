"""A process killed after each store into shared memory, and at each system call of a creation.

Real processes, the built module: what the crash sweep of the Rust core does in one process, seen from
outside. Some instructions in between are taken too, others in every run; `ISTHMUS_TEST_KILLS=100000` takes
every single one.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import isthmus
from queues import limit_of
from siege import KILLS, Siege
from stepper import at_each_store, stepping, trace
from support import object_files

CAPACITY = 64 << 10

pytestmark = pytest.mark.timeout(0 if KILLS else 120)


@pytest.fixture
def siege() -> Iterator[Siege]:
    """Starts the workers."""
    with stepping(seed=14) as found:
        yield found


FRESH = "q = isthmus.Queue.open(name, type=bytes); small = bytes(9); large = bytes(5000)"
# The first call of a handle announces it; later ones are some hundred instructions.
WARM = FRESH + "\nq.put(b''); q.get()"

PUTS = {
    "q.put(small)": [bytes(9)],
    "q.put(b'')": [b""],
    "q.put(large)": [bytes(5000)],
    "q.put_many([b'1', b'22', b'333'])": [b"1", b"22", b"333"],
    "q.put_many([b'1', large, b'333'])": [b"1", bytes(5000), b"333"],
}
STATES = [("warm", operation) for operation in PUTS]
STATES += [("first-call", "q.put(small)"), ("wraps", "q.put(small)")]


def drain(handle: isthmus.Queue[bytes]) -> list[bytes]:
    """All that comes, until what was put here."""
    handle.put(b"after", timeout=20)
    messages = []
    while (got := handle.get(timeout=20)) != b"after":
        messages.append(got)
    return messages


def check_whole(handle: isthmus.Queue[bytes], largest: int) -> None:
    """The queue is empty, and every byte of it can be used."""
    assert handle.qsize() == 0
    handle.put(bytes(largest), timeout=20)
    assert len(handle.get(timeout=0)) == largest
    stats = handle.stats()
    assert (stats.depth, stats.bytes_in_use, stats.put - stats.got) == (0, 0, 0)


@pytest.mark.parametrize(("state", "operation"), STATES)
def test_a_producer_killed_after_any_store(siege: Siege, state: str, operation: str) -> None:
    """What it was putting is there from the front on, or not at all; never half, never twice."""
    with isthmus.Queue("stepped", type=bytes, capacity=CAPACITY) as handle:
        largest = limit_of(handle)
        whole = PUTS[operation]

        def before() -> None:
            if state == "wraps":  # the ring is at another place each time
                for _ in range(7):
                    handle.put(bytes(4000), timeout=20)
                    handle.get(timeout=0)

        def after() -> None:
            messages = drain(handle)
            assert messages == whole[: len(messages)]
            assert len(messages) in {0, len(whole)} or operation.startswith("q.put_many")
            check_whole(handle, largest)

        prepare = FRESH if state == "first-call" else WARM
        at_each_store(siege, operation, prepare, before, after)


GETS = {"q.get()": 1, "q.get_many(2)": 2, "q.get_many(10)": 10, "q.get(timeout=1)": 1}
INSIDE: list[tuple[str, tuple[int, ...]]] = [
    ("q.get()", (5, 6, 7)),
    ("q.get()", (5000, 9000, 5000)),
    ("q.get_many(2)", (5, 6, 7)),
    ("q.get_many(2)", (5000, 6000, 7)),
    ("q.get_many(10)", (5, 5000, 7)),
    ("q.get(timeout=1)", (5, 5000)),
]


@pytest.mark.parametrize(("operation", "sizes"), INSIDE)
def test_a_consumer_killed_after_any_store(siege: Siege, operation: str, sizes: tuple[int, ...]) -> None:
    """At most what this call took is gone, from the front; the rest is in order, and all memory is back."""
    with isthmus.Queue("stepped", type=bytes, capacity=CAPACITY) as handle:
        largest = limit_of(handle)
        inside = [bytes([number]) * size for number, size in enumerate(sizes)]

        def before() -> None:
            handle.put_many(inside, timeout=20)

        def after() -> None:
            messages = drain(handle)
            lost = len(inside) - len(messages)
            assert messages == inside[lost:]
            assert lost <= GETS[operation]
            check_whole(handle, largest)

        at_each_store(siege, operation, FRESH, before, after)


@pytest.mark.parametrize("operation", ["q.put(small)", "q.put(large)"])
def test_a_producer_killed_while_a_consumer_sleeps(siege: Siege, operation: str) -> None:
    """A message that was committed reaches the sleeper even where the wake-up died with its sender."""
    with isthmus.Queue("stepped", type=bytes, capacity=CAPACITY) as handle:
        expected = PUTS[operation][0]
        got: list[bytes] = []
        sleeper = threading.Thread()

        def before() -> None:
            nonlocal sleeper
            got.clear()
            sleeper = threading.Thread(target=lambda: got.append(handle.get(timeout=60)), daemon=True)
            sleeper.start()
            while handle.stats().consumers_waiting == 0:
                time.sleep(0.0005)

        def after() -> None:
            # By itself, or by the next message: but never by waiting for the one that is there.
            sleeper.join(3.0 if not handle.empty() else 0.01)
            if sleeper.is_alive():
                assert handle.empty(), "a message lies there and its consumer sleeps"
                handle.put(b"after", timeout=20)
                sleeper.join(20)
            else:
                handle.put(b"after", timeout=20)
            if got == [expected]:
                assert handle.get(timeout=20) == b"after"
            assert got in ([expected], [b"after"])
            assert handle.empty()

        at_each_store(siege, operation, FRESH, before, after)


MUTEX = "m = isthmus.Mutex.open(name)"

LOCKS = {
    "m.acquire()": MUTEX,
    "m.acquire(timeout=5)": MUTEX,
    "m.release()": MUTEX + "\nm.acquire()",
    "m.recover().__enter__()": MUTEX,
    "block.__exit__(None, None, None)": MUTEX + "\nblock = m.recover()\nblock.__enter__()",
}


TAKERS = [(False, operation) for operation in LOCKS]
TAKERS += [(True, "m.recover().__enter__()"), (True, "block.__exit__(None, None, None)")]


@pytest.mark.parametrize(("poisoned", "operation"), TAKERS)
def test_a_lock_taker_killed_after_any_store(siege: Siege, poisoned: bool, operation: str) -> None:
    """The next gets the lock, or is told and repairs it; nobody waits, and poison is never forgotten."""
    lock = isthmus.Mutex("stepped")

    def before() -> None:
        if poisoned:
            held = siege.start("operate", operation="0", name="stepped", prepare=LOCKS["m.release()"])
            while not held.attached:
                siege.check_errors()
                time.sleep(0.0005)
            siege.kill(held)

    def after() -> None:
        told = False
        try:
            assert lock.acquire(timeout=20)
            lock.release()
        except isthmus.OwnerDied:
            told = True
            with lock.recover(timeout=20) as death:
                assert death is not None
        # Only a repair that was finished takes the poison away.
        if poisoned and "__enter__" in operation:
            assert told
        assert lock.acquire(timeout=20)
        lock.release()
        assert not lock.locked()

    at_each_store(siege, operation, LOCKS[operation], before, after)
    lock.close()


@pytest.mark.parametrize("operation", ["v.add(2)", "v.set(7)", "v.exchange(7)", "v.compare_and_set(5, 7)"])
def test_a_value_is_as_before_or_as_after(siege: Siege, operation: str) -> None:
    """There is one store, so nothing in between; whoever comes next goes on from either."""
    with isthmus.Value("stepped") as value:

        def after() -> None:
            found = value.get()
            assert found in (5, 7)
            assert value.add(1) == found + 1

        at_each_store(siege, operation, "v = isthmus.Value.open(name)", lambda: value.set(5), after)


LIFE = {
    "first use, creation": ("isthmus.Queue(name, type=bytes, capacity=1 << 17)", ""),
    "creation": (
        "isthmus.Queue(name, type=bytes, capacity=1 << 17)",
        "other = isthmus.Queue(type=bytes, capacity=1 << 16)",
    ),
    "creation insisted on": ("isthmus.Queue.create(name, type=bytes, capacity=1 << 17)", ""),
    "last close": ("q.close()", "q = isthmus.Queue(name, type=bytes, capacity=1 << 17)"),
    "unlink": ("q.unlink()", "q = isthmus.Queue(name, type=bytes, capacity=1 << 17)"),
    "creation of a mutex": ("isthmus.Mutex(name)", ""),
    "creation of a value": ("isthmus.Value(name, 7)", ""),
    "cleaning": ("isthmus.clean()", "q = isthmus.Queue(name, type=bytes, capacity=1 << 17)\nq.close()"),
}


@pytest.mark.parametrize("case", LIFE)
def test_killed_at_each_system_call_of_creating_and_removing(
    siege: Siege, namespace: Path, case: str
) -> None:
    """Before and after each: the name is absent or whole, the next user has a working object."""
    operation, prepare = LIFE[case]
    point = 0
    finished = False
    while not finished:
        tracee = trace(siege, operation, "born", prepare)
        finished = not tracee.system_calls(point)
        tracee.kill()
        point += 2  # entry and exit: what is after one call is before the next
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                # Another capacity: a new one.
                with isthmus.Queue("born", type=bytes, capacity=1 << 18) as handle:
                    handle.put(b"works", timeout=20)
                    assert handle.get(timeout=20) == b"works"
            assert object_files(namespace) == []
            assert isthmus.clean() == []
        except BaseException as error:
            error.add_note(f"killed at system call {point} of {case}")
            raise
    print(f"{case}: {point} points")
    assert point > 5
