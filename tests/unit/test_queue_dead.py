"""`Queue.dead`: what nobody could use, why, and getting it back; and messages that cannot be decoded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from isthmus import Codec
from queues import KIB, LEASES_OF_64_KIB, MIB, drain, idle, pattern, queue_of_bytes
from support import Peer

Start = Callable[..., Peer]

LARGE = 100_000


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes(priorities=2) as handle:
        yield handle


def bury(handle: isthmus.Queue[Any], message: bytes, reason: str = "", priority: int = 0) -> None:
    """Puts a message that ends in `dead`."""
    handle.put(message, timeout=0, priority=priority)
    handle.lease(timeout=0).reject(reason)


def test_an_empty_one_is_false_and_has_nothing(q: isthmus.Queue[bytes]) -> None:
    assert (len(q.dead), bool(q.dead), q.dead.peek(), list(q.dead)) == (0, False, [], [])
    assert q.dead.requeue() == 0
    with pytest.raises(isthmus.Empty):
        q.dead.get()


@pytest.mark.parametrize("size", [0, 10, 4096, 4097, LARGE])
def test_a_letter_says_all_that_is_known(q: isthmus.Queue[bytes], size: int) -> None:
    q.put(b"another", priority=1)
    assert q.get() == b"another"
    bury(q, pattern(size), "why", priority=1)
    letter: Any = q.dead.get()
    assert letter == (pattern(size), "why", os.getpid(), 1, 1, 1, size)
    assert tuple(letter._asdict()) == ("data", "reason", "sender", "deliveries", "number", "priority", "size")
    assert idle(q)


def test_looking_takes_nothing(q: isthmus.Queue[bytes]) -> None:
    sizes = [5, LARGE, 7]
    for size in sizes:
        bury(q, pattern(size), f"of {size}")
    for _ in range(2):
        assert [(x.data, x.reason, x.size) for x in q.dead.peek()] == [(b"", f"of {n}", n) for n in sizes]
        assert (len(q.dead), bool(q.dead), q.stats().dead) == (3, True, 3)
    assert [letter.data for letter in q.dead] == [pattern(size) for size in sizes]
    assert idle(q)


def test_they_are_taken_oldest_first_whenever_they_died(q: isthmus.Queue[bytes]) -> None:
    q.put_many([bytes([number]) for number in range(5)])
    jobs = [q.lease() for _ in range(5)]
    for number in (3, 0, 4, 1, 2):
        jobs[number].reject()
    assert q.dead.get().data == b"\0"
    assert [letter.number for letter in q.dead.peek()] == [1, 2, 3, 4]
    assert [letter.data for letter in q.dead] == [bytes([number]) for number in range(1, 5)]


@pytest.mark.parametrize("size", [10, LARGE])
def test_requeued_they_are_handed_out_first_and_as_if_for_the_first_time(size: int) -> None:
    with queue_of_bytes(max_deliveries=2) as q:
        q.put_many([pattern(size, 1), pattern(size, 2), b"waits"])
        for _ in range(4):
            q.lease().nack()
        assert len(q.dead) == 2
        assert q.dead.requeue() == 2
        assert (len(q.dead), q.qsize()) == (0, 3)
        with q.lease() as job:
            assert (job.message, job.delivery_count) == (pattern(size, 1), 1)
        assert drain(q) == [pattern(size, 2), b"waits"]
        assert idle(q)


def test_requeued_they_wake_those_who_wait(spawn: Start) -> None:
    with queue_of_bytes("dead") as q:
        bury(q, b"x")
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("dead", type=bytes) as q:
                print("waits", flush=True)
                print(q.get(), flush=True)
        """)
        peer.expect("waits")
        assert q.dead.requeue() == 1
        peer.expect("b'x'")
        peer.finish()


def test_an_acknowledged_message_that_had_been_dead_is_gone(q: isthmus.Queue[bytes]) -> None:
    bury(q, b"x")
    q.dead.requeue()
    with q.lease() as job:
        assert job.number == 0
    assert idle(q)


@pytest.mark.parametrize("reason", ["", "plain", "größe", "x" * 256, "x" * 300, "ä" * 300, "a" + "ä" * 200])
def test_a_reason_is_kept_as_far_as_there_is_room(q: isthmus.Queue[bytes], reason: str) -> None:
    bury(q, pattern(4096), reason)
    letter = q.dead.get()
    assert letter.data == pattern(4096)
    assert reason.startswith(letter.reason)
    assert len(letter.reason.encode()) >= min(len(reason.encode()), 255)


def test_the_dead_of_a_persistent_queue_wait_for_the_next_user(spawn: Start) -> None:
    with queue_of_bytes("kept", persistent=True) as handle:
        bury(handle, b"small", "first")
        bury(handle, pattern(LARGE), "second")
    with queue_of_bytes("kept") as handle:
        assert [x.reason for x in handle.dead.peek()] == ["first", "second"]
        assert [x.data for x in handle.dead] == [b"small", pattern(LARGE)]
        handle.unlink()


