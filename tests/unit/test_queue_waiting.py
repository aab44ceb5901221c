"""`Queue`: what a call waits for: time, a message, room, the end of the queue."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import isthmus
from queues import MIB, drain, fill, pattern
from support import Peer

Start = Callable[..., Peer]


# ------------------------------------------------------------------------------------------------- timeouts


def test_get_from_an_empty_queue_raises_empty_which_is_also_the_builtin_errors(
    q: isthmus.Queue[bytes],
) -> None:
    with pytest.raises(isthmus.Empty) as caught:
        q.get(timeout=0)
    for kind in (isthmus.Timeout, isthmus.IsthmusError, queue.Empty, TimeoutError):
        assert isinstance(caught.value, kind)


def test_put_into_a_full_queue_raises_full_which_is_also_the_builtin_errors() -> None:
    with isthmus.Queue(type=bytes, capacity=64 * 1024) as handle:
        fill(handle, 1000)
        with pytest.raises(isthmus.Full) as caught:
            handle.put(bytes(1000), timeout=0)
        for kind in (isthmus.Timeout, isthmus.IsthmusError, queue.Full, TimeoutError):
            assert isinstance(caught.value, kind)
        assert caught.value.sent == 0
        drain(handle)


@pytest.mark.parametrize("timeout", [0.001, 0.06, 0.25, 1])
def test_a_timeout_is_waited_out_in_full(q: isthmus.Queue[bytes], timeout: float) -> None:
    start = time.monotonic()
    with pytest.raises(isthmus.Empty):
        q.get(timeout=timeout)
    assert time.monotonic() - start >= timeout
    with pytest.raises(isthmus.Empty):
        q.get_many(5, timeout=timeout / 100)


def test_a_full_queue_waits_its_timeout_out() -> None:
    with isthmus.Queue(type=bytes, capacity=64 * 1024) as handle:
        fill(handle, 1000)
        start = time.monotonic()
        with pytest.raises(isthmus.Full):
            handle.put(bytes(1000), timeout=0.2)
        assert time.monotonic() - start >= 0.2
        drain(handle)


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
def test_a_negative_timeout_is_a_value_error_that_names_it(q: isthmus.Queue[bytes], timeout: float) -> None:
    q.put(b"x", timeout=0)
    calls: list[Callable[[], object]] = [
        lambda: q.get(timeout=timeout),
        lambda: q.put(b"y", timeout=timeout),
        lambda: q.put_many([b"y"], timeout=timeout),
        lambda: q.get_many(1, timeout=timeout),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"-1|-0\.001|nan|NaN|-inf"):
            call()
    assert drain(q) == [b"x"]


@pytest.mark.parametrize("timeout", ["1", b"1", [1]])
def test_a_timeout_that_is_no_number_is_a_type_error(q: isthmus.Queue[bytes], timeout: Any) -> None:
    q.put(b"x", timeout=0)
    with pytest.raises(TypeError):
        q.get(timeout=timeout)
    assert drain(q) == [b"x"]


@pytest.mark.parametrize("timeout", [None, 1e300, float("inf"), 1 << 40])
def test_a_timeout_without_an_end_waits_for_a_message(q: isthmus.Queue[bytes], timeout: float | None) -> None:
    putter = threading.Timer(0.05, q.put, [b"late"])
    putter.start()
    assert q.get(timeout=timeout) == b"late"
    putter.join()


def test_a_waiting_put_goes_on_when_room_is_made() -> None:
    with isthmus.Queue(type=bytes, capacity=64 * 1024) as handle:
        count = fill(handle, 1000)
        taker = threading.Timer(0.05, handle.get)
        taker.start()
        handle.put(bytes(1000))
        taker.join()
        assert len(drain(handle)) == count


def test_a_large_message_waits_until_enough_small_ones_are_gone() -> None:
    with isthmus.Queue(type=bytes, capacity=512 * 1024) as handle:
        fill(handle, 30_000)
        putter = threading.Thread(target=handle.put, args=[pattern(200_000)])
        putter.start()
        sizes = []
        while 200_000 not in sizes:
            sizes.append(len(handle.get(timeout=30)))
        putter.join()
        assert set(sizes[:-1]) == {30_000}


# -------------------------------------------------------------------------------------------------- the end


def test_iteration_ends_after_shutdown_and_drain(q: isthmus.Queue[bytes]) -> None:
    q.put_many([b"a", b"b", b"c"])
    q.shutdown()
    assert list(q) == [b"a", b"b", b"c"]
    assert list(q) == []


def test_after_shutdown_puts_are_refused_and_gets_drain_first(q: isthmus.Queue[bytes]) -> None:
    q.put_many([b"a", b"b", b"c"])
    q.shutdown()
    q.shutdown()
    for refused in (lambda: q.put(b"x"), lambda: q.put_many([b"x"])):
        with pytest.raises(isthmus.ShutDown):
            refused()
    assert q.get() == b"a"
    assert q.get_many(10) == [b"b", b"c"]
    for ended in (q.get, lambda: q.get(timeout=0), lambda: q.get_many(3)):
        with pytest.raises(isthmus.ShutDown) as caught:
            ended()
        assert isinstance(caught.value, EOFError)


def test_shutdown_wakes_everyone_who_waits() -> None:
    with (
        isthmus.Queue(type=bytes, capacity=64 * 1024) as empty,
        isthmus.Queue(type=bytes, capacity=64 * 1024) as full,
    ):
        fill(full, 1000)
        ended: list[str] = []

        def wait(call: Callable[[], object], what: str) -> None:
            with pytest.raises(isthmus.ShutDown):
                call()
            ended.append(what)

        threads = [
            threading.Thread(target=wait, args=[call, what])
            for what, call in {
                "get": empty.get,
                "get_many": lambda: empty.get_many(5),
                "put": lambda: full.put(bytes(1000)),
                "put_many": lambda: full.put_many([bytes(1000)]),
            }.items()
        ]
        iterated: list[list[bytes]] = []
        threads.append(threading.Thread(target=lambda: iterated.append(list(empty))))
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        empty.shutdown()
        full.shutdown()
        for thread in threads:
            thread.join(30)
        assert sorted(ended) == ["get", "get_many", "put", "put_many"]
        assert iterated == [[]]
        drain_after_shutdown(full)


def drain_after_shutdown(handle: isthmus.Queue[bytes]) -> None:
    for _ in handle:
        pass


def test_shutdown_is_seen_by_other_processes(spawn: Start) -> None:
    with isthmus.Queue("ends", type=bytes, capacity=MIB) as handle:
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("ends", type=bytes) as q:
                print("ready", flush=True)
                print(list(q), flush=True)
                try:
                    q.put(b"x")
                except isthmus.ShutDown:
                    print("refused", flush=True)
        """)
        peer.expect("ready")
        handle.put(b"one")
        handle.put(b"two")
        handle.shutdown()
        peer.expect("[b'one', b'two']")
        peer.expect("refused")
        peer.finish()


