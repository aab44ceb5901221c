"""`Event`, in every form."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from forms import Form, begin
from support import PATIENCE, Peer

Pair = tuple[Form, Callable[..., Peer]]


@pytest.fixture
def event(form: Form) -> Iterator[Any]:
    handle = form.Event("ready")
    yield handle
    handle.close()


def test_setting_and_clearing(event: Any) -> None:
    assert event.is_set() is False
    assert event.wait(timeout=0) is False
    event.set()
    event.set()
    assert event.is_set() is True
    assert event.wait() is True
    assert event.wait(timeout=0) is True
    event.clear()
    event.clear()
    assert event.is_set() is False
    assert event.wait(timeout=0.01) is False


@pytest.mark.parametrize("timeout", [1e-9, 0.01, 0.2])
def test_it_does_not_say_false_too_early(event: Any, timeout: float) -> None:
    start = time.monotonic()
    assert event.wait(timeout=timeout) is False
    assert time.monotonic() - start >= timeout - 0.002


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_a_timeout_below_zero_is_refused(event: Any, wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout is"):
        event.wait(timeout=wrong)
    with pytest.raises(TypeError):
        event.wait(timeout="soon")


def test_all_who_wait_go_on_though_it_is_cleared_at_once(event: Any) -> None:
    for _ in range(20):
        waiting = [begin(lambda: event.wait(timeout=PATIENCE)) for _ in range(4)]
        time.sleep(0.01)
        while not all(each.done() for each in waiting):
            event.set()
            event.clear()
            time.sleep(0.001)
        assert [each.result(PATIENCE) for each in waiting] == [True] * 4
        assert not event.is_set()


def test_a_closed_handle_says_so_and_ends_its_waits(form: Form, event: Any) -> None:
    other = form.Event.open("ready")
    waiting = [begin(other.wait), begin(lambda: other.wait(timeout=1000))]
    time.sleep(0.05)  # they wait, or find it closed: it is the same in the end
    other.close()
    other.close()
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), isthmus.ClosedError)
    assert "closed" in repr(other)
    for call in (other.wait, other.set, other.clear, other.is_set):
        with pytest.raises(isthmus.ClosedError):
            call()
    event.set()
    assert event.is_set()


def test_names(form: Form) -> None:
    with pytest.raises(FileNotFoundError):
        form.Event.open("bell")
    first = form.Event.create("bell")
    with pytest.raises(FileExistsError):
        form.Event.create("bell")
    second = form.Event("bell")
    first.set()
    assert second.is_set()
    first.unlink()
    with pytest.raises(FileNotFoundError):
        form.Event.open("bell")
    assert first.name == second.name == "bell"
    first.close()
    second.close()
    nameless = form.Event()
    assert nameless.name is None
    nameless.close()


def test_processes_take_turns(pair: Pair) -> None:
    form, spawn = pair
    ping, pong = form.Event("ping"), form.Event("pong")
    peer = spawn("""
        ping, pong = form.Event.open("ping"), form.Event.open("pong")
        for _ in range(100):
            ping.wait()
            ping.clear()
            pong.set()
    """)
    for _ in range(100):
        ping.set()
        assert pong.wait(timeout=PATIENCE) is True
        pong.clear()
    peer.finish()
    ping.close()
    pong.close()


def test_what_was_set_stays_when_the_setter_is_killed(pair: Pair) -> None:
    form, spawn = pair
    event = form.Event("ready")
    waiting = begin(event.wait)
    peer = spawn("""
        import signal
        form.Event.open("ready").set()
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert waiting.result(PATIENCE) is True
    peer.kill()
    assert event.is_set()
    event.close()
