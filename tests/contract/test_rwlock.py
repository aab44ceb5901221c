"""`RWLock`, in every form. Threads of the test are tasks where a lock is a task's (see `forms.py`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import isthmus
from forms import Form, begin
from support import PATIENCE, Peer, wait_until

Pair = tuple[Form, Callable[..., Peer]]


@pytest.fixture
def lock(form: Form) -> Iterator[Any]:
    handle = form.RWLock("table")
    yield handle
    handle.close()


class Sides:
    """`read` and `write` of a lock of any form, for whoever calls."""

    def __init__(self, form: Form, lock: Any) -> None:
        self._form = form
        self._lock = lock

    def take(self, side: str, timeout: float | None = None) -> Any:
        held = getattr(self._lock, side)
        if self._form.name == "sync":
            return held.acquire(timeout=timeout)
        return self._form.do(lambda: held.acquire(timeout=timeout))

    def give(self, side: str) -> None:
        held = getattr(self._lock, side)
        if self._form.name == "sync":
            held.release()
        else:
            self._form.do(held.release)

    def use(self, side: str) -> bool:
        taken = self.take(side)
        self.give(side)
        return bool(taken)


@pytest.fixture
def sides(form: Form, lock: Any) -> Sides:
    return Sides(form, lock)


class Holder:
    """Another thread (or task) that holds a side until told otherwise."""

    def __init__(self, sides: Sides, side: str) -> None:
        self._go = threading.Event()
        held = threading.Event()

        def hold() -> None:
            sides.take(side)
            held.set()
            self._go.wait(PATIENCE)
            sides.give(side)

        self._holding = begin(hold)
        assert held.wait(PATIENCE)

    def let_go(self) -> None:
        self._go.set()
        self._holding.result(PATIENCE)


def test_many_read_or_one_writes(lock: Any, sides: Sides) -> None:
    readers = [Holder(sides, "read") for _ in range(3)]
    assert sides.take("read", 0) is True
    assert (lock.readers(), lock.writer()) == ([os.getpid()] * 4, None)
    assert sides.take("write", 0) is False
    assert sides.take("write", 0.01) is False
    sides.give("read")
    for each in readers:
        each.let_go()
    assert sides.take("write", 0) is True
    assert (lock.readers(), lock.writer()) == ([], os.getpid())
    assert begin(lambda: sides.take("read", 0)).result(PATIENCE) is False
    assert begin(lambda: sides.take("write", 0)).result(PATIENCE) is False
    sides.give("write")
    assert (lock.readers(), lock.writer()) == ([], None)


@pytest.mark.parametrize("side", ["read", "write"])
def test_only_who_holds_it_gives_it_back(lock: Any, sides: Sides, side: str) -> None:
    with pytest.raises(isthmus.NotOwnerError):
        sides.give(side)
    holder = Holder(sides, side)
    with pytest.raises(isthmus.NotOwnerError):
        sides.give(side)
    holder.let_go()
    with pytest.raises(isthmus.NotOwnerError):
        sides.give(side)


@pytest.mark.parametrize("side", ["read", "write"])
@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_a_timeout_below_zero_is_refused(lock: Any, sides: Sides, side: str, wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout is"):
        sides.take(side, wrong)
    assert (lock.readers(), lock.writer()) == ([], None)


@pytest.mark.parametrize("side", ["read", "write"])
def test_waiting_takes_as_long_as_was_said(sides: Sides, side: str) -> None:
    holder = Holder(sides, "write")
    start = time.monotonic()
    assert sides.take(side, 0.2) is False
    assert time.monotonic() - start >= 0.198
    holder.let_go()


def test_a_writer_is_followed_by_all_who_wait(lock: Any, sides: Sides) -> None:
    holder = Holder(sides, "write")

    waiting = [begin(partial(sides.use, side)) for side in ("read", "write", "read", "write", "read")]
    time.sleep(0.03)
    assert not any(each.done() for each in waiting)
    holder.let_go()
    assert [each.result(PATIENCE) for each in waiting] == [True] * 5
    assert (lock.readers(), lock.writer()) == ([], None)


def test_nobody_reads_what_is_half_written(sides: Sides) -> None:
    page = [0, 0]

    def write() -> None:
        for _ in range(60):
            sides.take("write")
            page[0] += 1
            time.sleep(0)
            page[1] += 1
            sides.give("write")

    def read() -> None:
        for _ in range(100):
            sides.take("read")
            assert page[0] == page[1]
            time.sleep(0)
            assert page[0] == page[1]
            sides.give("read")

    for each in [begin(work) for work in (write, write, read, read, read)]:
        each.result(PATIENCE)
    assert page == [120, 120]


def test_recovering_a_sound_lock_holds_it_for_writing(lock: Any, sides: Sides) -> None:
    with lock.recover() as death:
        assert death is None
        assert lock.writer() == os.getpid()
        assert begin(lambda: sides.take("read", 0)).result(PATIENCE) is False
    assert lock.writer() is None
    holder = Holder(sides, "read")
    with pytest.raises(isthmus.Timeout), lock.recover(timeout=0.05):
        pass
    holder.let_go()


def test_a_closed_handle_says_so(form: Form, lock: Any) -> None:
    other = form.RWLock.open("table")
    sides = Sides(form, other)
    other.close()
    other.close()
    assert other.closed
    assert "closed" in repr(other)
    calls: list[Callable[[], object]] = [
        lambda: sides.take("read"),
        lambda: sides.take("write", 0),
        lambda: sides.give("read"),
        other.readers,
        other.writer,
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    assert not lock.closed


def test_names(form: Form) -> None:
    with pytest.raises(FileNotFoundError):
        form.RWLock.open("pages")
    first = form.RWLock.create("pages")
    with pytest.raises(FileExistsError):
        form.RWLock.create("pages")
    second = form.RWLock("pages")
    Sides(form, first).take("write")
    assert second.writer() == os.getpid()
    Sides(form, first).give("write")
    first.unlink()
    with pytest.raises(FileNotFoundError):
        form.RWLock.open("pages")
    first.close()
    second.close()


HOLDER = """
    lock = form.RWLock.open("table")
    side = getattr(lock, sys.argv[1])
    side.acquire() if form.name == "sync" else form.do(side.acquire)
    print("held", flush=True)
    time.sleep(60)