def test_ends_with_producers_gives_shutdown_after_the_last_of_them_closed(spawn: Start) -> None:
    with isthmus.Queue("stream", type=bytes, capacity=MIB, ends_with_producers=True) as handle:
        with pytest.raises(isthmus.Empty):
            handle.get(timeout=0.05)  # no producer yet is not the end
        producers = [
            spawn("""
                import sys, isthmus
                with isthmus.Queue.open("stream", type=bytes) as q:
                    q.put(b"message")
                    print("put", flush=True)
                    sys.stdin.readline()
            """)
            for _ in range(2)
        ]
        for producer in producers:
            producer.expect("put")
        producers[0].finish()
        assert handle.get() == b"message"
        assert handle.get() == b"message"
        with pytest.raises(isthmus.Empty):
            handle.get(timeout=0.2)  # one of them is still there
        producers[1].finish()
        with pytest.raises(isthmus.ShutDown):
            handle.get()
        assert list(handle) == []


def test_ends_with_producers_says_who_was_killed(spawn: Start) -> None:
    with isthmus.Queue("stream", type=bytes, capacity=MIB, ends_with_producers=True) as handle:
        producer = spawn("""
            import sys, isthmus
            q = isthmus.Queue.open("stream", type=bytes)
            q.put(b"last words")
            print("put", flush=True)
            sys.stdin.readline()
        """)
        producer.expect("put")
        producer.kill()
        assert handle.get() == b"last words"
        with pytest.raises(isthmus.PeerDied) as caught:
            handle.get()
        assert caught.value.pid == producer.pid
        with pytest.raises(isthmus.PeerDied):
            list(handle)
