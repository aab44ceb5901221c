"""`Queue`, of every kind and in every form: messages, order, timeouts, batches, priorities, the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import isthmus
from forms import Form, begin
from kinds import KINDS, SHARED, Kind, Queues, can
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
        if size > q.message_max:
            with pytest.raises(isthmus.TooLarge):
                q.put(given)
            continue
        q.put(given)
        got = q.get()
        assert (type(got), got) == (bytes, bytes(given))


def test_first_in_first_out_whatever_the_sizes(q: Any) -> None:
    sizes = [size for size in [*SIZES, 3, 9000, 0, 4096] if size <= q.message_max]
    messages = [pattern(size, salt) for salt, size in enumerate(sizes)]
    for message in messages:
        q.put(message)
    assert [q.get() for _ in messages] == messages


@pytest.mark.parametrize(
    ("type_", "messages", "wrong"),
    [
        (bytes, [b"", b"x" * 5000], "text"),
        (dict[str, int], [{}, {"a": 1}], [1]),
        (Job, [Job(1, "one"), Job(2, "x" * 5000)], {"number": 1}),
        (object, [None, (1, {2}), bytearray(5000), bytearray(70_000)], None),
    ],
    ids=["bytes", "dict", "dataclass", "object"],
)
def test_messages_of_each_type(queues: Queues, type_: Any, messages: list[Any], wrong: Any) -> None:
    with queues.make(type=type_) as q:
        assert q.type == type_
        if type_ is object and q.message_max < 70_000:
            messages = messages[:-1]
        q.put_many(messages)
        assert [q.get() for _ in messages] == messages
        if wrong is not None:
            with pytest.raises((TypeError, ValueError)):
                q.put(wrong)
            with pytest.raises((TypeError, ValueError)) as caught:
                q.put_many([messages[0], wrong])
            assert len(drain(q)) == getattr(caught.value, "sent", 0)


def test_an_invalid_message_is_reported_and_the_next_one_comes(queues: Queues) -> None:
    with queues.make(type=Job) as q:
        wrong = Job("1", 2)  # type: ignore[arg-type]
        for get in (q.get, lambda: q.get_many(3), lambda: next(iter(q))):
            q.put(wrong)
            with pytest.raises(isthmus.InvalidMessage) as caught:
                get()
            assert b"number" in caught.value.data
            assert q.empty()
        waiting = begin(q.get)
        wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
        q.put_many([wrong, Job(1, "one")])
        assert isinstance(waiting.exception(PATIENCE), isthmus.InvalidMessage)
        assert q.get() == Job(1, "one")


@can("dead letters", "leases")
def test_an_invalid_message_goes_to_the_dead(queues: Queues) -> None:
    with queues.make(type=Job) as q:
        for get in (q.get, lambda: q.get_many(3), lambda: q.lease().ack(), lambda: next(iter(q))):
            q.put(Job("1", 2))  # type: ignore[arg-type]
            with pytest.raises(isthmus.InvalidMessage) as caught:
                get()
            assert len(q.dead) == 1
            assert q.dead.get().data == caught.value.data


def test_what_is_inside_is_known(q: Any, kind: Kind) -> None:
    assert (q.qsize(), q.empty(), q.fill) == (0, True, 0.0)
    assert (q.name is None, q.priorities) == ((True, 1) if kind is SHARED else (False, 32768))
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
NEEDS = {
    "put until received": "handshakes",
    "get_view": "views",
    "lease": "leases",
    "reserve": "reservations",
}


def by_call(*names: str) -> pytest.MarkDecorator:
    """Each of these calls, of each kind of queue that has it."""
    return pytest.mark.parametrize(
        ("kind", "call"),
        [
            pytest.param(kind, call, id=f"{kind.name}-{call}")
            for kind in KINDS
            for call in names
            if call not in NEEDS or kind.can(NEEDS[call])
        ],
    )


BY_CALL = by_call(*CALLS)


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
@by_call(*TAKES)
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
@by_call(*GIVES)
def test_where_there_is_no_room_it_says_so_and_not_too_early(
    queues: Queues, call: str, timeout: float
) -> None:
    with queues.make(type=bytes, capacity=64 * KIB) as q:
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
@by_call(*TAKES)
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


@by_call(*GIVES)
def test_it_waits_until_there_is_room(queues: Queues, call: str) -> None:
    with queues.make(type=bytes, capacity=64 * KIB) as q:
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
    ):
        with pytest.raises(isthmus.TooLarge) as caught:
            put()
        assert caught.value.size > caught.value.limit == q.message_max
    with pytest.raises(isthmus.TooLarge) as caught:
        q.put_many([b"1", b"2", bytes(q.capacity)])
    assert len(drain(q)) == getattr(caught.value, "sent", 0)


# -------------------------------------------------------------------------------------------------- batches


def test_batches_of_any_size_in_order(q: Any) -> None:
    assert q.put_many([]) == 0
    assert q.put_many(iter([b"from", b"an", b"iterator"])) == 3
    messages = [pattern(number % 97, number % 251) for number in range(3000)]
    putting = begin(lambda: q.put_many(messages))
    got: list[bytes] = []
    while len(got) < 3003:
        some = q.get_many(1000, timeout=PATIENCE)
        assert 1 <= len(some) <= 1000
        got += some
    assert putting.result(PATIENCE) == 3000
    assert got == [b"from", b"an", b"iterator", *messages]


@can("more than ten messages")
def test_a_batch_is_put_at_once(q: Any) -> None:
    messages = [pattern(number % 97, number % 251) for number in range(3000)]
    assert q.put_many(messages, timeout=0) == 3000
    assert drain(q) == messages


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_allows_nothing(q: Any, limit: int) -> None:
    q.put(b"x")
    with contextlib.suppress(ValueError, OverflowError):
        assert q.get_many(limit) == []
    assert drain(q) == [b"x"]


@pytest.mark.parametrize("timeout", [0, 0.05])
@pytest.mark.parametrize("size", [10, 4000, 5000])
def test_of_a_batch_too_many_the_first_ones_go_out_and_full_says_how_many(
    queues: Queues, timeout: float, size: int
) -> None:
    with queues.make(type=bytes, capacity=64 * KIB) as q:
        messages = [bytes([number % 251]) * size for number in range(9000 if size == 10 else 50)]
        with pytest.raises(isthmus.Full) as caught:
            q.put_many(messages, timeout=timeout)
        got = drain(q)
        assert 0 < caught.value.sent == len(got) < len(messages)
        assert got == messages[: len(got)]


@pytest.mark.parametrize("size", [10, 4000, 5000])
def test_a_batch_larger_than_the_queue_goes_through_while_others_take(queues: Queues, size: int) -> None:
    with queues.make(type=bytes, capacity=64 * KIB) as q:
        small = 9000 if queues.kind is SHARED else 300
        messages = [bytes([number % 251]) * size for number in range(small if size == 10 else 100)]
        putting = begin(lambda: q.put_many(messages))
        got: list[bytes] = []
        while len(got) < len(messages):
            got += q.get_many(7 if size > 10 else 500, timeout=PATIENCE)
        assert putting.result(PATIENCE) == len(messages)
        assert got == messages


# ----------------------------------------------------------------------------------------------- priorities


def test_the_most_urgent_comes_first_and_each_level_in_order(queues: Queues) -> None:
    with queues.make(type=bytes, priorities=3) as q:
        assert q.priorities == 3
        for number in range(7):
            q.put(b"%d" % number, priority=number % 3)
        q.put_many([b"a", b"b"], priority=1)
        expected = [b"2", b"5", b"1", b"4", b"a", b"b", b"0", b"3", b"6"]
        assert [q.get() for _ in expected] == expected


@pytest.mark.parametrize("wrong", [-1, 3, 300])
def test_a_level_that_is_not_there_is_refused(queues: Queues, wrong: int) -> None:
    with queues.make(type=bytes, priorities=3) as q:
        for put in calls(
            lambda: q.put(b"x", priority=wrong),
            lambda: q.put_many([b"x"], priority=wrong),
        ):
            with pytest.raises(ValueError, match="priority"):
                put()
        assert q.empty()


def test_who_waits_gets_an_urgent_message_too(queues: Queues) -> None:
    with queues.make(type=bytes, priorities=4) as q:
        for level in (3, 0, 2):
            waiting = begin(q.get)
            wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
            q.put(b"%d" % level, priority=level)
            assert waiting.result(PATIENCE) == b"%d" % level


@can("room for each level")
def test_a_full_level_waits_for_its_own_room(queues: Queues) -> None:
    with queues.make(type=bytes, priorities=2, capacity=128 * KIB) as q:
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


@can("shutdown")
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


@can("shutdown")
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


@can("shutdown")
@pytest.mark.parametrize("call", ["put", "put_many"])
def test_shutdown_ends_who_waits_for_room(queues: Queues, call: str) -> None:
    with queues.make(type=bytes, capacity=64 * KIB) as q:
        count = fill(q, 4000)
        waiting = [begin(lambda: CALLS[call](q)) for _ in range(3)]
        wait_until(lambda: q.stats().producers_waiting == 3, "them to wait")
        q.shutdown()
        for each in waiting:
            assert isinstance(each.exception(PATIENCE), isthmus.ShutDown)
        assert len(list(q)) == count


@can("shutdown")
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
def test_a_closed_handle_says_so(q: Any, kind: Kind, call: str) -> None:
    q.close()
    with pytest.raises(isthmus.ClosedError):
        CALLS[call](q)
    with pytest.raises(isthmus.ClosedError):
        CALLS[call](q, timeout=0)
    for other in (q.qsize, q.empty, q.stats, lambda: next(iter(q)), q.__enter__):
        with pytest.raises(isthmus.ClosedError):
            other()
    with pytest.raises(isthmus.ClosedError if kind.can("shutdown") else isthmus.Unsupported):
        q.shutdown()
    assert q.closed
    assert "closed" in repr(q)
    q.close()


@by_call(*TAKES, "put until received")
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


@by_call(*GIVES)
def test_closing_the_handle_ends_who_waits_for_room(queues: Queues, kind: Kind, call: str) -> None:
    q = queues.make(type=bytes, capacity=64 * KIB)
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
    lost = kind.can("ending with its last user")
    with pytest.warns(ResourceWarning) if lost else contextlib.nullcontext():
        q.close()
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), isthmus.ClosedError)


def test_names(queues: Queues) -> None:
    form, name = queues.form, queues.name()
    with pytest.raises(FileNotFoundError):
        form.Queue.open(name, type=bytes)
    with form.Queue.create(name, type=bytes) as first:
        assert first.name == name.removeprefix("posix-mq://")
        with pytest.raises(FileExistsError):
            form.Queue.create(name)
        with pytest.raises(isthmus.IncompatibleError):
            form.Queue(name, type=bytes, capacity=64 * KIB)
        with form.Queue(name, type=bytes) as second, form.Queue.open(name, type=bytes) as third:
            first.put(b"x")
            assert third.get() == b"x"
            second.put(b"y")
            assert first.get() == b"y"
        first.unlink()
        with pytest.raises(FileNotFoundError):
            form.Queue.open(name, type=bytes)
        first.put(b"z")
        assert first.get() == b"z"


def test_what_is_stored_with_a_name(form: Form, namespace: Any) -> None:
    with form.Queue.create("jobs", type=bytes, priorities=2) as first:
        with pytest.raises(isthmus.IncompatibleError):
            form.Queue("jobs", priorities=3)
        with pytest.raises(isthmus.IncompatibleError):
            form.Queue("jobs", type=int)
        with form.Queue("jobs") as second:
            assert (second.priorities, second.type) == (2, bytes)
        assert object_files(namespace) == ["jobs"]
        first.unlink()
        assert object_files(namespace) == []
    assert object_files(namespace) == []
