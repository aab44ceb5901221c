"""`Queue`, in every form: messages, order, timeouts, batches, priorities, the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import isthmus
from forms import Form, begin
from queues import KIB, drain, fill, limit_of, pattern
from support import PATIENCE, object_files, wait_until

SIZES = [0, 1, 64, 4095, 4096, 4097, 5000, 100_000, 300_000]


def calls(*them: Callable[[], Any]) -> tuple[Callable[[], Any], ...]:
    return them


@dataclass
class Job:
    number: int
    text: str


# ------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("size", SIZES)
def test_what_goes_in_comes_out(q: Any, size: int) -> None:
    for given in (pattern(size), bytearray(pattern(size, 1)), memoryview(pattern(size, 2))):
        q.put(given)
        got = q.get()
        assert (type(got), got) == (bytes, bytes(given))


def test_first_in_first_out_whatever_the_sizes(q: Any) -> None:
    messages = [pattern(size, salt) for salt, size in enumerate([*SIZES, 3, 9000, 0, 4096])]
    for message in messages:
        q.put(message)
    assert [q.get() for _ in messages] == messages


@pytest.mark.parametrize(
    ("type_", "messages", "wrong"),
    [
        (bytes, [b"", b"x" * 5000], "text"),
        (dict[str, int], [{}, {"a": 1}], [1]),
        (Job, [Job(1, "one"), Job(2, "x" * 9000)], {"number": 1}),
        (object, [None, (1, {2}), bytearray(70_000)], None),
    ],
    ids=["bytes", "dict", "dataclass", "object"],
)
def test_messages_of_each_type(form: Form, type_: Any, messages: list[Any], wrong: Any) -> None:
    with form.Queue(type=type_) as q:
        assert q.type == type_
        q.put_many(messages)
        assert [q.get() for _ in messages] == messages
        if wrong is not None:
            with pytest.raises((TypeError, ValueError)):
                q.put(wrong)
            with pytest.raises((TypeError, ValueError)) as caught:
                q.put_many([messages[0], wrong])
            assert len(drain(q)) == getattr(caught.value, "sent", 0)


def test_an_invalid_message_goes_to_the_dead_and_the_next_one_comes(form: Form) -> None:
    with form.Queue(type=Job) as q:
        wrong = Job("1", 2)  # type: ignore[arg-type]
        for get in (q.get, lambda: q.get_many(3), lambda: q.lease().ack(), lambda: next(iter(q))):
            q.put(wrong)
            with pytest.raises(isthmus.InvalidMessage) as caught:
                get()
            assert q.dead.get().data == caught.value.data
        waiting = begin(q.get)
        wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
        q.put_many([wrong, Job(1, "one")])
        assert isinstance(waiting.exception(PATIENCE), isthmus.InvalidMessage)
        assert q.get() == Job(1, "one")
        assert len(q.dead) == 1
        q.dead.get()


def test_what_is_inside_is_known(q: Any) -> None:
    assert (q.qsize(), q.empty(), q.fill, q.name, q.priorities) == (0, True, 0.0, None, 1)
    q.put_many([bytes(1000)] * 3)
    stats = q.stats()
    assert (q.qsize(), q.empty(), stats.depth, stats.put, stats.got) == (3, False, 3, 3, 0)
    assert 0 < q.fill < 1
    assert q.message_max < q.capacity
    assert limit_of(q) == q.message_max


# ------------------------------------------------------------------------------------------------- timeouts

CALLS: dict[str, Callable[..., Any]] = {
    "get": lambda q, **t: q.get(**t),
    "put": lambda q, **t: q.put(bytes(4000), **t),
    "get_many": lambda q, **t: q.get_many(3, **t),
    "put_many": lambda q, **t: q.put_many([bytes(4000)], **t),
    "put until received": lambda q, **t: q.put(b"x", until="received", **t),
    "get_view": lambda q, **t: q.get_view(**t),
    "lease": lambda q, **t: q.lease(**t),
    "reserve": lambda q, **t: q.reserve(4000, **t).__enter__(),
    "wait_readable": lambda q, **t: q.wait_readable(**t),
    "wait_writable": lambda q, **t: q.wait_writable(**t),
}
TAKES = ["get", "get_many", "get_view", "lease", "wait_readable"]
GIVES = ["put", "put_many", "reserve", "wait_writable"]
BY_CALL = pytest.mark.parametrize("call", CALLS)


@BY_CALL
@pytest.mark.parametrize("wrong", [-1, -0.001, float("nan"), float("-inf")])
def test_a_timeout_below_zero_or_no_number_is_refused_even_where_none_is_needed(
    q: Any, call: str, wrong: float
) -> None:
    q.put(b"x")
    with pytest.raises(ValueError, match=f"timeout is {wrong:g}".replace("nan", "(?i:nan)")):
        CALLS[call](q, timeout=wrong)
    assert drain(q) == [b"x"], "and nothing was done"


@BY_CALL
def test_a_timeout_that_is_no_number_is_a_type_error(q: Any, call: str) -> None:
    q.put(b"x")
    with pytest.raises(TypeError):
        CALLS[call](q, timeout="soon")
    assert drain(q) == [b"x"]


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-9, 0.01, 0.3])
@pytest.mark.parametrize("call", TAKES)
def test_where_nothing_comes_it_says_so_and_not_too_early(q: Any, call: str, timeout: float) -> None:
    start = time.monotonic()
    if call == "wait_readable":
        assert q.wait_readable(timeout=timeout) is False
    else:
        with pytest.raises(isthmus.Empty):
            CALLS[call](q, timeout=timeout)
    # A loop of uvloop counts milliseconds.
    assert time.monotonic() - start >= timeout - 0.002
    assert (q.stats().consumers_waiting, q.stats().producers_waiting) == (0, 0)


@pytest.mark.parametrize("timeout", [0, 1e-9, 0.01, 0.3])
@pytest.mark.parametrize("call", GIVES)
def test_where_there_is_no_room_it_says_so_and_not_too_early(form: Form, call: str, timeout: float) -> None:
    with form.Queue(type=bytes, capacity=64 * KIB) as q:
        count = fill(q, 4000)
        large = fill(q, 5000)
        start = time.monotonic()
        if call == "wait_writable":
            assert q.wait_writable(timeout=timeout, below=q.fill / 2) is False
        else:
            with pytest.raises(isthmus.Full) as caught:
                q.reserve(5000, timeout=timeout).__enter__() if call == "reserve" else CALLS[call](
                    q, timeout=timeout
                )
            assert caught.value.sent == 0
        assert time.monotonic() - start >= timeout - 0.002
        assert len(drain(q)) == count + large


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e300, 1000.0])
@pytest.mark.parametrize("call", TAKES)
def test_it_waits_until_something_comes(q: Any, call: str, timeout: float | None) -> None:
    waiting = begin(lambda: CALLS[call](q, timeout=timeout))
    wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
    q.put(b"hello")
    got = waiting.result(PATIENCE)
    match call:
        case "get":
            assert got == b"hello"
        case "get_many":
            assert got == [b"hello"]
        case "get_view":
            assert bytes(got) == b"hello"
        case "lease":
            assert got.message == b"hello"
            got.ack()
        case _:
            assert got is True
            assert q.get() == b"hello"
    assert q.stats().consumers_waiting == 0


@pytest.mark.parametrize("call", GIVES)
def test_it_waits_until_there_is_room(form: Form, call: str) -> None:
    with form.Queue(type=bytes, capacity=64 * KIB) as q:
        count = fill(q, 4000)
        if call == "reserve":
            fill(q, 5000)
        mark = q.fill

        def work() -> Any:
            if call == "wait_writable":
                return q.wait_writable(below=mark)
            if call == "reserve":
                with q.reserve(5000) as block:
                    block[:3] = b"abc"
                return None
            return CALLS[call](q)

        waiting = begin(work)
        if call != "wait_writable":
            wait_until(lambda: q.stats().producers_waiting == 1, "it to wait")
        assert not waiting.done()
        if call == "reserve":
            assert len(q.get_many(count)) == count
        q.get()
        result = waiting.result(PATIENCE)
        assert result == {"put_many": 1, "wait_writable": True}.get(call)
        assert q.stats().producers_waiting == 0
        drain(q)


def test_a_message_that_can_never_fit_is_refused_at_once(q: Any) -> None:
    for put in calls(
        lambda: q.put(bytes(q.capacity + 1)),
        lambda: q.put_many([bytes(q.message_max + 1)]),
        lambda: q.reserve(q.message_max + 1).__enter__(),
    ):
        with pytest.raises(isthmus.TooLarge) as caught:
            put()
        assert caught.value.size > caught.value.limit == q.message_max
    with pytest.raises(isthmus.TooLarge) as caught:
        q.put_many([b"1", b"2", bytes(q.capacity)])
    assert len(drain(q)) == getattr(caught.value, "sent", 0)


# -------------------------------------------------------------------------------------------------- batches


def test_batches_of_any_size_in_order(q: Any) -> None:
    messages = [pattern(number % 97, number % 251) for number in range(3000)]
    assert q.put_many(messages) == 3000
    assert q.put_many([]) == 0
    assert q.put_many(iter([b"from", b"an", b"iterator"])) == 3
    got: list[bytes] = []
    while len(got) < 3003:
        some = q.get_many(1000, timeout=PATIENCE)
        assert 1 <= len(some) <= 1000
        got += some
    assert got == [*messages, b"from", b"an", b"iterator"]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_allows_nothing(q: Any, limit: int) -> None:
    q.put(b"x")
    with contextlib.suppress(ValueError, OverflowError):
        assert q.get_many(limit) == []
    assert drain(q) == [b"x"]


@pytest.mark.parametrize("timeout", [0, 0.05])
@pytest.mark.parametrize("size", [10, 4000, 5000])
def test_of_a_batch_too_many_the_first_ones_go_out_and_full_says_how_many(
    form: Form, timeout: float, size: int
) -> None:
    with form.Queue(type=bytes, capacity=64 * KIB) as q:
        messages = [bytes([number % 251]) * size for number in range(9000 if size == 10 else 50)]
        with pytest.raises(isthmus.Full) as caught:
            q.put_many(messages, timeout=timeout)
        got = drain(q)
        assert 0 < caught.value.sent == len(got) < len(messages)
        assert got == messages[: len(got)]


@pytest.mark.parametrize("size", [10, 4000, 5000])
def test_a_batch_larger_than_the_queue_goes_through_while_others_take(form: Form, size: int) -> None:
    with form.Queue(type=bytes, capacity=64 * KIB) as q:
        messages = [bytes([number % 251]) * size for number in range(9000 if size == 10 else 100)]
        putting = begin(lambda: q.put_many(messages))
        got: list[bytes] = []
        while len(got) < len(messages):
            got += q.get_many(7 if size > 10 else 500, timeout=PATIENCE)
        assert putting.result(PATIENCE) == len(messages)
        assert got == messages


# ----------------------------------------------------------------------------------------------- priorities


def test_the_most_urgent_comes_first_and_each_level_in_order(form: Form) -> None:
    with form.Queue(type=bytes, priorities=3) as q:
        assert q.priorities == 3
        for number in range(9):
            q.put(b"%d" % number, priority=number % 3)
        q.put_many([b"a", b"b"], priority=1)
        with q.reserve(1, priority=2) as block:
            block[:] = b"r"
        expected = [b"2", b"5", b"8", b"r", b"1", b"4", b"7", b"a", b"b", b"0", b"3", b"6"]
        assert [q.get() for _ in expected] == expected


@pytest.mark.parametrize("wrong", [-1, 3, 300])
def test_a_level_that_is_not_there_is_refused(form: Form, wrong: int) -> None:
    with form.Queue(type=bytes, priorities=3) as q:
        for put in calls(
            lambda: q.put(b"x", priority=wrong),
            lambda: q.put_many([b"x"], priority=wrong),
            lambda: q.reserve(1, priority=wrong).__enter__(),
        ):
            with pytest.raises(ValueError, match="priority"):
                put()
        assert q.empty()


def test_who_waits_gets_an_urgent_message_too(form: Form) -> None:
    with form.Queue(type=bytes, priorities=4) as q:
        for level in (3, 0, 2):
            waiting = begin(q.get)
            wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
            q.put(b"%d" % level, priority=level)
            assert waiting.result(PATIENCE) == b"%d" % level


def test_a_full_level_waits_for_its_own_room(form: Form) -> None:
    with form.Queue(type=bytes, priorities=2, capacity=128 * KIB) as q:
        counts = [fill(q, 4000, level) for level in (0, 1)]
        putting = begin(lambda: q.put(bytes(4000), priority=0))
        wait_until(lambda: q.stats().producers_waiting == 1, "it to wait")
        # Those of level 1 go first and make no room for it.
        for _ in range(counts[1]):
            q.get()
        assert not putting.done()
        q.get()
        putting.result(PATIENCE)
        drain(q)


# -------------------------------------------------------------------------------------------------- the end


def test_after_shutdown_what_is_inside_is_taken_and_then_it_ends(q: Any) -> None:
    q.put_many([b"1", b"2", b"3"])
    assert q.get() == b"1"
    q.shutdown()
    for put in calls(
        lambda: q.put(b"x"),
        lambda: q.put_many([b"x"]),
        lambda: q.put(b"x", until="received"),
    ):
        with pytest.raises(isthmus.ShutDown):
            put()
    with pytest.raises(isthmus.ShutDown), q.reserve(1):
        pass
    assert list(q) == [b"2", b"3"]
    assert list(q) == list(q.views()) == list(q.leases()) == []
    for call in ("get", "get_many", "get_view", "lease"):
        with pytest.raises(isthmus.ShutDown):
            CALLS[call](q)
    assert q.wait_readable() is True, "get would not wait"
    q.shutdown()


@pytest.mark.parametrize("call", [*TAKES, "iteration", "leases", "views"])
def test_shutdown_ends_who_waits_for_a_message(q: Any, call: str) -> None:
    every = CALLS | {
        "iteration": lambda q: next(iter(q)),
        "leases": lambda q: next(iter(q.leases())),
        "views": lambda q: next(iter(q.views())),
    }
    waiting = [begin(lambda: every[call](q)) for _ in range(3)]
    wait_until(lambda: q.stats().consumers_waiting == 3, "them to wait")
    q.shutdown()
    for each in waiting:
        error = each.exception(PATIENCE)
        match call:
            case "wait_readable":
                assert each.result() is True
            case "iteration" | "leases" | "views":
                assert isinstance(error, StopIteration)
            case _:
                assert isinstance(error, isthmus.ShutDown)


@pytest.mark.parametrize("call", ["put", "put_many"])
def test_shutdown_ends_who_waits_for_room(form: Form, call: str) -> None:
    with form.Queue(type=bytes, capacity=64 * KIB) as q:
        count = fill(q, 4000)
        waiting = [begin(lambda: CALLS[call](q)) for _ in range(3)]
        wait_until(lambda: q.stats().producers_waiting == 3, "them to wait")
        q.shutdown()
        for each in waiting:
            assert isinstance(each.exception(PATIENCE), isthmus.ShutDown)
        assert len(list(q)) == count


def test_iteration_ends_for_all_who_share_it(q: Any) -> None:
    consumers = [begin(lambda: list(q)) for _ in range(4)]
    for number in range(200):
        q.put(b"%d" % number)
    q.shutdown()
    got = [consumer.result(PATIENCE) for consumer in consumers]
    assert sorted(int(each) for some in got for each in some) == list(range(200))
    for some in got:
        assert sorted(some, key=int) == some


# -------------------------------------------------------------------------------------------------- closing


@BY_CALL
def test_a_closed_handle_says_so(q: Any, call: str) -> None:
    q.close()
    with pytest.raises(isthmus.ClosedError):
        CALLS[call](q)
    with pytest.raises(isthmus.ClosedError):
        CALLS[call](q, timeout=0)
    for other in (q.qsize, q.empty, q.stats, q.shutdown, lambda: next(iter(q)), q.__enter__):
        with pytest.raises(isthmus.ClosedError):
            other()
    assert q.closed
    assert "closed" in repr(q)
    q.close()


@pytest.mark.parametrize("call", [*TAKES, "put until received"])
def test_closing_the_handle_ends_who_waits_for_a_message(q: Any, call: str) -> None:
    waiting = [begin(lambda: CALLS[call](q)) for _ in range(3)]
    if call == "put until received":
        wait_until(lambda: q.qsize() == 3, "the messages")
    else:
        wait_until(lambda: q.stats().consumers_waiting == 3, "them to wait")
    with pytest.warns(ResourceWarning) if q.qsize() else contextlib.nullcontext():
        q.close()
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), isthmus.ClosedError)


@pytest.mark.parametrize("call", ["put", "put_many", "reserve", "wait_writable"])
def test_closing_the_handle_ends_who_waits_for_room(form: Form, call: str) -> None:
    q = form.Queue(type=bytes, capacity=64 * KIB)
    fill(q, 4000)
    fill(q, 5000)

    def work() -> None:
        if call == "reserve":
            with q.reserve(5000):
                pass
        elif call == "wait_writable":
            q.wait_writable(below=0.1)
        else:
            CALLS[call](q)

    waiting = [begin(work) for _ in range(3)]
    if call != "wait_writable":
        wait_until(lambda: q.stats().producers_waiting == 3, "them to wait")
    with pytest.warns(ResourceWarning):
        q.close()
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), isthmus.ClosedError)


def test_names(form: Form, namespace: Any) -> None:
    with pytest.raises(FileNotFoundError):
        form.Queue.open("jobs")
    with form.Queue.create("jobs", type=bytes, priorities=2) as first:
        assert first.name == "jobs"
        with pytest.raises(FileExistsError):
            form.Queue.create("jobs")
        with pytest.raises(isthmus.IncompatibleError):
            form.Queue("jobs", priorities=3)
        with form.Queue("jobs") as second, form.Queue.open("jobs", type=bytes) as third:
            first.put(b"x")
            assert second.priorities == third.priorities == 2
            assert third.get() == b"x"
            second.put(b"y")
            assert first.get() == b"y"
        first.unlink()
        assert object_files(namespace) == []
        first.put(b"z")
        assert first.get() == b"z"
    assert object_files(namespace) == []
