"""`aio.NamedSemaphore`: a semaphore of the C library from event loops; no permit is lost on the way."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import aio
from kernel_peers import event_loops, fresh_name, run_in
from programs import Program
from support import PATIENCE, Peer, wait_until

Start = Callable[..., Peer]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=event_loops())
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, with patience and not longer."""
    return run_in(request.param)


@pytest.fixture
def empty() -> Iterator[isthmus.NamedSemaphore]:
    """A semaphore of 0."""
    name = fresh_name()
    handle = isthmus.NamedSemaphore.create(name, 0)
    yield handle
    handle.close()
    Path(f"/dev/shm/sem.{name[1:]}").unlink(missing_ok=True)


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "isthmus semaphore"]


def no_helper() -> None:
    wait_until(lambda: not helpers(), "the thread to end")


def test_takes_and_gives(run: Run, empty: isthmus.NamedSemaphore) -> None:
    async def main() -> None:
        semaphore = aio.NamedSemaphore(empty)
        assert await semaphore.acquire(0) is False
        semaphore.release(2)
        assert semaphore.value == 2
        assert await semaphore.acquire() is True
        async with semaphore as same:
            assert same is semaphore
            assert semaphore.value == 0
        assert empty.value == 1
        assert semaphore.sync is empty
        assert semaphore.name == empty.name
        assert helpers() == []  # nobody has waited
        semaphore.close()
        assert semaphore.closed
        with pytest.raises(isthmus.ClosedError):
            await semaphore.acquire()

    run(main())


def test_opens_and_makes(run: Run) -> None:
    async def main() -> None:
        name = fresh_name()
        made = aio.NamedSemaphore.create(name, 3)
        with pytest.raises(FileExistsError):
            aio.NamedSemaphore.create(name)
        opened, either = aio.NamedSemaphore.open(name), aio.NamedSemaphore(name, 9)
        assert made.value == opened.value == either.value == 3
        with pytest.raises(TypeError, match="mode"):
            aio.NamedSemaphore(made.sync, mode=0o600)
        made.unlink()
        with pytest.raises(FileNotFoundError):
            aio.NamedSemaphore.open(name)
        assert "= 3" in repr(made)

    run(main())


def test_tasks_are_served_in_order_and_the_thread_ends(run: Run, empty: isthmus.NamedSemaphore) -> None:
    async def main() -> None:
        semaphore = aio.NamedSemaphore(empty)
        order: list[int] = []

        async def take(number: int) -> None:
            assert await semaphore.acquire()
            order.append(number)

        tasks = []
        for number in range(10):
            tasks.append(asyncio.create_task(take(number)))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert len(helpers()) == 1
        for _ in range(10):
            empty.release()
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        assert order == list(range(10))
        assert empty.value == 0

    run(main())
    no_helper()


def test_timeouts_are_waited_out_and_take_nothing(run: Run, empty: isthmus.NamedSemaphore) -> None:
    async def main() -> None:
        semaphore = aio.NamedSemaphore(empty)
        for timeout in (0.0, 0.05, 0.25):
            start = time.monotonic()
            assert await semaphore.acquire(timeout) is False
            assert time.monotonic() - start >= timeout - 0.002  # the loop's clock is coarse
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                await semaphore.acquire(wrong)
        empty.release()
        assert empty.acquire(PATIENCE)

    run(main())
    no_helper()


def test_cancelled_and_timed_out_tasks_lose_no_permit(run: Run, empty: isthmus.NamedSemaphore) -> None:
    """Those held and those inside are as many as there were, whatever is cancelled when."""

    async def main() -> None:
        semaphore = aio.NamedSemaphore(empty)
        empty.release(3)
        inside = 0

        async def work(number: int) -> None:
            nonlocal inside
            if not await semaphore.acquire(None if number % 3 else 0.002):
                return
            inside += 1
            try:
                assert inside <= 3
                await asyncio.sleep(0.0005 * (number % 4))
            finally:
                inside -= 1
                semaphore.release()

        tasks = [asyncio.create_task(work(number)) for number in range(300)]
        for number, task in enumerate(tasks):
            if number % 4 == 1:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert inside == 0

    run(main())
    no_helper()
    assert empty.value == 3


