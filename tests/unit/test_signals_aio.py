"""`isthmus.aio.signals`: the same from asyncio, on its own loops and on uvloop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from forms import LOOPS
from isthmus import signals
from isthmus.aio import signals as aio
from programs import Program
from signallers import signaller
from support import PATIENCE, Peer, process_state, wait_until

RT = int(signal.SIGRTMIN)
Run = Callable[[Coroutine[Any, Any, Any]], Any]
Start = Callable[..., Peer]
LOOP_KINDS = sorted(LOOPS)


@pytest.fixture(params=LOOP_KINDS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, with patience and not longer."""

    def in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, PATIENCE))

    return in_loop


@pytest.fixture
def program() -> Iterator[Program]:
    """The C program at the other end."""
    with signaller() as found:
        yield found


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A foreign program that does nothing for a long time."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def stubborn(**options: Any) -> subprocess.Popen[bytes]:
    """A foreign program that ignores SIGTERM."""
    script = "trap '' TERM; echo ready; sleep 1000 & wait; sleep 1000"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, **options)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def queue(*numbers: int) -> None:
    for number in numbers:
        signals.sigqueue(os.getpid(), RT, number)


# --------------------------------------------------------------------------------------------- receiving


def test_thousands_from_a_c_program_in_order(run: Run, program: Program) -> None:
    async def main() -> None:
        got = []
        async with aio.Receiver(RT) as receiver:
            program.send(f"queue {os.getpid()} {RT} 0 5000")
            async for info in receiver:
                got.append(info.value)
                if len(got) == 5000:
                    break
        assert got == list(range(5000))

    run(main())
    assert program.line().startswith("queued 5000")


def test_nothing_in_time_and_nothing_taken_by_who_is_cancelled(run: Run) -> None:
    async def main() -> None:
        async with aio.Receiver(RT) as receiver:
            for timeout in (0, 0.01):
                with pytest.raises(isthmus.Empty):
                    await receiver.get(timeout)
            with pytest.raises(ValueError, match="timeout is -1"):
                await receiver.get(-1)
            for number in range(100):
                task = asyncio.ensure_future(receiver.get())
                await asyncio.sleep(0)
                if number % 2:
                    await asyncio.sleep(0)
                queue(number)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert (await receiver.get(PATIENCE)).value == number

    run(main())


def test_tasks_share_and_sync_code_goes_on(run: Run) -> None:
    async def main() -> None:
        with signals.Receiver(RT) as sync:
            receiver = aio.Receiver(sync)
            assert receiver.sync is sync
            tasks = [asyncio.ensure_future(receiver.get()) for _ in range(50)]
            await asyncio.sleep(0)
            queue(*range(50))
            got = [info.value or 0 for info in await asyncio.gather(*tasks)]
            assert sorted(got) == list(range(50))
            queue(50)
            assert sync.get(0).value == 50

    run(main())


def test_a_flood_does_not_starve_other_tasks(run: Run) -> None:
    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async with aio.Receiver(RT) as receiver:
            task = asyncio.ensure_future(other())
            queue(*range(1000))
            for _ in range(1000):
                await receiver.get(0)
            task.cancel()
        assert turns >= 10

    run(main())


def test_closing_wakes_who_waits(run: Run) -> None:
    async def main() -> None:
        receiver = aio.Receiver(RT)
        waiting = [asyncio.ensure_future(receiver.get()) for _ in range(3)]

        async def iterate() -> int:
            return len([info async for info in receiver])

        iterating = asyncio.ensure_future(iterate())
        await asyncio.sleep(0.01)
        receiver.close()
        receiver.close()
        for task in waiting:
            with pytest.raises(isthmus.ClosedError):
                await task
        assert await iterating == 0
        assert receiver.closed
        assert repr(receiver) == "<isthmus.aio.signals.Receiver of SIGRTMIN (closed)>"

    run(main())