"""


def test_read_shares_of_the_killed_come_back(pair: Pair) -> None:
    form, spawn = pair
    lock = form.RWLock("table")
    peers = [spawn(HOLDER, "read") for _ in range(2)]
    for peer in peers:
        peer.expect("held")
    assert sorted(lock.readers()) == sorted(peer.pid for peer in peers)
    sides = Sides(form, lock)
    waiting = begin(partial(sides.use, "write"))
    peers[0].kill()
    time.sleep(0.15)
    assert not waiting.done(), "one of them lives"
    peers[1].kill()
    assert waiting.result(PATIENCE) is True
    assert (lock.readers(), lock.writer()) == ([], None)
    lock.close()


def test_a_writer_that_is_killed_leaves_the_lock_poisoned(pair: Pair) -> None:
    form, spawn = pair
    lock = form.RWLock("table")
    sides = Sides(form, lock)
    peer = spawn(HOLDER, "write")
    peer.expect("held")
    assert lock.writer() == peer.pid
    waiting = [begin(partial(sides.take, side)) for side in ("read", "write")]
    peer.kill()
    for each in waiting:
        error = each.exception(PATIENCE)
        assert isinstance(error, isthmus.OwnerDied)
        assert (error.pid, "table" in error.what) == (peer.pid, True)
    with pytest.raises(isthmus.OwnerDied):
        sides.take("read", 0)
    with pytest.raises(KeyError) as failure, lock.recover() as death:
        raise KeyError(death.pid)
    assert failure.value.args == (peer.pid,)
    with pytest.raises(isthmus.OwnerDied):
        sides.take("write", 0)
    waiter = begin(lambda: wait_until(lambda: _reads(sides), "the repair"))
    with lock.recover() as death:
        assert death is not None
    assert waiter.result(PATIENCE) is True
    assert sides.take("write", 5) is True
    sides.give("write")
    lock.close()


def _reads(sides: Sides) -> bool:
    try:
        return sides.use("read")
    except isthmus.OwnerDied:
        return False
