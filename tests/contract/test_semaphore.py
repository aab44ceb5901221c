"""`Semaphore` and `BoundedSemaphore`, in every form. Threads of the test are tasks elsewhere (`forms.py`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from forms import Form, begin
from support import PATIENCE, Peer, wait_until

Pair = tuple[Form, Callable[..., Peer]]
KINDS = ["Semaphore", "BoundedSemaphore"]


@pytest.fixture(params=KINDS)
def semaphore(request: pytest.FixtureRequest, form: Form) -> Iterator[Any]:
    """A semaphore of two permits."""
    handle = getattr(form, request.param)("permits", 2)
    yield handle
    handle.close()


def test_permits_are_taken_and_given(semaphore: Any) -> None:
    assert (semaphore.value, semaphore.name, semaphore.closed) == (2, "permits", False)
    assert semaphore.acquire() is True
    assert semaphore.acquire(timeout=5) is True
    assert semaphore.value == 0
    assert semaphore.acquire(timeout=0) is False
    semaphore.release()
    assert semaphore.value == 1
    with semaphore:
        assert semaphore.value == 0
    with pytest.raises(KeyError), semaphore:
        raise KeyError
    semaphore.release()
    assert semaphore.value == 2


@pytest.mark.parametrize("timeout", [0, 1e-9, 0.01, 0.2])
def test_without_a_permit_it_says_false_and_not_too_early(semaphore: Any, timeout: float) -> None:
    semaphore.acquire()
    semaphore.acquire()
    start = time.monotonic()
    assert semaphore.acquire(timeout=timeout) is False
    assert time.monotonic() - start >= timeout - 0.002
    semaphore.release()
    semaphore.release()
    assert semaphore.value == 2, "a wait that ended took nothing"


@pytest.mark.parametrize("wrong", [-1, -0.001, float("nan"), float("-inf")])
def test_a_timeout_below_zero_or_no_number_is_refused(semaphore: Any, wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout is"):
        semaphore.acquire(timeout=wrong)
    with pytest.raises(TypeError):
        semaphore.acquire(timeout="soon")
    assert semaphore.value == 2


def test_all_who_wait_are_served(semaphore: Any) -> None:
    semaphore.acquire()
    semaphore.acquire()
    waiting = [begin(semaphore.acquire) for _ in range(6)]
    time.sleep(0.02)
    assert not any(each.done() for each in waiting)
    # Who was served gives back for the next, of a bounded semaphore whichever thread took it.
    for served in range(1, 7):
        semaphore.release()
        wait_until(lambda: sum(each.done() for each in waiting) >= served, "the next one")  # noqa: B023
    assert [each.result(PATIENCE) for each in waiting] == [True] * 6
    semaphore.release()
    semaphore.release()
    assert semaphore.value == 2


def test_never_more_are_inside_than_there_are_permits(semaphore: Any) -> None:
    guard = threading.Lock()
    inside = most = turns = 0

    def work() -> None:
        nonlocal inside, most, turns
        for _ in range(60):
            with semaphore:
                with guard:
                    inside += 1
                    most = max(most, inside)
                    turns += 1
                time.sleep(0)
                with guard:
                    inside -= 1

    for each in [begin(work) for _ in range(5)]:
        each.result(PATIENCE)
    assert (turns, inside, semaphore.value) == (300, 0, 2)
    assert most <= 2


def test_a_closed_handle_says_so_and_ends_its_waits(form: Form, semaphore: Any) -> None:
    semaphore.acquire()
    semaphore.acquire()
    kind = type(semaphore.sync if form.name != "sync" else semaphore).__name__
    other = getattr(form, kind).open("permits")
    waiting = [begin(other.acquire) for _ in range(3)] + [begin(lambda: other.acquire(timeout=1000))]
    time.sleep(0.05)  # they wait, or find it closed: it is the same in the end
    other.close()
    other.close()
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), isthmus.ClosedError)
    assert other.closed
    assert "closed" in repr(other)
    calls: list[Callable[[], object]] = [
        other.acquire,
        other.release,
        other.__enter__,
        lambda: other.acquire(timeout=0),
        lambda: other.value,
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    semaphore.release()
    semaphore.release()
    assert semaphore.acquire(timeout=0) is True, "those who went away hold nothing"
    semaphore.release()


@pytest.mark.parametrize("kind", KINDS)
def test_names(form: Form, kind: str) -> None:
    make = getattr(form, kind)
    with pytest.raises(FileNotFoundError):
        make.open("gate")
    first = make.create("gate", 3)
    with pytest.raises(FileExistsError):
        make.create("gate", 3)
    second = make.open("gate")
    third = make("gate")
    assert (second.value, third.value) == (3, 3)
    assert second.acquire(timeout=0) is True
    assert third.value == 2
    first.unlink()
    with pytest.raises(FileNotFoundError):
        make.open("gate")
    second.release()
    assert first.value == 3
    for each in (first, second, third):
        each.close()


def test_several_at_once_are_given_to_as_many(form: Form) -> None:
    semaphore = form.Semaphore(value=0)
    assert semaphore.name is None
    waiting = [begin(semaphore.acquire) for _ in range(4)]
    semaphore.release(3)
    wait_until(lambda: sum(each.done() for each in waiting) == 3, "three to be served")
    semaphore.release(5)
    assert [each.result(PATIENCE) for each in waiting] == [True] * 4
    assert semaphore.value == 4
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=str(wrong)):
            semaphore.release(wrong)
    with pytest.raises(isthmus.TooLarge):
        semaphore.release((1 << 31) - 4)
    assert semaphore.value == 4
    semaphore.close()


def test_a_bounded_semaphore_takes_back_no_more_than_it_gave(form: Form) -> None:
    semaphore = form.BoundedSemaphore(value=2)
    for error in (isthmus.NotOwnerError, ValueError):
        with pytest.raises(error):
            semaphore.release()
    semaphore.acquire()
    assert semaphore.holders() == [os.getpid()]
    assert (semaphore.permits, semaphore.value) == (2, 1)
    begin(semaphore.release).result(PATIENCE)
    assert (semaphore.holders(), semaphore.value) == ([], 2)
    with pytest.raises(ValueError):  # noqa: PT011 - that of threading has no other text
        semaphore.release()
    semaphore.close()


def test_permits_pass_between_processes(pair: Pair) -> None:
    form, spawn = pair
    made, taken = form.Semaphore("made", 0), form.Semaphore("taken", 0)
    peer = spawn("""
        made, taken = form.Semaphore.open("made"), form.Semaphore.open("taken")
        for _ in range(200):
            made.acquire()
            taken.release()
    """)
    for _ in range(200):
        made.release()
        assert taken.acquire(timeout=PATIENCE) is True
    peer.finish()
    assert (made.value, taken.value) == (0, 0)
    made.close()
    taken.close()


def test_permits_of_a_killed_process_come_back_to_who_waits(pair: Pair) -> None:
    form, spawn = pair
    semaphore = form.BoundedSemaphore("gate", 2)
    peers = [
        spawn("""
            semaphore = form.BoundedSemaphore.open("gate")
            semaphore.acquire()
            print("taken", flush=True)
            time.sleep(60)
        """)
        for _ in range(2)
    ]
    for peer in peers:
        peer.expect("taken")
    assert sorted(semaphore.holders()) == sorted(peer.pid for peer in peers)
    waiting = [begin(semaphore.acquire) for _ in range(2)]
    time.sleep(0.02)
    assert not any(each.done() for each in waiting)
    peers[0].stop()
    time.sleep(0.2)
    assert not any(each.done() for each in waiting), "a stopped process keeps what it has"
    for peer in peers:
        peer.kill()
    assert [each.result(PATIENCE) for each in waiting] == [True, True]
    assert semaphore.holders() == [os.getpid()] * 2
    semaphore.release()
    semaphore.release()
    with pytest.raises(isthmus.NotOwnerError):
        semaphore.release()
    semaphore.close()
