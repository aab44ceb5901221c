"""`put(until=)`: the producer hears when its message was received, done, or given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

import isthmus
from queues import KIB, drain, fill, idle, pattern, queue_of_bytes
from support import Peer, wait_until

Start = Callable[..., Peer]
Until = Literal["received", "done"]

LARGE = 100_000
BY_SIZE = pytest.mark.parametrize("size", [10, LARGE])
BY_UNTIL = pytest.mark.parametrize("until", ["received", "done"])


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes("handshake", max_deliveries=3, priorities=2) as handle:
        yield handle


class Putter:
    """A thread that puts one message with `until`, and what came of it."""

    def __init__(self, handle: isthmus.Queue[Any], message: bytes, until: Until, priority: int = 0) -> None:
        self.outcome: BaseException | str = "waits"
        self._thread = threading.Thread(target=self._put, args=[handle, message, until, priority])
        self._thread.start()

    def _put(self, handle: isthmus.Queue[Any], message: bytes, until: Until, priority: int) -> None:
        try:
            handle.put(message, until=until, priority=priority)
            self.outcome = "told"
        except BaseException as error:
            self.outcome = error

    def end(self) -> BaseException | str:
        self._thread.join(30)
        return self.outcome


CONSUMER = """
import sys, isthmus
with isthmus.Queue.open("handshake", type=bytes) as q:
    job = q.lease()
    print("leased", flush=True)
    getattr(job, sys.stdin.readline().strip())(*sys.argv[1:])
    print("ended", flush=True)