def test_beside_handlers_of_the_loop(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        handled: list[int] = []
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, handled.append, number)
        async with aio.Receiver(signal.SIGUSR1) as receiver:
            os.kill(os.getpid(), signal.SIGUSR2)  # not received: the loop's
            os.kill(os.getpid(), signal.SIGUSR1)  # received: not the loop's
            assert (await receiver.get()).name == "SIGUSR1"
            while not handled:
                await asyncio.sleep(0.001)
            assert handled == [signal.SIGUSR2]
        os.kill(os.getpid(), signal.SIGUSR1)  # and the loop's again
        while len(handled) < 2:
            await asyncio.sleep(0.001)
        assert handled == [signal.SIGUSR2, signal.SIGUSR1]
        async with aio.Receiver(signal.SIGUSR1):  # a handler that is added meanwhile stays
            loop.add_signal_handler(signal.SIGUSR1, handled.append, 0)
        os.kill(os.getpid(), signal.SIGUSR1)
        while len(handled) < 3:
            await asyncio.sleep(0.001)
        assert handled[2] == 0
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.remove_signal_handler(number)

    run(main())


# --------------------------------------------------------------------------------------------- timers


def test_timers(run: Run) -> None:
    async def main() -> None:
        async with aio.Timer(1000) as once:
            with pytest.raises(isthmus.Empty):
                await once.get(0)
            once.set(0.01)
            assert [times async for times in once] == [1]
        timers = [aio.Timer(0.01, 0.01) for _ in range(10)]

        async def count(timer: aio.Timer) -> int:
            total = 0
            async for times in timer:
                total += times
                if total >= 5:
                    timer.close()
                    break
            return total

        assert min(await asyncio.gather(*map(count, timers))) >= 5
        with signals.Timer(1000) as sync:
            timer = aio.Timer(sync)
            waiting = asyncio.ensure_future(timer.get())
            await asyncio.sleep(0)
            assert 900 < timer.remaining() < 1000
            timer.set(0.001)
            assert await waiting == 1
            assert timer.is_over()
            timer.set(1000)
            timer.cancel()
            assert timer.is_over()
            assert timer.remaining() == 0
            assert (timer.fileno(), timer.closed) == (sync.fileno(), False)
            waiting = asyncio.ensure_future(timer.get())
            await asyncio.sleep(0)
            assert "aio.signals.Timer" in repr(timer)
            timer.close()
            with pytest.raises(isthmus.ClosedError):
                await waiting

    run(main())


# --------------------------------------------------------------------------------------------- processes


def test_the_end_of_processes(run: Run, sleeper: subprocess.Popen[bytes]) -> None:
    async def main() -> None:
        with pytest.raises(isthmus.Timeout, match="has not ended in"):
            await aio.wait_for_exit(sleeper, 0.01)
        waiting = [asyncio.ensure_future(aio.wait_for_exit(sleeper)) for _ in range(5)]
        given_up = asyncio.ensure_future(aio.wait_for_exit(sleeper))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        signals.send(sleeper, signal.SIGUSR1)
        assert await asyncio.gather(*waiting) == [-signal.SIGUSR1] * 5
        assert await aio.wait_for_exit(sleeper, 0) == -signal.SIGUSR1
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
        assert await process.wait() == 3
        assert await aio.wait_for_exit(process) == 3
        with pytest.raises(ProcessLookupError):
            await aio.wait_for_exit(sleeper.pid)

    run(main())


def test_terminating(run: Run, sleeper: subprocess.Popen[bytes]) -> None:
    async def main() -> None:
        signals.stop(sleeper)
        assert await aio.terminate(sleeper, PATIENCE) == (-signal.SIGTERM, False)
        assert await aio.terminate(sleeper) == (-signal.SIGTERM, False)
        with stubborn(process_group=0) as process:
            assert await aio.terminate(process, 0.05, group=True) == (-signal.SIGKILL, True)
        with stubborn(process_group=0) as spared:
            task = asyncio.ensure_future(aio.terminate(spared, 1000))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert spared.poll() is None  # nothing more is sent
            assert signals.terminate(spared, 0, group=True).killed

    run(main())


# --------------------------------------------------------------------------------------------- the own end

