"""`aio.PosixQueue`: a queue of the kernel from event loops, beside sync code and C programs."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import isthmus
from isthmus import aio
from kernel_peers import event_loops, run_in
from programs import Program
from support import PATIENCE, Peer

Start = Callable[..., Peer]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=event_loops())
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, with patience and not longer."""
    return run_in(request.param)


def test_what_is_put_comes_out(run: Run, mq: isthmus.PosixQueue[bytes]) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        await q.put(b"low")
        await q.put(b"high", priority=5)
        assert await q.get_with_priority() == (b"high", 5)
        assert await q.get() == b"low"
        assert await q.put_many([b"1", b"2"]) == 2
        assert await q.get_many(5) == [b"1", b"2"]
        assert q.sync is mq
        assert (q.name, q.url, q.maxsize, q.message_max) == (mq.name, mq.url, 4, 512)
        assert (q.qsize(), q.empty(), q.full(), q.fill) == (0, True, False, 0.0)
        assert (q.type, q.capacity, q.priorities, q.access) == (bytes, 2048, 32768, "rw")
        assert q.stats().put == 4
        assert q.fileno() == mq.fileno()

    run(main())


def test_a_url_gives_it_as_for_sync_code(run: Run, mq_name: str) -> None:
    async def main() -> None:
        url = f"posix-mq://{mq_name}"
        made: Any = aio.Queue(f"{url}?maxsize=2", type=int)
        assert type(made) is aio.PosixQueue
        opened: Any = aio.Queue.open(url, type=int)
        wrapped: Any = aio.Queue(opened.sync)
        with pytest.raises(FileExistsError):
            aio.Queue.create(url)
        async with made, opened:
            await made.put(7)
            assert await wrapped.get() == 7
        assert made.closed
        assert wrapped.closed
        with pytest.raises(TypeError, match="maxsize"):
            aio.PosixQueue(opened.sync, maxsize=3)
        plain: Any = aio.Queue("shm://jobs", type=int)
        assert type(plain) is aio.Queue
        plain.close()

    run(main())


def test_waits_end_when_others_act(run: Run, mq: isthmus.PosixQueue[bytes]) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        getting = asyncio.create_task(q.get())
        await asyncio.sleep(0.01)
        threading.Timer(0.01, mq.put, [b"late"]).start()
        assert await getting == b"late"
        await q.put_many([b""] * 4)
        putting = asyncio.create_task(q.put(b"fifth"))
        await asyncio.sleep(0.01)
        assert not putting.done()
        mq.get()
        await putting
        assert mq.get_many(9) == [b"", b"", b"", b"fifth"]

    run(main())


def test_timeouts_are_waited_out(run: Run, mq: isthmus.PosixQueue[bytes]) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        for timeout in (0, 0.05):
            for call in (q.get(timeout), q.get_many(3, timeout), q.get_with_priority(timeout)):
                start = time.monotonic()
                with pytest.raises(isthmus.Empty):
                    await call
                assert time.monotonic() - start >= timeout
            assert not await q.wait_readable(timeout)
        with pytest.raises(isthmus.Full) as full:
            await q.put_many([b"m"] * 6, timeout=0.02)
        assert full.value.sent == 4
        for timeout in (0, 0.05):
            start = time.monotonic()
            with pytest.raises(isthmus.Full):
                await q.put(b"", timeout)
            assert not await q.wait_writable(timeout)
            assert not await q.wait_writable(timeout, below=0.5)
            assert time.monotonic() - start >= timeout
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                await q.get(wrong)

    run(main())


def test_readiness_takes_nothing(run: Run, mq: isthmus.PosixQueue[bytes]) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        reading = asyncio.create_task(q.wait_readable())
        await asyncio.sleep(0.01)
        mq.put_many([b"1", b"2", b"3", b"4"])
        assert await reading
        low = asyncio.create_task(q.wait_writable(below=0.3))
        writing = asyncio.create_task(q.wait_writable())
        await asyncio.sleep(0.01)
        assert mq.get() == b"1"
        assert await writing
        assert not low.done()
        assert mq.get_many(2) == [b"2", b"3"]
        assert await low

    run(main())


