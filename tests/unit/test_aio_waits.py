"""`_core.Wait`: what stands in the way of a call, also when its handle is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import _core
from isthmus._core import ASK
from isthmus._errors import WouldBlock
from queues import KIB, LEASES_OF_64_KIB, drain, fill, queue_of_bytes

SIZE = 5000


def reasons(q: Any) -> Iterator[int]:
    """Everything a call on this queue may have to wait for."""
    calls: list[Callable[[], Any]] = [
        lambda: q.get(ASK),
        lambda: q.put(bytes(SIZE), ASK),
        lambda: q.put(bytes(10), ASK),
        lambda: q.put_many([bytes(4000)] * 2, ASK),
        lambda: q.lease(ASK),
        lambda: q._reservation(SIZE, None, None, 0, ASK),
    ]
    for prepare in (drain, _fill, _lease):
        prepare(q)
        for call in calls:
            try:
                call()
            except WouldBlock as blocked:
                yield blocked.on


def _fill(q: Any) -> None:
    for size in (4000, SIZE, 10):
        fill(q, size)


def _lease(q: Any) -> None:
    drain(q)
    q.put_many([b"x"] * (LEASES_OF_64_KIB + 1))
    _kept.extend(q.lease() for _ in range(LEASES_OF_64_KIB))


_kept: list[Any] = []


def waits() -> Iterator[tuple[Any, _core.Wait]]:
    """Each kind of wait, and the handle it is for."""
    with queue_of_bytes(capacity=64 * KIB) as q:
        found = sorted(set(reasons(q)))
        _kept.clear()
        drain(q)
    assert len(found) >= 4, found
    for on in found:
        q = isthmus.Queue(type=bytes)
        yield q, _core.Wait.queue(q, on)
    for make in (
        _core.Wait.readable,
        lambda q: _core.Wait.fate(q, 0, 0, False),
        lambda q: _core.Wait.fate(q, 0, 5, True),
        lambda q: _core.Wait.below(q, 0.5),
    ):
        q = isthmus.Queue(type=bytes)
        yield q, make(q)
    mutex = isthmus.Mutex()
    yield mutex, _core.Wait.mutex(mutex)


def test_a_wait_for_a_closed_handle_is_over_and_touches_no_memory(namespace: Path) -> None:
    bell = _core.Bell(None)
    for armed in (False, True):
        for handle, wait in waits():
            before = wait.point, wait.key, wait.exclusive, wait.namespace
            assert wait.namespace == str(namespace)
            if armed and wait.point is not None:
                wait.token(bell)
                wait.arm(bell)
                wait.count(True)
            handle.close()
            assert (wait.point, wait.key, wait.exclusive, wait.namespace) == before
            assert 0 < wait.slice <= 0.2
            assert wait.ready() is True
            assert wait.ready_soon() is True
            assert wait.look() is True
            assert wait.arm(bell) is True
            wait.count(False)
            wait.disarm(bell)
            wait.pass_on()
            with pytest.raises(isthmus.ClosedError):
                wait.token(bell)
    bell.close()


def test_a_bell_that_is_closed_is_not_rung(namespace: Path) -> None:
    with queue_of_bytes() as q:
        wait = _core.Wait.readable(q)
        bell, other = _core.Bell(None), _core.Bell(None)
        assert not bell.closed
        for each in (bell, other):
            wait.token(each)
            assert wait.arm(each) is False
        bell.close()
        assert (bell.closed, bell.fileno()) == (True, -1)
        q.put(b"x")
        assert other.read() == [wait.token(other)], "the closed one was passed over"
        assert wait.arm(bell) is True
        assert bell.read() == []
        bell.close()
        drain(q)
        other.close()
    assert list(namespace.glob(".bell-*")) == []


@pytest.mark.parametrize("length", range(1, 10))
def test_what_is_no_token_hides_no_other(namespace: Path, length: int) -> None:
    with queue_of_bytes() as q:
        bell = _core.Bell(None)
        (path,) = namespace.glob(".bell-*")
        wait = _core.Wait.readable(q)
        token = wait.token(bell)
        assert wait.arm(bell) is False
        with path.open("wb", buffering=0) as fifo:
            fifo.write(b"\xff" * length)
            q.put(b"x")
        heard = bell.read()
        assert heard is None or token in heard
        assert bell.read() == []
        drain(q)
        bell.close()


def test_who_has_seen_a_mutex_free_but_claimed_is_rung_when_it_is_free_for_all() -> None:
    """Also where the claim is given up after somebody has taken it without knowing of those who wait."""
    mutex = isthmus.Mutex()
    bell = _core.Bell(None)
    claimant, other = (1 << 22) + 1, (1 << 22) + 2
    first, second = _core.Wait.mutex(mutex, claimant), _core.Wait.mutex(mutex, other)
    token = second.token(bell)
    first.claim()
    assert second.ready() is False, "it is free, for another"
    assert second.arm(bell) is False
    assert mutex._acquire_as(claimant, False, ASK) is True
    first.give_up()
    mutex._release_as(claimant)
    assert bell.read() == [token]
    assert second.ready() is True
    bell.close()
    mutex.close()


def test_what_is_no_reason_is_refused() -> None:
    with queue_of_bytes() as q:
        for wrong in (6, 0xFF):
            with pytest.raises(ValueError, match=str(wrong)):
                _core.Wait.queue(q, wrong)