"""


@BY_SIZE
def test_received_is_told_when_a_consumer_of_another_process_has_it(
    q: isthmus.Queue[bytes], spawn: Start, size: int
) -> None:
    putter = Putter(q, pattern(size), "received")
    wait_until(lambda: q.qsize() == 1, "the message to be inside")
    time.sleep(0.1)
    assert putter.outcome == "waits"
    peer = spawn(CONSUMER)
    peer.expect("leased")
    assert putter.end() == "told"
    assert q.stats().leased == 1
    peer.send("ack")
    peer.finish()
    assert idle(q)


@BY_SIZE
def test_done_is_told_when_it_was_acknowledged_and_no_sooner(
    q: isthmus.Queue[bytes], spawn: Start, size: int
) -> None:
    putter = Putter(q, pattern(size), "done")
    for end in ("nack", "ack"):
        peer = spawn(CONSUMER)
        peer.expect("leased")
        time.sleep(0.1)
        assert putter.outcome == "waits"
        peer.send(end)
        peer.expect("ended")
        peer.finish()
    assert putter.end() == "told"
    assert idle(q)


TAKES: dict[str, Callable[[isthmus.Queue[bytes]], object]] = {
    "get": lambda q: q.get(timeout=30),
    "get_many": lambda q: q.get_many(5, timeout=30),
    "get_view": lambda q: q.get_view(timeout=30),
    "iteration": lambda q: next(iter(q)),
    "lease": lambda q: q.lease(timeout=30).ack(),
}


@BY_SIZE
@BY_UNTIL
@pytest.mark.parametrize("take", TAKES)
def test_every_way_of_taking_tells(q: isthmus.Queue[bytes], size: int, until: Until, take: str) -> None:
    putter = Putter(q, pattern(size), until)
    TAKES[take](q)
    assert putter.end() == "told"


def test_everybody_hears_of_his_own_message(q: isthmus.Queue[bytes]) -> None:
    putters = [Putter(q, bytes([number]) * (1 + number % 2 * 5000), "done") for number in range(8)]
    wait_until(lambda: q.qsize() == 8, "all messages to be inside")
    jobs = {job.message[0]: job for job in (q.lease(timeout=0) for _ in range(8))}
    for number in (3, 0, 7, 4):
        jobs[number].ack()
        assert putters[number].end() == "told"
    time.sleep(0.1)
    assert [putters[number].outcome for number in (1, 2, 5, 6)] == ["waits"] * 4
    for number in (1, 2, 5, 6):
        jobs[number].ack()
        assert putters[number].end() == "told"


def test_it_goes_with_priorities(q: isthmus.Queue[bytes]) -> None:
    low, high = Putter(q, b"low", "done"), Putter(q, b"high", "done", priority=1)
    wait_until(lambda: q.qsize() == 2, "both to be inside")
    assert q.get() == b"high"
    assert (high.end(), low.outcome) == ("told", "waits")
    q.get()
    assert low.end() == "told"


# ---------------------------------------------------------------------------------------------- not in time


@BY_UNTIL
@pytest.mark.parametrize("timeout", [0, 0.01, 0.2])
def test_a_message_that_was_not_taken_in_time_stays(
    q: isthmus.Queue[bytes], until: Until, timeout: float
) -> None:
    with pytest.raises(isthmus.Timeout) as caught:
        q.put(b"x", timeout=timeout, until=until)
    assert type(caught.value) is isthmus.Timeout
    assert {"received": "taken", "done": "acknowledged"}[until] in str(caught.value)
    assert drain(q) == [b"x"]


def test_one_on_lease_is_received_and_not_done(q: isthmus.Queue[bytes]) -> None:
    job: list[Any] = []
    leaser = threading.Thread(target=lambda: job.append(q.lease()))
    leaser.start()
    with pytest.raises(isthmus.Timeout, match="not acknowledged"):
        q.put(b"x", timeout=1.0, until="done")
    leaser.join(30)
    job[0].ack()
    assert idle(q)


@BY_UNTIL
def test_a_queue_without_room_is_full_as_ever(until: Until) -> None:
    with queue_of_bytes(capacity=64 * KIB) as q:
        inside = fill(q, 100)
        for timeout in (0, 0.05):
            with pytest.raises(isthmus.Full):
                q.put(bytes(100), timeout=timeout, until=until)
        assert q.qsize() == inside


# ---------------------------------------------------------------------------------------------- given up


@BY_SIZE
def test_a_message_that_is_rejected_is_undelivered(q: isthmus.Queue[bytes], spawn: Start, size: int) -> None:
    putter = Putter(q, pattern(size), "done")
    peer = spawn(CONSUMER, "not like this")
    peer.expect("leased")
    peer.send("reject")
    error = putter.end()
    assert isinstance(error, isthmus.Undelivered)
    assert isinstance(error, RuntimeError)
    assert error.reason == "not like this"
    assert "not like this" in str(error)
    assert "q.dead" in str(error)
    peer.finish()
    assert q.dead.get().data == pattern(size)


def test_a_message_delivered_too_often_is_undelivered_with_the_last_reason(q: isthmus.Queue[bytes]) -> None:
    putter = Putter(q, b"x", "done")
    for number in range(3):
        assert putter.outcome == "waits"
        q.lease(timeout=30).nack(f"try {number}")
    error = putter.end()
    assert isinstance(error, isthmus.Undelivered)
    assert error.reason == "try 2"


def test_a_message_that_cannot_be_decoded_is_undelivered(spawn: Start) -> None:
    def decode(buffer: Any) -> Any:
        raise ValueError("never")

    codec = isthmus.Codec("never/1", bytes, decode)
    with isthmus.Queue(type=codec, capacity=1 << 20) as handle:
        putter = Putter(handle, b"x", "done")
        with pytest.raises(isthmus.InvalidMessage):
            handle.lease(timeout=30)
        error = putter.end()
        assert isinstance(error, isthmus.Undelivered)
        assert "never" in error.reason


# ---------------------------------------------------------------------------------------------- killed


@BY_SIZE
@pytest.mark.parametrize("another", ["waits already", "comes later"])
def test_a_consumer_killed_between_leaves_the_producer_waiting_for_the_next(
    q: isthmus.Queue[bytes], spawn: Start, size: int, another: str
) -> None:
    putter = Putter(q, pattern(size), "done")
    first = spawn(CONSUMER)
    first.expect("leased")
    second = spawn(CONSUMER) if another == "waits already" else None
    if second:
        wait_until(lambda: q.stats().consumers_waiting == 1, "the second to wait")
    first.kill()
    if second is None:
        wait_until(lambda: q.qsize() == 1, "the message to come back, for nobody but its producer waits")
        second = spawn(CONSUMER)
    second.expect("leased")
    assert putter.outcome == "waits"
    second.send("ack")
    assert putter.end() == "told"
    second.finish()
    assert idle(q)


def test_the_producer_hears_that_the_last_consumer_allowed_was_killed(
    q: isthmus.Queue[bytes], spawn: Start
) -> None:
    putter = Putter(q, b"x", "done")
    peers = []
    for _ in range(3):
        assert putter.outcome == "waits"
        peers.append(spawn(CONSUMER))
        peers[-1].expect("leased")
        peers[-1].kill()
    error = putter.end()
    assert isinstance(error, isthmus.Undelivered)
    assert f"process {peers[-1].pid} " in error.reason


def test_a_producer_killed_while_it_waits_takes_nothing_with_it(
    spawn: Start, q: isthmus.Queue[bytes]
) -> None:
    peer = spawn("""
        import isthmus
        with isthmus.Queue.open("handshake", type=bytes) as q:
            q.put(b"x", until="done")
    """)
    job = q.lease(timeout=30)
    peer.kill()
    job.ack()
    assert idle(q)


# ---------------------------------------------------------------------------------------------- the end


@BY_UNTIL
def test_after_a_shutdown_it_is_still_told(q: isthmus.Queue[bytes], until: Until) -> None:
    putter = Putter(q, b"x", until)
    wait_until(lambda: q.qsize() == 1, "the message to be inside")
    q.shutdown()
    assert q.get() == b"x"
    assert putter.end() == "told"
    with pytest.raises(isthmus.ShutDown):
        q.put(b"y", until=until)


@BY_UNTIL
def test_closing_the_handle_ends_the_wait_and_leaves_the_message(
    q: isthmus.Queue[bytes], until: Until
) -> None:
    with queue_of_bytes("handshake") as other:
        putter = Putter(other, b"x", until)
        wait_until(lambda: q.qsize() == 1, "the message to be inside")
        other.close()
        assert isinstance(putter.end(), isthmus.ClosedError)
    assert drain(q) == [b"x"]


@pytest.mark.parametrize("wrong", ["", "sent", "DONE", "received "])
def test_another_word_is_a_value_error_that_names_the_right_ones(q: isthmus.Queue[bytes], wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"received.*done") as caught:
        q.put(b"x", until=wrong)
    assert repr(wrong).strip("'") in str(caught.value)
    assert q.empty()


@pytest.mark.parametrize("wrong", [1, True, b"done"])
def test_what_is_no_word_is_a_type_error(q: isthmus.Queue[bytes], wrong: Any) -> None:
    with pytest.raises(TypeError):
        q.put(b"x", until=wrong)
    assert q.empty()
