"""`isthmus.aio._ready`: waiting for descriptors in an event loop, whatever becomes of them."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.aio._ready import _watches, forget, readable, ready, writable
from support import PATIENCE

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def _loops() -> list[Any]:
    """Each kind of event loop there is here."""
    kinds: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    if importlib.util.find_spec("uvloop") is None:
        return kinds
    return [*kinds, pytest.param(importlib.import_module("uvloop").new_event_loop, id="uvloop")]


@pytest.fixture(params=_loops())
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, with patience and not longer."""

    def in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, PATIENCE))

    return in_loop


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """A pipe: both descriptors, closed afterwards unless the test did."""
    pair = os.pipe()
    yield pair
    for fd in pair:
        try:
            os.close(fd)
        except OSError:
            continue


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_waits_until_there_is_something(run: Run, ends: tuple[int, int]) -> None:
    reader, writer = ends

    async def main() -> None:
        assert await readable(reader, 0) is False
        assert await readable(reader, 0.01) is False
        for _ in range(3):  # registered once, armed again each time
            task = asyncio.create_task(readable(reader))
            await settle()
            assert not task.done()
            os.write(writer, b"x")
            assert await task is True
            assert await readable(reader, 0) is True
            os.read(reader, 1)
        assert await writable(writer) is True
        assert os.get_blocking(reader)
        assert os.get_blocking(writer)

    run(main())


def test_waits_for_room(run: Run, ends: tuple[int, int]) -> None:
    reader, writer = ends

    async def main() -> None:
        full = os.pwritev(writer, [bytes(1 << 20)], -1, os.RWF_NOWAIT)
        assert await writable(writer, 0) is False
        task = asyncio.create_task(writable(writer))
        await settle()
        assert not task.done()
        os.read(reader, full)
        assert await task is True

    run(main())


def test_all_tasks_that_wait_for_one_descriptor_are_woken(run: Run, ends: tuple[int, int]) -> None:
    reader, writer = ends

    async def main() -> None:
        tasks = [asyncio.create_task(readable(reader)) for _ in range(5)]
        hurried = asyncio.create_task(readable(reader, 0.01))
        await settle()
        assert await hurried is False
        tasks[0].cancel()
        await settle()
        assert tasks[0].cancelled()
        os.write(writer, b"x")
        assert await asyncio.gather(*tasks[1:]) == [True] * 4

    run(main())


def test_each_direction_of_a_socket_has_its_own_waiters(run: Run) -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    with left, right:

        async def main() -> None:
            while True:
                try:
                    left.send(bytes(1 << 16))
                except BlockingIOError:
                    break
            room = asyncio.create_task(writable(left.fileno()))
            message = asyncio.create_task(readable(left.fileno()))
            await settle()
            right.send(b"x")
            assert await message is True
            await settle()
            assert not room.done()
            while not room.done():
                right.recv(1 << 16)
                await settle()
            assert await room is True

        run(main())


def test_the_other_end_going_away_ends_the_wait(run: Run) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        task = asyncio.create_task(readable(reader))
        await settle()
        os.close(writer)
        assert await task is True
        assert os.read(reader, 1) == b""
        os.close(reader)

        reader, writer = os.pipe()
        os.pwritev(writer, [bytes(1 << 20)], -1, os.RWF_NOWAIT)
        task = asyncio.create_task(writable(writer))
        await settle()
        assert not task.done()
        os.close(reader)
        assert await task is True
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        assert await writable(writer) is True  # gone before the wait
        os.close(writer)

    run(main())


def test_forget_wakes_before_a_close_and_the_number_serves_again(run: Run) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        for _ in range(3):
            task = asyncio.create_task(readable(reader))
            await settle()
            forget(reader)
            assert await task is True
            os.close(reader)
            os.close(writer)
            old = reader
            reader, writer = os.pipe()
            assert reader == old
        os.write(writer, b"x")
        assert await readable(reader) is True
        os.close(reader)
        os.close(writer)

    run(main())


def test_forget_from_another_thread(run: Run, ends: tuple[int, int]) -> None:
    async def main() -> None:
        task = asyncio.create_task(readable(ends[0]))
        await settle()
        thread = threading.Thread(target=forget, args=(ends[0],))
        thread.start()
        assert await task is True
        thread.join()

    run(main())


def test_a_descriptor_closed_behind_its_back_is_an_error_for_the_next(run: Run) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        assert await writable(writer)  # the loop has its epoll now, so that it does not take the numbers
        os.close(reader)
        os.close(writer)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await readable(reader)

    run(main())


def test_files_on_a_disk_never_block(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with (tmp_path / "file").open("wb") as file:
            assert await readable(file.fileno()) is True
            assert await writable(file.fileno(), 5) is True

    run(main())


def test_readers_of_the_application_are_left_alone(run: Run, ends: tuple[int, int]) -> None:
    reader, writer = ends

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()

        def own() -> None:
            seen.set()
            loop.remove_reader(reader)

        loop.add_reader(reader, own)
        task = asyncio.create_task(readable(reader))
        await settle()
        os.write(writer, b"x")
        assert await task is True
        await seen.wait()

    run(main())


def test_several_loops_in_threads_and_none_is_kept_alive(ends: tuple[int, int]) -> None:
    reader, writer = ends
    answers: list[bool] = []
    gc.collect()
    before = len(_watches)
    threads = [
        threading.Thread(target=lambda: answers.append(asyncio.run(readable(reader, PATIENCE))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    os.write(writer, b"x")
    for thread in threads:
        thread.join()
    assert answers == [True] * 3
    gc.collect()
    assert len(_watches) == before


def test_priority_events(run: Run) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    left = socket.create_connection(listener.getsockname())
    right, _ = listener.accept()
    with listener, left, right:

        async def main() -> None:
            import select

            task = asyncio.create_task(ready(left.fileno(), select.EPOLLPRI))
            await settle()
            assert not task.done()
            right.send(b"!", socket.MSG_OOB)
            assert await task is True

        run(main())