def test_other_handles_and_processes_see_the_same_dead(spawn: Start) -> None:
    with queue_of_bytes("dead") as first, queue_of_bytes("dead") as second:
        bury(first, b"1", "one")
        bury(second, b"2", "two")
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("dead", type=bytes) as q:
                print(len(q.dead), q.dead.get(), flush=True)
        """)
        assert peer.line().startswith("2 DeadLetter(data=b'1', reason='one', ")
        peer.finish()
        assert [letter.data for letter in first.dead] == [b"2"]


def test_a_closed_queue_says_so() -> None:
    with queue_of_bytes() as handle:
        dead = handle.dead
    for call in (dead.get, dead.peek, dead.requeue, lambda: len(dead), lambda: list(dead)):
        with pytest.raises(isthmus.ClosedError):
            call()
    assert "closed" in repr(dead)


# ------------------------------------------------------------------------------------------ invalid ones


def refuse(buffer: Any) -> Any:
    text = bytes(buffer).decode()
    if text.startswith("!"):
        raise KeyError(f"no {text[1:4]}")
    return json.loads(text)


CHOOSY = Codec(
    "choosy", lambda value: value if isinstance(value, bytes) else json.dumps(value).encode(), refuse
)
BAD = pytest.mark.parametrize("bad", [b"!bad", b"!bad" + bytes(LARGE)], ids=["small", "large"])


@pytest.fixture
def choosy() -> Iterator[isthmus.Queue[Any]]:
    """A queue to which bytes go as they are, and from which only JSON comes."""
    with isthmus.Queue(type=CHOOSY, capacity=MIB) as handle:
        yield handle


TAKES: dict[str, Callable[[isthmus.Queue[Any]], object]] = {
    "get": lambda q: q.get(),
    "get with a timeout": lambda q: q.get(timeout=0),
    "get_view": lambda q: q.get_view(),
    "lease": lambda q: q.lease(),
    "lease of a view": lambda q: q.lease(view=True),
    "iteration": lambda q: next(iter(q)),
    "views": lambda q: next(q.views()),
    "leases": lambda q: next(q.leases()),
}


@BAD
@pytest.mark.parametrize("take", TAKES)
def test_an_invalid_message_is_told_once_and_kept(choosy: isthmus.Queue[Any], take: str, bad: bytes) -> None:
    choosy.put({"good": 1})
    assert choosy.get() == {"good": 1}
    choosy.put_many([bad, {"good": 2}])
    with pytest.raises(isthmus.InvalidMessage) as caught:
        TAKES[take](choosy)
    error = caught.value
    assert (error.number, error.sender, error.data) == (1, os.getpid(), bad)
    assert error.reason == "KeyError: 'no bad'"
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)
    for part in ("message 1", f"process {os.getpid()}", "choosy", error.reason, "q.dead"):
        assert part in str(error)
    assert choosy.get(timeout=0) == {"good": 2}
    letter = choosy.dead.get()
    assert (letter.data, letter.reason, letter.sender, letter.number) == (bad, error.reason, os.getpid(), 1)
    assert idle(choosy)


@BAD
def test_invalid_ones_among_many_do_not_hide_the_good(choosy: isthmus.Queue[Any], bad: bytes) -> None:
    choosy.put_many([bad, 1, 2, bad, 3])
    assert choosy.get_many(2, timeout=0) == [1, 2]
    assert choosy.get_many(10, timeout=0) == [3]
    assert [letter.number for letter in choosy.dead] == [0, 3]
    choosy.put(bad)
    with pytest.raises(isthmus.InvalidMessage):
        choosy.get_many(10, timeout=0)
    assert len(choosy.dead) == 1


def test_a_queue_can_be_iterated_on_after_an_invalid_one(choosy: isthmus.Queue[Any]) -> None:
    choosy.put_many([1, b"!", 2])
    choosy.shutdown()
    got: list[Any] = []
    with pytest.raises(isthmus.InvalidMessage):
        got.extend(choosy)
    assert list(choosy) == [2]


def test_an_invalid_one_is_delivered_again_after_it_was_requeued(choosy: isthmus.Queue[Any]) -> None:
    choosy.put(b"!bad")
    for _ in range(3):
        with pytest.raises(isthmus.InvalidMessage):
            choosy.get(timeout=0)
        assert choosy.dead.requeue() == 1
    assert choosy.qsize() == 1
    with pytest.raises(isthmus.InvalidMessage):
        choosy.lease(timeout=0)
    assert choosy.dead.get().deliveries == 1


@BAD
def test_where_there_is_no_room_for_more_dead_the_error_has_the_data(bad: bytes) -> None:
    with isthmus.Queue(type=CHOOSY, capacity=256 * KIB) as handle:
        for _ in range(LEASES_OF_64_KIB):
            bury(handle, b"{}")
        handle.put_many([bad, 1])
        with pytest.raises(isthmus.InvalidMessage, match="no room") as caught:
            handle.get(timeout=0)
        assert caught.value.data == bad
        assert handle.get(timeout=0) == 1
        assert len(list(handle.dead)) == LEASES_OF_64_KIB
        del caught  # its traceback shows the message where it lies
        assert idle(handle)


def test_decoding_that_is_interrupted_is_no_invalid_message() -> None:
    """Ctrl+C while decoding: the error stays what it is, and a leased message goes back."""
    states: list[BaseException | None] = [KeyboardInterrupt(), None]

    def decode(buffer: Any) -> Any:
        if states and (error := states.pop(0)):
            raise error
        return bytes(buffer)

    with isthmus.Queue(type=Codec("stubborn", bytes, decode), capacity=MIB) as handle:
        handle.put(b"x")
        with pytest.raises(KeyboardInterrupt):
            handle.lease()
        with handle.lease(timeout=0) as job:
            assert (job.message, job.delivery_count) == (b"x", 2)
        assert idle(handle)
        states.append(KeyboardInterrupt())
        handle.put(b"y")
        with pytest.raises(KeyboardInterrupt):
            handle.get()
        assert [letter.data for letter in handle.dead] == [b"y"], "taken is taken, but not lost"
