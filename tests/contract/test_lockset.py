"""`RLock` and `LockSet`, in every form. Threads of the test are tasks elsewhere (see `forms.py`)."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import isthmus
from forms import Facade, Form, begin
from support import PATIENCE


@pytest.fixture
def rlock(form: Form) -> Iterator[Any]:
    handle = form.RLock("again")
    yield handle
    handle.close()


def test_the_owner_takes_it_again_and_gives_it_back_as_often(rlock: Any) -> None:
    for _ in range(3):
        assert rlock.acquire() is True
    with rlock:
        assert rlock.owner() == os.getpid()
    for left in (2, 1, 0):
        assert begin(lambda: rlock.acquire(timeout=0)).result(PATIENCE) is False
        rlock.release()
        assert rlock.locked() is (left > 0)
    with pytest.raises(isthmus.NotOwnerError):
        rlock.release()
    assert begin(partial(taken, rlock)).result(PATIENCE) is True


def test_nobody_else_gives_it_back(rlock: Any) -> None:
    with rlock:
        assert isinstance(begin(rlock.release).exception(PATIENCE), isthmus.NotOwnerError)
        assert rlock.locked()
    assert not rlock.locked()


def test_nobody_else_is_inside(rlock: Any) -> None:
    state = {"inside": 0, "turns": 0}

    def work() -> None:
        for _ in range(60):
            with rlock, rlock:
                state["inside"] += 1
                assert state["inside"] == 1
                state["turns"] += 1
                state["inside"] -= 1

    for each in [begin(work) for _ in range(5)]:
        each.result(PATIENCE)
    assert state == {"inside": 0, "turns": 300}


def test_a_repair_holds_it(rlock: Any) -> None:
    with rlock.recover() as death:
        assert death is None
        assert rlock.locked()
    assert not rlock.locked()


def taken(lock: Any, timeout: float | None = 0) -> bool:
    """Takes it and gives it back."""
    got = bool(lock.acquire(timeout=timeout))
    if got:
        lock.release()
    return got


class Set:
    """A `LockSet` of a form; its locks are those of that form."""

    def __init__(self, form: Form, *locks: Any) -> None:
        inner = [lock._inner if isinstance(lock, Facade) else lock for lock in locks]
        self.set: Any = form.LockSet(*inner)


def several(form: Form) -> list[Any]:
    """One of each kind that can be in a set; `read` and `write` of a lock are of the same object."""
    pages = form.RWLock("pages")
    pool = form.BoundedSemaphore("pool", 1)
    return [form.Mutex("m"), form.RLock("r"), form.Condition("c"), pool, pages.write]


def test_all_are_held_or_none(form: Form) -> None:
    locks = several(form)
    both = Set(form, *locks).set
    assert both.acquire() is True
    for lock in locks[:3]:
        assert begin(partial(lock.acquire, 0)).result(PATIENCE) is False
    both.release()
    held = threading.Event()
    go = threading.Event()

    def hold() -> None:
        with locks[0]:
            held.set()
            go.wait(PATIENCE)

    holder = begin(hold)
    assert held.wait(PATIENCE)
    assert both.acquire(timeout=0) is False
    assert both.acquire(timeout=0.05) is False
    for lock in locks[1:4]:
        assert begin(partial(taken, lock)).result(PATIENCE) is True
    waiting = begin(partial(taken, both, None))
    go.set()
    holder.result(PATIENCE)
    assert waiting.result(PATIENCE) is True
    with pytest.raises(KeyError), both:
        raise KeyError
    assert not locks[0].locked()
    with pytest.raises(isthmus.NotOwnerError):
        both.release()


def test_sets_in_any_order_never_wait_for_each_other(form: Form) -> None:
    locks = several(form)[:4]
    turns = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(25):
            with Set(form, *choose.sample(locks, 3)).set:
                turns.append(seed)

    for each in [begin(partial(work, seed)) for seed in range(4)]:
        each.result(PATIENCE)
    assert len(turns) == 100


def test_what_is_no_lock_or_twice_in_it_is_refused(form: Form) -> None:
    mutex = form.Mutex("m")
    with pytest.raises(TypeError):
        Set(form, mutex, threading.Lock())
    with pytest.raises(TypeError):
        Set(form, mutex, "m")
    with pytest.raises(ValueError, match="twice"):
        Set(form, mutex, mutex)
    with pytest.raises(ValueError, match="twice"):
        Set(form, mutex, form.Mutex.open("m"))
    mutex.close()


def test_a_wrong_timeout_leaves_nothing_held(form: Form) -> None:
    locks = several(form)
    both = Set(form, *locks).set
    with pytest.raises(ValueError, match="timeout is"):
        both.acquire(timeout=-1)
    assert not locks[0].locked()
    assert locks[3].value == 1
