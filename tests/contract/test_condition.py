"""`Condition`, in every form. Threads of the test are tasks elsewhere (see `forms.py`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from forms import Form, begin, plain
from support import PATIENCE, Peer, wait_until

Pair = tuple[Form, Callable[..., Peer]]


@pytest.fixture
def condition(form: Form) -> Iterator[Any]:
    handle = form.Condition("changed")
    yield handle
    handle.close()


def waiters(condition: Any, count: int) -> list[Any]:
    """So many that wait, each in the order they are listed."""

    def work() -> bool:
        with condition:
            return bool(condition.wait())

    waiting = []
    before = len(condition.waiters())
    for number in range(count):
        waiting.append(begin(work))
        wait_until(lambda: len(condition.waiters()) == before + number + 1, "it to wait")  # noqa: B023
    return waiting


def test_notify_wakes_so_many_the_longest_waiting_first(condition: Any) -> None:
    waiting = waiters(condition, 6)
    assert condition.waiters() == [os.getpid()] * 6
    with condition:
        condition.notify(2)
        assert len(condition.waiters()) == 4
    assert [each.result(PATIENCE) for each in waiting[:2]] == [True, True]
    with condition:
        condition.notify()
        condition.notify(0)
    assert waiting[2].result(PATIENCE) is True
    time.sleep(0.02)
    assert not any(each.done() for each in waiting[3:])
    with condition:
        condition.notify_all()
    assert [each.result(PATIENCE) for each in waiting[3:]] == [True] * 3
    assert condition.waiters() == []


def test_nobody_who_waits_is_nothing_to_notify(condition: Any) -> None:
    with condition:
        condition.notify(5)
        condition.notify_all()
        assert condition.wait(timeout=0) is False, "what was notified before is not kept"
        assert condition.wait(timeout=0.05) is False
    assert condition.waiters() == []


def test_without_the_lock_it_is_an_error(condition: Any) -> None:
    for call in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(isthmus.NotOwnerError):
            call()
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(isthmus.NotOwnerError):
        condition.release()
    assert condition.acquire() is True
    with pytest.raises(isthmus.NotOwnerError):
        begin(condition.notify).result(PATIENCE)
    condition.release()
    with condition, pytest.raises(ValueError, match="-1"):
        condition.notify(-1)


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_a_timeout_below_zero_is_refused_with_the_lock_held(condition: Any, wrong: float) -> None:
    with condition:
        with pytest.raises(ValueError, match="timeout is"):
            condition.wait(timeout=wrong)
        condition.notify()
    assert condition.waiters() == []


def test_the_lock_is_recursive_and_given_back_in_full_while_waiting(condition: Any) -> None:
    with condition, condition:
        other = begin(lambda: condition.acquire(timeout=0))
        assert other.result(PATIENCE) is False

        def notify() -> None:
            with condition:
                condition.notify()

        waiting = begin(notify)
        assert condition.wait(timeout=PATIENCE) is True
        waiting.result(PATIENCE)
        assert begin(lambda: condition.acquire(timeout=0)).result(PATIENCE) is False
    with pytest.raises(isthmus.NotOwnerError):
        condition.release()


def test_waiting_for_something_to_be_true(condition: Any) -> None:
    box: list[int] = []

    def work() -> Any:
        with condition:
            return condition.wait_for(lambda: len(box) >= 3 and box)

    waiting = begin(work)
    for number in range(3):
        wait_until(lambda: len(condition.waiters()) == 1, "it to wait")
        with condition:
            box.append(number)
            condition.notify()
    assert waiting.result(PATIENCE) == [0, 1, 2]
    with condition:
        assert condition.wait_for(lambda: 0, timeout=0.05) == 0
        assert condition.wait_for(lambda: 7, timeout=0) == 7


@pytest.mark.parametrize("kind", ["Mutex", "RLock"])
def test_a_lock_of_ones_own(form: Form, kind: str) -> None:
    lock = getattr(isthmus, kind)("lock")
    inner = isthmus.Condition("cells", lock)
    condition = form.wrap(inner)
    waiting = waiters(condition, 2)
    with condition:
        assert lock.locked()
        condition.notify(2)
    assert [each.result(PATIENCE) for each in waiting] == [True, True]
    assert not lock.locked()
    condition.close()
    assert not lock.closed, "it is not the condition's"
    lock.close()
    with pytest.raises(TypeError):
        isthmus.Condition("cells", threading.Lock())  # type: ignore[arg-type]


def test_a_bounded_buffer_loses_nothing(condition: Any) -> None:
    box: list[int] = []
    got: list[int] = []

    def produce(first: int) -> None:
        for number in range(first, first + 60):
            with condition:
                condition.wait_for(lambda: len(box) < 3)
                box.append(number)
                condition.notify_all()

    def consume() -> None:
        for _ in range(60):
            with condition:
                condition.wait_for(lambda: box)
                got.append(box.pop(0))
                condition.notify_all()

    work = [begin(lambda: produce(0)), begin(lambda: produce(60)), begin(consume), begin(consume)]
    for each in work:
        each.result(PATIENCE)
    assert sorted(got) == list(range(120))


def test_a_closed_handle_says_so(form: Form, condition: Any) -> None:
    other = form.Condition.open("changed")
    other.close()
    other.close()
    for call in (other.acquire, other.release, other.wait, other.notify, other.__enter__, other.waiters):
        with pytest.raises(isthmus.ClosedError):
            call()
    assert "closed" in repr(other)
    assert not condition.closed


def test_names(form: Form) -> None:
    with pytest.raises(FileNotFoundError):
        form.Condition.open("news")
    first = form.Condition.create("news")
    with pytest.raises(FileExistsError):
        form.Condition.create("news")
    second = form.Condition("news")
    with first:
        assert begin(lambda: second.acquire(timeout=0)).result(PATIENCE) is False
    waiting = waiters(second, 1)
    with first:
        first.notify()
    assert waiting[0].result(PATIENCE) is True
    first.unlink()
    with pytest.raises(FileNotFoundError):
        form.Condition.open("news")
    first.close()
    second.close()


def test_a_notification_crosses_processes(pair: Pair) -> None:
    form, spawn = pair
    condition = form.Condition("news")
    peers = [
        spawn("""
            condition = form.Condition.open("news")
            for _ in range(20):
                with condition:
                    assert condition.wait(1000) is True
        """)
        for _ in range(2)
    ]
    for _ in range(20):
        wait_until(lambda: len(condition.waiters()) == 2, "both to wait")
        with condition:
            condition.notify(2)
    for peer in peers:
        peer.finish()
    condition.close()


def test_what_a_killed_waiter_was_notified_of_goes_to_the_next(pair: Pair) -> None:
    form, spawn = pair
    condition = form.Condition("news")
    peer = spawn("""
        condition = form.Condition.open("news")
        with condition:
            condition.wait()
    """)
    wait_until(lambda: len(condition.waiters()) == 1, "it to wait")
    waiting = waiters(condition, 2)
    peer.stop()
    with condition:
        condition.notify(1)
    time.sleep(0.2)
    assert not any(each.done() for each in waiting), "a stopped process has what it was given"
    peer.kill()
    assert waiting[0].result(PATIENCE) is True
    time.sleep(0.2)
    assert not waiting[1].done(), "one notification is one"
    with condition:
        condition.notify_all()
    assert waiting[1].result(PATIENCE) is True
    condition.close()


def test_the_owner_is_killed(pair: Pair) -> None:
    form, spawn = pair
    condition = form.Condition("news")
    peer = spawn("""
        condition = form.Condition.open("news")
        sys.stdin.readline()
        condition.acquire()
        condition.notify()
        print("held", flush=True)
        time.sleep(60)
    """)
    waiting = waiters(condition, 1)
    peer.send()
    peer.expect("held")
    peer.kill()
    error = waiting[0].exception(PATIENCE)
    assert isinstance(error, isthmus.OwnerDied)
    assert error.pid == peer.pid
    with pytest.raises(isthmus.OwnerDied):
        condition.acquire()
    with plain(condition).lock.recover() as death:
        assert death is not None
    with condition:
        condition.notify()
    condition.close()


@pytest.mark.parametrize("kind", ["Mutex", "RLock"])
def test_the_owner_of_a_lock_of_ones_own_is_killed(pair: Pair, kind: str) -> None:
    """What the wait raises is seen, not that the block of the lock has nothing to give back."""
    form, spawn = pair
    inner = getattr(isthmus, kind)("lock")
    lock, condition = form.wrap(inner), form.wrap(isthmus.Condition("cells", inner))
    peer = spawn(f"""
        condition = form.wrap(isthmus.Condition.open("cells", isthmus.{kind}.open("lock")))
        sys.stdin.readline()
        condition.acquire()
        condition.notify()
        print("held", flush=True)
        time.sleep(60)
    """)

    def work() -> None:
        with lock:
            condition.wait()

    waiting = begin(work)
    wait_until(lambda: len(condition.waiters()) == 1, "it to wait")
    peer.send()
    peer.expect("held")
    peer.kill()
    error = waiting.exception(PATIENCE)
    assert isinstance(error, isthmus.OwnerDied)
    assert error.pid == peer.pid
    assert error.__context__ is None, "nothing else went wrong"
    with inner.recover() as death:
        assert death is not None
    condition.close()
    lock.close()
