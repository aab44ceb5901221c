"""`Mutex`, in every form. Threads of the test are tasks where a lock is a task's (see `forms.py`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import isthmus
from forms import Form, begin
from support import PATIENCE, object_files


@pytest.fixture
def mutex(form: Form) -> Iterator[Any]:
    handle = form.Mutex("lock")
    yield handle
    handle.close()


class Holder:
    """Another thread (or task) that holds it until told otherwise."""

    def __init__(self, mutex: Any) -> None:
        self._go = threading.Event()
        held = threading.Event()

        def hold() -> None:
            mutex.acquire()
            held.set()
            self._go.wait(PATIENCE)
            mutex.release()

        self._holding = begin(hold)
        assert held.wait(PATIENCE)

    def let_go(self) -> None:
        self._go.set()
        self._holding.result(PATIENCE)


def test_taking_and_giving(mutex: Any) -> None:
    assert (mutex.locked(), mutex.owner(), mutex.name) == (False, None, "lock")
    assert mutex.acquire() is True
    assert (mutex.locked(), mutex.owner()) == (True, os.getpid())
    mutex.release()
    with mutex:
        assert mutex.locked()
    assert not mutex.locked()
    with pytest.raises(KeyError), mutex:
        raise KeyError
    assert not mutex.locked()


@pytest.mark.parametrize("timeout", [0, 1e-9, 0.01, 0.3])
def test_while_another_holds_it_it_says_false_and_not_too_early(mutex: Any, timeout: float) -> None:
    holder = Holder(mutex)
    start = time.monotonic()
    assert mutex.acquire(timeout=timeout) is False
    assert time.monotonic() - start >= timeout - 0.002
    with pytest.raises(isthmus.Timeout), mutex.recover(timeout=timeout):
        pass
    assert mutex.owner() == os.getpid()
    holder.let_go()
    assert not mutex.locked()


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e300, 1000.0])
def test_it_waits_until_it_is_free(mutex: Any, timeout: float | None) -> None:
    holder = Holder(mutex)

    def work() -> bool:
        taken = mutex.acquire(timeout=timeout)
        mutex.release()
        return bool(taken)

    waiting = [begin(work) for _ in range(5)]
    holder.let_go()
    assert [each.result(PATIENCE) for each in waiting] == [True] * 5
    assert not mutex.locked()


@pytest.mark.parametrize("wrong", [-1, -0.001, float("nan"), float("-inf")])
def test_a_timeout_below_zero_or_no_number_is_refused(mutex: Any, wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout is"):
        mutex.acquire(timeout=wrong)
    with pytest.raises(ValueError, match="timeout is"):
        mutex.recover(timeout=wrong).__enter__()
    assert not mutex.locked()
    with pytest.raises(TypeError):
        mutex.acquire(timeout="soon")


def test_one_who_holds_it_would_wait_for_ever(mutex: Any) -> None:
    with mutex:
        with pytest.raises(isthmus.DeadlockError):
            mutex.acquire()
        with pytest.raises(isthmus.DeadlockError):
            mutex.recover().__enter__()
        assert mutex.acquire(timeout=0) is False
        assert mutex.acquire(timeout=0.01) is False
        assert mutex.locked()
    assert not mutex.locked()


def test_only_who_holds_it_gives_it_back(mutex: Any) -> None:
    with pytest.raises(isthmus.NotOwnerError):
        mutex.release()
    holder = Holder(mutex)
    with pytest.raises(isthmus.NotOwnerError):
        mutex.release()
    assert mutex.locked()
    holder.let_go()


def test_a_block_that_has_given_it_back_already_says_so_unless_it_failed(mutex: Any) -> None:
    with pytest.raises(isthmus.NotOwnerError), mutex:
        mutex.release()

    def fail() -> None:
        mutex.release()
        raise KeyError

    with pytest.raises(KeyError) as caught, mutex:
        fail()
    assert caught.value.__context__ is None
    assert not mutex.locked()


def test_recovering_a_sound_mutex_holds_it(mutex: Any) -> None:
    with mutex.recover() as death:
        assert death is None
        assert mutex.owner() == os.getpid()
        assert begin(lambda: mutex.acquire(timeout=0)).result(PATIENCE) is False
    assert not mutex.locked()


def test_a_repair_of_a_sound_mutex_that_fails_leaves_it_sound(mutex: Any) -> None:
    with pytest.raises(KeyError), mutex.recover():
        raise KeyError
    assert not mutex.locked()
    assert mutex.acquire(timeout=0) is True
    mutex.release()


def test_nobody_else_is_inside(mutex: Any) -> None:
    inside = 0
    count = 0

    def work() -> None:
        nonlocal inside, count
        for turn in range(100):
            if turn % 3:
                mutex.acquire(timeout=PATIENCE)
            else:
                mutex.acquire()
            inside += 1
            assert inside == 1
            count += 1
            if turn % 10 == 0:
                time.sleep(0)
            inside -= 1
            mutex.release()

    for each in [begin(work) for _ in range(5)]:
        each.result(PATIENCE)
    assert count == 500
    assert not mutex.locked()


def test_a_closed_handle_says_so(form: Form, mutex: Any) -> None:
    other = form.Mutex("lock")
    other.close()
    other.close()
    assert other.closed
    assert "closed" in repr(other)
    for call in (other.acquire, other.locked, other.owner, other.release, other.__enter__):
        with pytest.raises(isthmus.ClosedError):
            call()
    with pytest.raises(isthmus.ClosedError):
        other.recover().__enter__()
    assert mutex.acquire() is True
    mutex.release()


def test_closing_the_handle_ends_who_waits(form: Form, mutex: Any) -> None:
    holder = Holder(mutex)
    other = form.Mutex("lock")
    waiting = [begin(other.acquire) for _ in range(3)] + [begin(lambda: other.acquire(timeout=1000))]
    time.sleep(0.05)  # they wait, or find it closed: it is the same in the end
    other.close()
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), isthmus.ClosedError)
    holder.let_go()
    assert mutex.acquire(timeout=0) is True, "those who went away hold nothing"
    mutex.release()


def test_names(form: Form, namespace: Any) -> None:
    with pytest.raises(FileNotFoundError):
        form.Mutex.open("ledger")
    first = form.Mutex.create("ledger", on_owner_died="recover")
    with pytest.raises(FileExistsError):
        form.Mutex.create("ledger")
    with pytest.raises(ValueError, match="on_owner_died"):
        form.Mutex("ledger", on_owner_died="ignore")
    second = form.Mutex.open("ledger")
    with first:
        assert second.locked()
        assert begin(lambda: second.acquire(timeout=0)).result(PATIENCE) is False
    first.unlink()
    assert object_files(namespace) == []
    with second:
        assert first.locked()
    first.close()
    second.close()