SERVICE = """
    import asyncio, signal, sys
    import isthmus, isthmus.aio, uvloop
    from isthmus.aio.signals import graceful_shutdown
    loops = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}

    def say(*words):
        print(*words, flush=True)

    def run(main):
        with asyncio.Runner(loop_factory=loops[sys.argv[1]]) as runner:
            return runner.run(main())
    """


@pytest.mark.parametrize("kind", LOOP_KINDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_is_cancelled_and_leaves_normally(spawn: Start, kind: str, number: signal.Signals) -> None:
    peer = spawn(
        SERVICE
        + """
    async def main():
        before = signal.getsignal(signal.SIGINT)
        queue = isthmus.aio.Queue(type=bytes)
        async with graceful_shutdown() as stop:
            try:
                say("ready")
                async for job in queue:
                    pass
            finally:
                say("cleaned up")
        say(stop.requested, int(stop.signal))
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0.001)  # nothing of the cancellation is left
        assert signal.getsignal(signal.SIGINT) == before
        return stop.exit_code
    sys.exit(run(main))
    """,
        kind,
    )
    peer.expect("ready")
    signals.send(peer.process, number)
    peer.expect("cleaned up")
    peer.expect(f"True {int(number)}")
    assert peer.end()[0] == 128 + number


@pytest.mark.parametrize("kind", LOOP_KINDS)
def test_every_wait_is_cancelled_or_goes_on_where_that_is_asked_for(spawn: Start, kind: str) -> None:
    """Event loops hear of the end by the cancellation, and by `stop`: no call raises `ShutDown` of itself."""
    spawn(
        SERVICE
        + """
    import os
    from isthmus import aio
    name = f"isthmus-shutdown-{os.getpid()}"

    async def main():
        queue, kernel = aio.Queue(type=bytes), aio.PosixQueue("/" + name)
        kernel.unlink()
        event, changed, barrier = aio.Event(), aio.Condition(), aio.Barrier(parties=2)
        here, there = (aio.Stream(each) for each in isthmus.Stream.pair(type=bytes))
        listener, datagram = aio.Listener("unix://@" + name), aio.Datagram(at="udp://127.0.0.1:0", type=bytes)
        async def change(timeout):
            async with changed:
                assert not await changed.wait(timeout)
                raise isthmus.Empty("not changed")
        waits = [queue.get, lambda timeout: queue.get_many(5, timeout), queue.wait_readable, kernel.get,
                 kernel.wait_readable, event.wait, change, here.recv, listener.accept, datagram.recv,
                 lambda timeout: aio.select(queue, here, timeout=timeout)]
        for wait in [*waits, lambda timeout: barrier.wait()]:
            async with graceful_shutdown() as stop:
                asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
                await wait(None)
                say("left by itself")
            assert stop.signal == signal.SIGTERM
        assert barrier.broken
        for wait in waits:
            async with graceful_shutdown(cancel=False) as stop:
                stop.request()
                try:
                    assert not await wait(0.01)
                except isthmus.Empty:
                    pass
        await here.close()
        await there.close()
        for each in (listener, datagram):
            each.close()
    run(main)
    """,
        kind,
    ).finish()


@pytest.mark.parametrize("kind", LOOP_KINDS)
def test_the_job_in_hand_is_finished(spawn: Start, kind: str) -> None:
    with isthmus.Queue("jobs", type=int) as jobs:
        peer = spawn(
            SERVICE
            + """
    async def main():
        jobs = isthmus.aio.Queue.open("jobs", type=int)
        async with graceful_shutdown() as stop:
            async for job in jobs:
                with stop.finishing():
                    say("begun", job)
                    while not stop:
                        await asyncio.sleep(0.001)
                    await asyncio.sleep(0.05)
                    say("done", job)
                await asyncio.sleep(0)
                say("not reached")
        say("ended")
    run(main)
    """,
            kind,
        )
        for number in range(3):
            jobs.put(number)
        peer.expect("begun 0")
        signals.send(peer.process, signal.SIGTERM)
        peer.expect("done 0")
        peer.expect("ended")
        peer.finish()
        assert jobs.get_many(5) == [1, 2]


@pytest.mark.parametrize("kind", LOOP_KINDS)
def test_told_instead_of_cancelled(spawn: Start, kind: str) -> None:
    with isthmus.Queue("jobs", type=int) as jobs:
        peer = spawn(
            SERVICE
            + """
    async def main():
        jobs = isthmus.aio.Queue.open("jobs", type=int)
        async with graceful_shutdown(jobs, cancel=False) as stop:
            assert not await stop.wait(0.01)
            waiting = asyncio.ensure_future(stop.wait())
            threaded = asyncio.ensure_future(asyncio.to_thread(isthmus.Queue(type=bytes).get))
            say("ready")
            async for job in jobs:
                say(job)
            assert await waiting and await stop.wait(0)
            try:
                await threaded
            except isthmus.ShutDown:
                say("the thread too")
        say("ended")
    run(main)
    """,
            kind,
        )
        peer.expect("ready")
        jobs.put(1)
        peer.expect("1")
        signals.stop(peer.process)
        jobs.put(2)
        signals.send(peer.process, signal.SIGTERM)
        signals.resume(peer.process)
        peer.expect("2")
        peer.expect("the thread too")
        peer.expect("ended")
        peer.finish()


@pytest.mark.parametrize("kind", LOOP_KINDS)
def test_a_second_ctrl_c_ends_at_once(spawn: Start, kind: str) -> None:
    peer = spawn(
        SERVICE
        + """
    async def main():
        async with graceful_shutdown() as stop:
            with stop.finishing():
                say("ready")
                while not stop:
                    await asyncio.sleep(0.001)
                say("finishing")
                await asyncio.sleep(1000)
    try:
        run(main)
    except KeyboardInterrupt:
        say("interrupted")
    """,
        kind,
    )
    peer.expect("ready")
    peer.interrupt()
    peer.expect("finishing")
    peer.interrupt()
    peer.expect("interrupted")
    peer.finish()


def test_a_cancellation_from_elsewhere_stays_one(run: Run) -> None:
    async def body(stop: aio.GracefulShutdown) -> None:
        async with stop:
            await asyncio.sleep(1000)

    async def main() -> None:
        task = asyncio.ensure_future(body(aio.graceful_shutdown()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        both = aio.graceful_shutdown()
        task = asyncio.ensure_future(body(both))
        await asyncio.sleep(0.01)
        both.request()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asked = aio.graceful_shutdown()
        task = asyncio.ensure_future(body(asked))
        await asyncio.sleep(0.01)
        asked.request()
        await task

    run(main())


def test_where_it_cannot_be(run: Run) -> None:
    async def enter() -> None:
        async with aio.graceful_shutdown():
            pass

    async def main() -> None:
        async with aio.graceful_shutdown():
            with pytest.raises(RuntimeError, match="there is one"):
                await enter()
            with pytest.raises(RuntimeError, match="there is one"), signals.graceful_shutdown():
                pass

    run(main())
    said: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(enter())
        except RuntimeError as error:
            said.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in str(said[0])


def test_an_idle_service_costs_nothing(spawn: Start) -> None:
    peer = spawn(
        SERVICE
        + """
    async def main():
        async with isthmus.aio.signals.Receiver(signal.SIGRTMIN) as receiver, graceful_shutdown():
            say("ready")
            await receiver.get()
    run(main)
    """,
        "asyncio",
    )
    peer.expect("ready")
    wait_until(lambda: process_state(peer.pid) == "S", "it to wait")

    def switches() -> str:
        return Path(f"/proc/{peer.pid}/status").read_text().split("voluntary_ctxt_switches:")[1].split()[0]

    def at_rest() -> bool:
        before = switches()
        time.sleep(1)
        return switches() == before  # it was not woken once

    # Not at once: the kernel may be about to count the sleep that it shows.
    wait_until(at_rest, "a second of sleep")
    assert signals.terminate(peer.process, PATIENCE) == (0, False)