def test_a_loop_that_is_closed_while_its_task_waits_takes_nothing_with_it(
    empty: isthmus.NamedSemaphore,
) -> None:
    semaphore = aio.NamedSemaphore(empty)
    loop = asyncio.new_event_loop()
    waiting = semaphore.acquire()
    task = loop.create_task(waiting)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    empty.release()
    no_helper()  # it got the permit, found nobody, and gave it back
    assert empty.acquire(PATIENCE)
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was left on purpose
    waiting.close()


def test_closing_ends_the_waits(run: Run, empty: isthmus.NamedSemaphore) -> None:
    async def main() -> None:
        semaphore = aio.NamedSemaphore(empty)
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(3)]
        await asyncio.sleep(0.01)
        semaphore.close()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, isthmus.ClosedError)

    run(main())
    no_helper()


def test_loops_of_several_threads_share_a_wrapper(empty: isthmus.NamedSemaphore) -> None:
    semaphore = aio.NamedSemaphore(empty)
    counts = []

    async def take() -> int:
        return sum([await semaphore.acquire(PATIENCE) for _ in range(50)])

    threads = [threading.Thread(target=lambda: counts.append(asyncio.run(take()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        empty.release()
    for thread in threads:
        thread.join(PATIENCE)
    assert counts == [50, 50, 50]
    assert empty.value == 0


def test_a_c_program_gives_and_takes(
    run: Run, empty: isthmus.NamedSemaphore, semaphore_program: Callable[[], Program]
) -> None:
    async def main() -> None:
        semaphore = aio.NamedSemaphore(empty)
        program = semaphore_program()
        program.send(f"open {empty.name}")
        program.expect("ok")
        taking = asyncio.create_task(semaphore.acquire())
        await asyncio.sleep(0.01)
        program.send("post")
        program.expect("given")
        assert await taking
        program.send("wait")
        await asyncio.sleep(0.02)
        program.kill()  # asleep in it: it holds nothing
        semaphore.release()
        assert await semaphore.acquire(PATIENCE)

    run(main())


def test_a_process_ends_although_a_task_that_nobody_runs_waits(
    empty: isthmus.NamedSemaphore, spawn: Start
) -> None:
    peer = spawn(
        """
        import asyncio, os, sys, warnings
        from isthmus import aio
        warnings.simplefilter("ignore")  # the loop is left open on purpose
        semaphore = aio.NamedSemaphore.open(sys.argv[1])
        loop = asyncio.new_event_loop()
        task = loop.create_task(semaphore.acquire())
        task._log_destroy_pending = False
        loop.run_until_complete(asyncio.sleep(0.01))
        print("left", flush=True)
        """,
        empty.name,
    )
    peer.expect("left")
    code, _, errors = peer.end()
    assert code == 0, errors


@pytest.mark.parametrize("first", ["first the loop of the main thread", "it alone"])
def test_a_process_ends_although_a_loop_in_a_daemon_thread_waits(
    empty: isthmus.NamedSemaphore, spawn: Start, first: str
) -> None:
    """Python does not wait for such a thread, and the thread that waits in its stead keeps nobody either."""
    peer = spawn(
        """
        import asyncio, sys, threading
        from isthmus import aio
        semaphore = aio.NamedSemaphore.open(sys.argv[1])
        waits = threading.Event()
        async def wait():
            asyncio.get_running_loop().call_soon(waits.set)
            await semaphore.acquire()
        def beside():
            threading.Thread(target=lambda: asyncio.run(wait()), daemon=True).start()
            waits.wait()
        async def first():
            waiting = asyncio.create_task(semaphore.acquire(100))
            await asyncio.sleep(0)  # its helper is no daemon
            await asyncio.to_thread(beside)
            waiting.cancel()
        if sys.argv[2].startswith("first"):
            asyncio.run(first())
        else:
            beside()
        print("left", flush=True)
        """,
        empty.name,
        first,
    )
    peer.expect("left")
    code, _, errors = peer.end()
    assert code == 0, errors


def test_a_forked_child_waits_by_itself(empty: isthmus.NamedSemaphore) -> None:
    semaphore = aio.NamedSemaphore(empty)
    assert asyncio.run(semaphore.acquire(0.01)) is False
    no_helper()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if asyncio.run(semaphore.acquire(PATIENCE)) else 1)
    time.sleep(0.02)
    empty.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
