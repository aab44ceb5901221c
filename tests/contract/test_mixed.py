"""All forms at once: on one handle, on several handles of one object, in one process."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import isthmus
from forms import FORMS, Form, begin
from queues import KIB, drain, idle
from support import PATIENCE, wait_until


@pytest.fixture
def forms() -> Iterator[list[Form]]:
    """Two of each."""
    opened = [Form(name) for name in FORMS * 2]
    yield opened
    for form in opened:
        form.close()


@pytest.fixture(params=["one handle", "a handle each"])
def handles(request: pytest.FixtureRequest, forms: list[Form]) -> Iterator[list[Any]]:
    """A small queue in all forms."""
    first = isthmus.Queue("q", type=bytes, capacity=64 * KIB, priorities=2)
    several = request.param == "a handle each"
    yield [form.wrap(isthmus.Queue.open("q") if several else first) for form in forms]
    first.close()


def test_each_message_comes_once_whoever_puts_and_takes(handles: list[Any]) -> None:
    messages = 600
    lock = threading.Lock()
    got: Counter[bytes] = Counter()

    def produce(number: int) -> None:
        choose = random.Random(number)
        n = 0
        while n < messages:
            q = handles[number]
            batch = [b"%d %d " % (number, n + k) + bytes(choose.choice([0, 100, 3000])) for k in range(4)]
            match choose.randrange(3):
                case 0:
                    q.put_many(batch, priority=n % 2)
                case 1:
                    for message in batch:
                        q.put(message, timeout=PATIENCE)
                case _:
                    for message in batch:
                        with q.reserve(len(message), timeout=PATIENCE) as block:
                            block[:] = message
            n += 4

    def consume(number: int) -> None:
        choose = random.Random(number)
        q = handles[number]
        while True:
            try:
                match choose.randrange(4):
                    case 0:
                        some = q.get_many(5)
                    case 1:
                        with q.lease() as job:
                            some = [job.message]
                    case 2:
                        with q.get_view() as view:
                            some = [bytes(view)]
                    case _:
                        some = [q.get(timeout=PATIENCE)]
            except isthmus.ShutDown:
                return
            with lock:
                got.update(b" ".join(each.split(b" ")[:2]) for each in some)

    numbers = range(len(handles))
    consumers = [begin(lambda n=n: consume(n)) for n in numbers]  # type: ignore[misc]
    producers = [begin(lambda n=n: produce(n)) for n in numbers]  # type: ignore[misc]
    for each in producers:
        each.result(PATIENCE)
    handles[0].shutdown()
    for each in consumers:
        each.result(PATIENCE)
    assert got == Counter(b"%d %d" % (number, n) for number in numbers for n in range(messages))
    assert idle(handles[0])


def test_as_many_as_there_are_messages_are_woken(handles: list[Any]) -> None:
    for count in (1, len(handles), 3):
        waiting = [begin(handle.get) for handle in handles]
        wait_until(lambda: handles[0].stats().consumers_waiting == len(handles), "all to wait")
        handles[1].put_many([b"x"] * count)
        wait_until(lambda: sum(each.done() for each in waiting) == count, "so many to have one")  # noqa: B023
        handles[2].put_many([b"y"] * (len(handles) - count))
        for each in waiting:
            each.result(PATIENCE)
        assert idle(handles[0])


def test_all_hear_of_the_end(handles: list[Any]) -> None:
    waiting = [begin(lambda q=handle: list(q)) for handle in handles]  # type: ignore[misc]
    wait_until(lambda: handles[0].stats().consumers_waiting == len(handles), "all to wait")
    handles[-1].shutdown()
    assert [each.result(PATIENCE) for each in waiting] == [[]] * len(handles)


def test_all_who_wait_for_room_get_it(handles: list[Any]) -> None:
    q = handles[0]
    while True:
        try:
            q.put(bytes(4000), timeout=0)
        except isthmus.Full:
            break
    waiting = [begin(lambda q=handle: q.put(bytes(4000))) for handle in handles]  # type: ignore[misc]
    wait_until(lambda: q.stats().producers_waiting == len(handles), "all to wait")
    for _ in handles:
        q.get()
    for each in waiting:
        each.result(PATIENCE)
    drain(q)


@pytest.mark.parametrize("several", [False, True], ids=["one handle", "a handle each"])
def test_a_mutex_excludes_all_forms(forms: list[Form], several: bool) -> None:
    first = isthmus.Mutex("lock")
    mutexes = [form.wrap(isthmus.Mutex.open("lock") if several else first) for form in forms]
    inside = 0
    count = 0

    def work(mutex: Any) -> None:
        nonlocal inside, count
        turns = 0
        while turns < 60:
            if not mutex.acquire(timeout=random.choice([None, 0, 0.001, PATIENCE])):
                continue
            inside += 1
            assert inside == 1
            count += 1
            inside -= 1
            mutex.release()
            turns += 1

    working = [begin(lambda m=mutex: work(m)) for mutex in mutexes]  # type: ignore[misc]
    for each in working:
        each.result(PATIENCE)
    assert count == 60 * len(mutexes)
    assert not first.locked()
    for mutex in mutexes:
        mutex.close()
    first.close()
