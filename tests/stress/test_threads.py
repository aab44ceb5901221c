"""Sixteen threads on one handle: as if they were processes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial

import pytest

import isthmus

THREADS = 16


def run_all(calls: Sequence[Callable[[], None]]) -> None:
    """Runs each in a thread; fails with the first error of any."""
    errors: list[BaseException] = []

    def guard(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guard, args=[call], daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


@pytest.mark.parametrize("size", [8, 500, 20_000])
@pytest.mark.parametrize("capacity", [128 << 10, 8 << 20])
def test_every_message_of_eight_threads_comes_once_to_one_of_eight_others(size: int, capacity: int) -> None:
    handle = isthmus.Queue(type=bytes, capacity=capacity)
    each = 2000 if size < 1000 else 250
    lists: list[list[tuple[int, int]]] = [[] for _ in range(THREADS // 2)]

    def put(number: int) -> None:
        for i in range(each):
            handle.put(bytes([number]) + i.to_bytes(4, "little") + bytes(size))

    def get(into: list[tuple[int, int]]) -> None:
        into.extend((message[0], int.from_bytes(message[1:5], "little")) for message in handle)

    def finish() -> None:
        run_all([partial(put, n) for n in range(THREADS // 2)])
        handle.shutdown()

    run_all([finish, *[partial(get, into) for into in lists]])
    everything = sorted(entry for entries in lists for entry in entries)
    assert everything == [(n, i) for n in range(THREADS // 2) for i in range(each)]
    for entries in lists:
        for number in range(THREADS // 2):
            mine = [i for n, i in entries if n == number]
            assert mine == sorted(mine), "order per producer"
    handle.close()


def test_batches_and_single_messages_mix() -> None:
    handle = isthmus.Queue(type=bytes, capacity=256 << 10)
    got: list[bytes] = []

    def put(number: int) -> None:
        for i in range(0, 1000, 10):
            messages = [bytes([number]) + (i + j).to_bytes(4, "little") for j in range(10)]
            if number % 2:
                handle.put_many(messages)
            else:
                for message in messages:
                    handle.put(message)

    def get(number: int) -> None:
        while True:
            try:
                got.extend(handle.get_many(7) if number % 2 else [handle.get()])
            except isthmus.ShutDown:
                return

    def finish() -> None:
        run_all([partial(put, n) for n in range(THREADS // 2)])
        handle.shutdown()

    run_all([finish, *[partial(get, n) for n in range(THREADS // 2)]])
    assert sorted(got) == sorted(
        bytes([n]) + i.to_bytes(4, "little") for n in range(THREADS // 2) for i in range(1000)
    )
    handle.close()


def test_a_mutex_excludes_sixteen_threads() -> None:
    lock = isthmus.Mutex()
    state = {"inside": 0, "turns": 0}

    def take() -> None:
        for turn in range(300):
            if turn % 3:
                assert lock.acquire()
            else:
                while not lock.acquire(timeout=0.01):
                    pass
            state["inside"] += 1
            assert state["inside"] == 1
            state["turns"] += 1
            state["inside"] -= 1
            lock.release()

    run_all([take] * THREADS)
    assert state == {"inside": 0, "turns": 300 * THREADS}
    assert not lock.locked()
    lock.close()


def test_threads_that_close_under_threads_that_use_get_closed_error_and_nothing_worse() -> None:
    for _ in range(15):
        handle = isthmus.Queue(type=bytes, capacity=128 << 10)

        def use(handle: isthmus.Queue[bytes] = handle) -> None:
            while True:
                try:
                    handle.put(bytes(100), timeout=0)
                    handle.get(timeout=0)
                    handle.stats()
                except isthmus.Timeout:
                    pass
                except isthmus.ClosedError:
                    return

        def close(handle: isthmus.Queue[bytes] = handle) -> None:
            threading.Event().wait(0.005)
            while not handle.closed:
                with contextlib.suppress(ResourceWarning):  # a message was inside
                    handle.close()

        run_all([use] * 4 + [close])
