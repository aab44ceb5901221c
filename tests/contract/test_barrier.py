"""`Barrier`, in every form. Threads of the test are tasks elsewhere (see `forms.py`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from forms import Form, begin
from support import PATIENCE, Peer, wait_until

Pair = tuple[Form, Callable[..., Peer]]


@pytest.fixture
def barrier(form: Form) -> Iterator[Any]:
    handle = form.Barrier("start", 3)
    yield handle
    handle.close()


def test_it_opens_when_all_have_come_again_and_again(barrier: Any) -> None:
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    turns: list[list[int]] = []

    def work() -> None:
        turns.append([barrier.wait() for _ in range(50)])

    for each in [begin(work) for _ in range(3)]:
        each.result(PATIENCE)
    assert [sorted(turn) for turn in zip(*turns, strict=True)] == [[0, 1, 2]] * 50
    assert barrier.n_waiting == 0


def test_nobody_goes_on_before_the_last_has_come(barrier: Any) -> None:
    first = [begin(barrier.wait) for _ in range(2)]
    wait_until(lambda: barrier.n_waiting == 2, "two to wait")
    time.sleep(0.02)
    assert not any(each.done() for each in first)
    numbers = [barrier.wait(), *(each.result(PATIENCE) for each in first)]
    assert sorted(numbers) == [0, 1, 2]


def test_one_who_gives_up_breaks_it_for_all(barrier: Any) -> None:
    waiting = begin(barrier.wait)
    wait_until(lambda: barrier.n_waiting == 1, "one to wait")
    for error in (isthmus.BrokenBarrierError, threading.BrokenBarrierError):
        with pytest.raises(error):
            barrier.wait(timeout=0.05)
    assert isinstance(waiting.exception(PATIENCE), isthmus.BrokenBarrierError)
    assert (barrier.broken, barrier.n_waiting) == (True, 0)
    with pytest.raises(isthmus.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken
    again = [begin(barrier.wait) for _ in range(3)]
    assert sorted(each.result(PATIENCE) for each in again) == [0, 1, 2]


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_abort_and_reset_end_the_waits(barrier: Any, how: str) -> None:
    waiting = [begin(barrier.wait) for _ in range(2)]
    wait_until(lambda: barrier.n_waiting == 2, "two to wait")
    getattr(barrier, how)()
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), isthmus.BrokenBarrierError)
    assert barrier.broken is (how == "abort")
    barrier.reset()
    again = [begin(barrier.wait) for _ in range(3)]
    assert sorted(each.result(PATIENCE) for each in again) == [0, 1, 2]


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_a_timeout_below_zero_is_refused_and_leaves_it_whole_or_broken(barrier: Any, wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout is"):
        barrier.wait(timeout=wrong)
    assert barrier.n_waiting == 0
    barrier.reset()
    again = [begin(barrier.wait) for _ in range(3)]
    assert sorted(each.result(PATIENCE) for each in again) == [0, 1, 2]


def test_the_last_one_runs_the_action_before_any_goes_on(form: Form) -> None:
    calls: list[int] = []
    barrier = form.Barrier(None, 2, lambda: calls.append(1))
    other = begin(lambda: (barrier.wait(), len(calls)))
    barrier.wait()
    assert (len(calls), other.result(PATIENCE)[1]) == (1, 1)
    barrier.close()


def test_an_action_that_raises_breaks_it(form: Form) -> None:
    barrier = form.Barrier(None, 2, lambda: 1 // 0)
    waiting = [begin(barrier.wait) for _ in range(2)]
    errors = sorted(type(each.exception(PATIENCE)).__name__ for each in waiting)
    assert errors == ["BrokenBarrierError", "ZeroDivisionError"]
    assert barrier.broken
    barrier.close()


def test_a_closed_handle_says_so(form: Form, barrier: Any) -> None:
    other = form.Barrier.open("start")
    other.close()
    other.close()
    calls: list[Callable[[], object]] = [
        other.wait,
        other.abort,
        other.reset,
        lambda: other.n_waiting,
        lambda: other.broken,
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    assert "closed" in repr(other)
    assert not barrier.broken


def test_names(form: Form) -> None:
    with pytest.raises(FileNotFoundError):
        form.Barrier.open("gate")
    first = form.Barrier.create("gate", 2)
    with pytest.raises(FileExistsError):
        form.Barrier.create("gate", 2)
    with pytest.raises(isthmus.IncompatibleError):
        form.Barrier("gate", 3)
    second = form.Barrier("gate", 2)
    waiting = begin(first.wait)
    second.wait()
    waiting.result(PATIENCE)
    first.unlink()
    with pytest.raises(FileNotFoundError):
        form.Barrier.open("gate")
    first.close()
    second.close()


@pytest.mark.parametrize("wrong", [0, -1, 1 << 40])
def test_a_number_of_parties_that_cannot_be_is_refused(form: Form, wrong: int) -> None:
    with pytest.raises(ValueError, match=str(wrong)):
        form.Barrier(None, wrong)


def test_processes_meet(pair: Pair) -> None:
    form, spawn = pair
    barrier = form.Barrier("start", 3)
    code = """
        barrier = form.Barrier.open("start")
        for _ in range(50):
            barrier.wait(timeout=20)
    """
    peers = [spawn(code) for _ in range(2)]
    for _ in range(50):
        barrier.wait(timeout=PATIENCE)
    for peer in peers:
        peer.finish()
    assert not barrier.broken
    barrier.close()


def test_one_who_is_killed_breaks_it_for_the_others(pair: Pair) -> None:
    form, spawn = pair
    barrier = form.Barrier("start", 3)
    peer = spawn("""
        form.Barrier.open("start").wait()
    """)
    wait_until(lambda: barrier.n_waiting == 1, "it to wait")
    waiting = begin(barrier.wait)
    wait_until(lambda: barrier.n_waiting == 2, "it to wait")
    peer.stop()
    time.sleep(0.2)
    assert not waiting.done(), "a stopped process still is there"
    peer.kill()
    assert isinstance(waiting.exception(PATIENCE), isthmus.BrokenBarrierError)
    assert barrier.broken
    barrier.close()