def test_a_cancelled_task_loses_nothing(run: Run, mq: isthmus.PosixQueue[bytes]) -> None:
    """Getters are cancelled at every moment while messages come; each message arrives once, in order."""

    async def main() -> None:
        q = aio.PosixQueue(mq)
        got: list[bytes] = []

        async def take() -> None:
            while True:
                got.append(await q.get())

        async def send() -> None:
            for number in range(300):
                await q.put(b"%d" % number)

        sending = asyncio.create_task(send())
        for turn in itertools.count():
            if len(got) == 300:
                break
            taking = asyncio.create_task(take())
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        await sending
        assert got == [b"%d" % number for number in range(300)]
        putting = asyncio.create_task(q.put_many([b"%d" % number for number in range(100)]))
        await asyncio.sleep(0.01)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await putting
        sent: int = cancelled.value.sent  # type: ignore[attr-defined]
        assert sent == 4
        assert mq.get_many(99) == [b"0", b"1", b"2", b"3"]

    run(main())


def test_many_tasks_share_the_messages(run: Run, mq: isthmus.PosixQueue[bytes], spawn: Start) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        got: list[bytes] = []

        async def take() -> None:
            async for message in q:
                if not message:
                    return
                got.append(message)

        takers = [asyncio.create_task(take()) for _ in range(10)]
        peer = spawn(
            """
            import sys, isthmus
            mq = isthmus.PosixQueue.open(sys.argv[1])
            mq.put_many([b"%d" % number for number in range(1000)] + [b""] * 10)
            """,
            mq.name,
        )
        await asyncio.gather(*takers)
        peer.finish()
        assert sorted(map(int, got)) == list(range(1000))

    run(main())


@pytest.mark.parametrize("by", ["aio", "sync"])
def test_closing_ends_the_waits(run: Run, mq: isthmus.PosixQueue[bytes], by: str) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        tasks = [asyncio.create_task(call) for call in (q.get(), q.get(), q.wait_readable())]
        await asyncio.sleep(0.01)
        q.close() if by == "aio" else mq.close()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, isthmus.ClosedError)
        with pytest.raises(isthmus.ClosedError):
            await q.put(b"")
        q.close()
        assert "closed" in repr(q)

    run(main())


def test_a_bad_message_is_raised_and_the_next_one_comes(run: Run, mq_name: str) -> None:
    async def main() -> None:
        bad: aio.PosixQueue[dict[str, int]] = aio.PosixQueue(mq_name, type=dict[str, int])
        async with bad as q:
            with isthmus.PosixQueue.open(mq_name) as raw:
                await q.put({"a": 1})
                raw.put(b"\xc1bad")
                await q.put({"b": 2})
                assert await q.get_many(9) == [{"a": 1}]
                with pytest.raises(isthmus.InvalidMessage) as caught:
                    await q.get()
                assert caught.value.data == b"\xc1bad"
                assert await q.get() == {"b": 2}

    run(main())


def test_a_busy_queue_lets_other_tasks_run(run: Run, mq: isthmus.PosixQueue[bytes]) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(1000):
            await q.put(b"")
            await q.get()
        task.cancel()
        assert turns > 10

    run(main())


def test_a_c_program_at_the_other_end_is_killed_and_nobody_hangs(
    run: Run, mq: isthmus.PosixQueue[bytes], mq_program: Callable[[], Program]
) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        program = mq_program()
        program.send(f"open {mq.name}")
        program.expect("ok")
        getting = asyncio.create_task(q.get())
        await asyncio.sleep(0.01)
        program.send("send 3 hello")
        program.expect("sent")
        assert await getting == b"hello"
        program.send("receive")
        await asyncio.sleep(0.05)
        program.kill()
        await q.put(b"for whoever is left", PATIENCE)
        assert await q.get(PATIENCE) == b"for whoever is left"

    run(main())


def test_notices_come_in_another_thread(run: Run, mq: isthmus.PosixQueue[bytes]) -> None:
    async def main() -> None:
        q = aio.PosixQueue(mq)
        came, loop = asyncio.Event(), asyncio.get_running_loop()
        q.notify(lambda: loop.call_soon_threadsafe(came.set))
        await q.put(b"")
        await came.wait()

    run(main())


def test_select_takes_it_by_its_descriptor(mq: isthmus.PosixQueue[bytes]) -> None:
    assert isthmus.select(mq, timeout=0) == []
    mq.put(b"")
    assert isthmus.select(mq, timeout=PATIENCE) == [mq]
    mq.put_many([b""] * 3)
    assert isthmus.select(isthmus.Writable(mq), timeout=0) == []
