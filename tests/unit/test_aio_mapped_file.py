"""`aio.RangeLock`: tasks, threads and processes that want parts of one file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus
from isthmus import aio
from support import Peer

Start = Callable[..., Peer]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[isthmus.MappedFile]:
    """A file of 1000 bytes."""
    with isthmus.MappedFile(tmp_path / "data", 1000) as found:
        yield found


def test_tasks_exclude_each_other_and_lose_no_update(file: isthmus.MappedFile) -> None:
    number = file.view("q")

    async def add(lock: aio.RangeLock) -> None:
        for _ in range(20):
            async with lock:
                before = number[0]
                await asyncio.sleep(0)
                number[0] = before + 1

    async def main() -> None:
        shared = aio.RangeLock(file.lock(0, 8))
        await asyncio.gather(*(add(lock) for lock in (shared, shared, aio.RangeLock(file.lock(0, 8)))))

    asyncio.run(main())
    assert number[0] == 60


def test_the_loop_goes_on_while_a_task_waits(file: isthmus.MappedFile, spawn: Start) -> None:
    peer = spawn(
        """
        import sys, isthmus
        with isthmus.MappedFile(sys.argv[1]) as file, file.lock(0, 100):
            print("held", flush=True)
            sys.stdin.readline()
        """,
        file.path,
    )
    peer.expect("held")

    async def main() -> None:
        lock = aio.RangeLock(file.lock(50, 10))
        assert await lock.acquire(0) is False
        assert await lock.acquire(0.02) is False
        waits = asyncio.create_task(lock.acquire())
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not waits.done()
        cancelled = asyncio.create_task(aio.RangeLock(file.lock(50, 10)).acquire())
        await asyncio.sleep(0.005)
        cancelled.cancel()
        peer.kill()
        assert await waits is True
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(isthmus.NotOwnerError):
            lock.release()  # another task has it
        assert lock.held

    asyncio.run(main())


def test_a_task_that_would_wait_for_itself_is_told(file: isthmus.MappedFile) -> None:
    async def main() -> None:
        lock = aio.RangeLock(file.lock(0, 10))
        async with lock:
            assert await lock.acquire(0) is False
            with pytest.raises(isthmus.DeadlockError):
                await lock.acquire()
        assert not lock.held
        with pytest.raises(isthmus.NotOwnerError):
            lock.release()
        with pytest.raises(ValueError, match="timeout"):
            await lock.acquire(-1)
        file.close()
        with pytest.raises(isthmus.ClosedError):
            await lock.acquire()

    asyncio.run(main())


def test_sync_code_and_tasks_share_a_lock(file: isthmus.MappedFile) -> None:
    lock = file.lock(0, 10)

    async def main() -> None:
        with lock:
            assert await aio.RangeLock(file.lock(5, 1)).acquire(0) is False
        async with aio.RangeLock(lock) as held:
            assert held.sync is lock
            assert lock.held

    asyncio.run(main())
    assert not lock.held
