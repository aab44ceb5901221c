"""`aio.Pipe`, `aio.Fifo`, `aio.pipeline`: the same from event loops, cancelled at any moment."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import _descriptors, aio
from streams import blob, number_of, program
from support import PATIENCE, process_state, run_python, wait_until

Run = Callable[[Coroutine[Any, Any, Any]], Any]
SIZES = [0, 4, 4084, 4085, 65_524, 300_000, 1_500_000, 7]


def _loops() -> list[Any]:
    kinds: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    if importlib.util.find_spec("uvloop") is None:
        return kinds
    return [*kinds, pytest.param(importlib.import_module("uvloop").new_event_loop, id="uvloop")]


@pytest.fixture(params=_loops())
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, with patience and not longer."""

    def in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, 2 * PATIENCE))

    return in_loop


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_messages_between_tasks(run: Run) -> None:
    async def main() -> None:
        pipe = aio.Pipe[bytes](type=bytes)

        async def send() -> None:
            async with pipe.writer as writer:
                for number, size in enumerate(SIZES):
                    await writer.send(blob(number, size))

        task = asyncio.create_task(send())
        assert [number_of(message) async for message in pipe.reader] == list(range(len(SIZES)))
        await task
        with pytest.raises(isthmus.ShutDown):
            await pipe.reader.recv()
        assert pipe.reader.type is bytes
        pipe.close()

    run(main())


def test_sync_and_async_on_one_pipe(run: Run) -> None:
    pipe = isthmus.Pipe(type=int)

    async def main() -> None:
        async with aio.Pipe(pipe) as same:
            pipe.writer.send(1)
            assert await same.reader.recv() == 1
            await same.writer.send(2)
            assert pipe.reader.recv(0) == 2
        assert pipe.closed

    run(main())


def test_timeouts_and_the_other_end(run: Run) -> None:
    async def main() -> None:
        pipe = aio.Pipe[bytes](type=bytes)
        for timeout in (0, 0.02):
            with pytest.raises(isthmus.Empty):
                await pipe.reader.recv(timeout)
            with pytest.raises(isthmus.Full):
                await pipe.writer.send(bytes(5_000_000), timeout)
        task = asyncio.create_task(pipe.writer.send(b"after"))
        assert await pipe.reader.recv(PATIENCE) == b"after"
        await task
        pipe.reader.close()
        with pytest.raises(isthmus.ShutDown):
            await pipe.writer.send(b"x")
        with pytest.raises(isthmus.ClosedError):
            await pipe.reader.recv()
        with pytest.raises(isthmus.Unsupported):
            await pipe.writer.write(b"x")
        with pytest.raises(isthmus.Unsupported):
            await aio.Pipe[Any]().reader.recv()
        with pytest.raises(ValueError, match="timeout"):
            await pipe.writer.send(b"x", -1)

    run(main())


def test_a_task_that_waits_is_told_of_a_close(run: Run) -> None:
    async def main() -> None:
        for which in ("reader", "writer"):
            pipe = aio.Pipe[bytes](type=bytes)
            wait = pipe.reader.recv() if which == "reader" else pipe.writer.send(bytes(5_000_000))
            task = asyncio.create_task(wait)
            await settle()
            getattr(pipe, which).close()
            with pytest.raises(isthmus.ClosedError):
                await task
            pipe.close()

    run(main())


def test_cancelling_loses_nothing_and_sends_nothing(run: Run) -> None:
    async def main() -> None:
        pipe = aio.Pipe[bytes](type=bytes)
        received: list[int] = []
        sent: list[int] = []

        async def receive() -> None:
            while True:
                received.append(number_of(await pipe.reader.recv()))

        async def send(number: int) -> None:
            await pipe.writer.send(blob(number, [10, 700_000][number % 2]))
            sent.append(number)

        for number in range(60):
            receiver = asyncio.create_task(receive())
            sender = asyncio.create_task(send(number))
            for _ in range(number % 7):
                await asyncio.sleep(0.0005)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)
        receiver = asyncio.create_task(receive())
        await pipe.writer.send(blob(1000, 10))
        while 1000 not in received:
            await asyncio.sleep(0.001)
        receiver.cancel()
        assert received == [*sent, 1000]

    run(main())


def test_several_tasks_share_an_end(run: Run) -> None:
    async def main() -> None:
        pipe = aio.Pipe[bytes](type=bytes)
        received: list[int] = []

        async def receive() -> None:
            received.extend([number_of(message) async for message in pipe.reader])

        async def send(first: int) -> None:
            for number in range(first, first + 30):
                await pipe.writer.send(blob(number, [10, 50_000][number % 2]))

        receivers = [asyncio.create_task(receive()) for _ in range(3)]
        await asyncio.gather(*(send(first) for first in (0, 100, 200)))
        pipe.writer.close()
        await asyncio.gather(*receivers)
        assert sorted(received) == [first + n for first in (0, 100, 200) for n in range(30)]

    run(main())


def test_bytes_lines_and_splice(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"line\n" * 100_000)

    async def main() -> None:
        pipe = aio.Pipe[Any]()
        await pipe.writer.write(b"one\ntwo")
        assert await pipe.reader.readline() == b"one\n"
        assert await pipe.reader.read_exactly(2) == b"tw"
        assert await pipe.reader.read(10) == b"o"
        with pytest.raises(isthmus.Empty):
            await pipe.reader.read(10, 0.01)
        with pytest.raises(ValueError, match="size=-1"):
            await pipe.reader.read(-1)

        async def feed() -> None:
            with (tmp_path / "in").open("rb") as source:
                await pipe.writer.splice_from(source)
            pipe.writer.close()

        task = asyncio.create_task(feed())
        with (tmp_path / "out").open("wb") as target:
            assert await pipe.reader.splice_to(target) == 500_000
        await task
        assert await pipe.reader.read_all() == b""
        again = aio.Pipe[Any]()
        await again.writer.write(b"a\nb")
        again.writer.close()
        assert [line async for line in again.reader] == [b"a\n", b"b"]

    run(main())
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


def test_many_messages_at_once(run: Run) -> None:
    async def main() -> None:
        reader, writer = aio.Pipe[bytes](type=bytes, limit=1 << 20)
        assert (reader.limit, writer.limit) == (1 << 20, 1 << 20)
        sizes = [*range(200), 5000, 100_000, *range(50)]
        task = asyncio.create_task(
            writer.send_many([blob(number, size) for number, size in enumerate(sizes)])
        )
        received: list[bytes] = []
        while len(received) < len(sizes):
            received += await reader.recv_many(7, PATIENCE)
        await task
        assert [len(message) for message in received] == [len(blob(0, size)) for size in sizes]
        assert [number_of(message) for message in received] == list(range(len(sizes)))
        with pytest.raises(isthmus.Empty):
            await reader.recv_many(timeout=0)
        with pytest.raises(ValueError, match="most=0"):
            await reader.recv_many(0)
        with pytest.raises(isthmus.Full) as caught:
            await writer.send_many([bytes(3000)] * 1000, 0.02)
        sent = caught.value.sent or 0
        assert 0 < sent < 1000
        writer.close()
        assert len([message async for message in reader]) == sent

    run(main())


def test_what_a_sync_call_left_behind_is_flushed(run: Run) -> None:
    async def main() -> None:
        pipe = aio.Pipe[bytes](type=bytes)
        await pipe.writer.flush()
        with pytest.raises(isthmus.Full):
            pipe.sync.writer.send(bytes(1_000_000), 0)
        with pytest.raises(isthmus.Full):
            await pipe.writer.flush(0.02)
        flushing = asyncio.create_task(pipe.writer.flush())
        while not flushing.done():
            with pytest.raises(isthmus.Empty):  # the receiver throws it away
                await pipe.reader.recv(0.02)
        await flushing
        await pipe.writer.send(b"after")
        assert await pipe.reader.recv(PATIENCE) == b"after"

    run(main())


def test_bytes_into_a_buffer_by_lines_and_to_two(run: Run) -> None:
    async def main() -> None:
        pipe, copy = aio.Pipe[Any](), isthmus.Pipe[Any]()
        reading = asyncio.create_task(pipe.reader.tee_to(aio.PipeWriter(copy.writer), 5, PATIENCE))
        await settle()
        await pipe.writer.write(b"one\ntwo\n")
        assert await reading == 5
        assert copy.reader.read(100, 0) == b"one\nt"
        assert await pipe.reader.tee_to(copy.writer) == 8
        room = bytearray(6)
        assert await pipe.reader.readinto(room) == 6
        assert room == b"one\ntw"
        pipe.writer.close()
        assert [line async for line in pipe.reader.lines()] == [b"o\n"]
        assert await pipe.reader.readinto(room) == 0
        assert await pipe.reader.tee_to(copy.writer) == 0
        other = aio.Pipe[Any]()
        with pytest.raises(isthmus.Timeout, match="no byte to copy"):
            await other.reader.tee_to(copy.writer, timeout=0.02)

    run(main())


def test_splice_falls_back_where_the_kernel_cannot(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").write_bytes(b"x" * 300_000)
    monkeypatch.setattr(_descriptors, "splice_now", lambda *_: None)

    async def main() -> None:
        pipe = aio.Pipe[Any]()

        async def feed() -> None:
            with (tmp_path / "in").open("rb") as source:
                assert await pipe.writer.splice_from(source, 250_000) == 250_000
            pipe.writer.close()

        task = asyncio.create_task(feed())
        with (tmp_path / "out").open("wb") as target:
            assert await pipe.reader.splice_to(target) == 250_000
        await task

    run(main())
    assert (tmp_path / "out").read_bytes() == b"x" * 250_000


def test_what_is_shown_of_the_ends(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        pipe = aio.Pipe[Any]()
        one, other = aio.Pipe.two_way(type=int)
        fifo = aio.Fifo.create(tmp_path / "f", type=int)
        assert aio.Fifo.open(tmp_path / "f", type=int).type is fifo.type is int
        with pytest.raises(FileExistsError) as taken:
            aio.Fifo.create(tmp_path / "f")
        assert (taken.value.filename, taken.value.filename2) == (str(tmp_path / "f"), None)
        with pytest.raises(FileNotFoundError):
            aio.Fifo.open(tmp_path / "g")
        with pytest.raises(FileNotFoundError) as caught:
            aio.Fifo(tmp_path / "nowhere" / "f")
        assert caught.value.filename == str(tmp_path / "nowhere" / "f")
        server = aio.FifoServer[bytes, bytes](tmp_path / "s")
        assert server.path == str(tmp_path / "s")
        client = aio.FifoClient[bytes, bytes](tmp_path / "s")
        running = aio.pipeline("cat", "sleep 600", input=b"")
        assert running.fileno() == running.sync.fileno()
        assert one.fileno() == one.reader.fileno()
        everything: list[Any] = [pipe, one, other, fifo, server, client]
        for one_of in everything:
            assert not one_of.closed
            one_of.close()
            assert one_of.closed
            assert one_of.sync.closed
        assert repr(running).startswith("<isthmus.aio.Pipeline cat | sleep 600: [")
        await running.kill()
        assert running.closed
        assert running.exit_codes[1] == -9
        for text in map(repr, everything[:4]):
            assert text.startswith("<isthmus.aio.")
            assert "(closed)" in text

    run(main())


def test_two_way_with_a_program(run: Run) -> None:
    async def main() -> None:
        ours, theirs = isthmus.Pipe.two_way(type=list[int])
        code = """
            import isthmus
            reader, writer = isthmus.PipeReader(0, type=list[int]), isthmus.PipeWriter(1, type=list[int])
            for numbers in reader:
                writer.send(numbers[::-1])
            """
        with program(code, stdin=theirs.reader, stdout=theirs.writer) as process:
            theirs.close()
            async with aio.PipeEnd(ours) as end:
                for size in (3, 100_000):
                    await end.send(list(range(size)))
                    assert await end.recv(PATIENCE) == list(range(size))[::-1]
                process.kill()
                with pytest.raises(isthmus.ShutDown):
                    await end.recv(PATIENCE)

    run(main())


def test_a_busy_reader_lets_others_run(run: Run) -> None:
    async def main() -> None:
        pipe = aio.Pipe[bytes](type=bytes)
        for _ in range(500):
            await pipe.writer.send(b"x")
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await settle()
        before = turns
        for _ in range(500):
            await pipe.reader.recv()
        assert turns - before >= 5
        task.cancel()

    run(main())


def test_ctrl_c_in_a_loop() -> None:
    out = run_python(
        """
        import asyncio, isthmus, os, signal, threading
        from isthmus import aio
        pipe = aio.Pipe(type=bytes)
        async def main():
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            await pipe.reader.recv()
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert out == "interrupted\n"


# ---------------------------------------------------------------------------------------- FIFOs


def test_a_fifo(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.Fifo[bytes](tmp_path / "f", type=bytes) as fifo:
            with pytest.raises(isthmus.Timeout):
                await fifo.writer(0.02)
            opening = asyncio.create_task(fifo.writer())
            await settle()
            reader = await fifo.reader()
            writer = await opening
            with pytest.raises(isthmus.Timeout):
                await fifo.reader(0.02)

            async def send() -> None:
                for number, size in enumerate(SIZES):
                    await writer.send(blob(number, size))

            task = asyncio.create_task(send())
            for number in range(len(SIZES)):
                assert number_of(await reader.recv(PATIENCE)) == number
            await task
            task = asyncio.create_task(writer.send(bytes(9_000_000)))
            await settle()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with pytest.raises(isthmus.Empty):
                await reader.recv(0)
            await writer.send(b"after")
            assert await reader.recv(PATIENCE) == b"after"
            assert reader.abandoned == 1
            reader.close()
            with pytest.raises(isthmus.ShutDown):
                await writer.send(b"x")
            patient = asyncio.create_task(fifo.writer(PATIENCE, patient=True))
            again = await fifo.reader()
            writer = await patient
            again.close()
            with pytest.raises(isthmus.Full):
                await writer.send(b"x", 0.02)
            fifo.unlink()
        lines = aio.Fifo[Any](tmp_path / "lines")
        end = await lines.reader(ends_with_writers=True)
        async with await lines.writer() as raw:
            await raw.write(b"a\nb\n")
        assert [line async for line in end] == [b"a\n", b"b\n"]

    run(main())


def test_requests(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        server = aio.FifoServer[int, str](tmp_path / "s", type=int, reply=str)

        async def serve() -> None:
            async for request in server:
                if request.message >= 0:
                    await request.reply("." * request.message)

        task = asyncio.create_task(serve())
        clients = [aio.FifoClient[int, str](tmp_path / "s", type=int, reply=str) for _ in range(3)]

        async def ask(client: aio.FifoClient[int, str]) -> None:
            for size in (0, 5, 100_000):
                assert await client.call(size, PATIENCE) == "." * size

        await asyncio.gather(*map(ask, clients))
        with pytest.raises(isthmus.Empty):
            await clients[0].call(-1, 0.05)
        waiting = asyncio.create_task(clients[1].call(-1))
        await asyncio.sleep(0.05)
        server.close()
        with pytest.raises(isthmus.PeerDied):
            await waiting
        await task
        for client in clients:
            client.close()
        server.unlink()

    run(main())
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------- pipelines


def test_a_pipeline(run: Run) -> None:
    async def main() -> None:
        assert [line async for line in aio.pipeline("printf 'b\\na\\n'", "sort")] == [b"a\n", b"b\n"]
        assert await aio.pipeline("cat", input="text", text=True).read() == "text"
        assert await aio.pipeline("true", "true").wait() == [0, 0]
        with pytest.raises(isthmus.StageFailed):
            await aio.pipeline("false", "cat").read()
        both = aio.pipeline(lambda lines: lines, "cat", input=b"1\n2\n")
        assert [await both.readline(), await both.readline(), await both.readline()] == [b"1\n", b"2\n", b""]
        assert (both.exit_codes, both.exit_code) == ([0, 0], 0)
        for call in ("read", "wait", "readline"):
            running = aio.pipeline("sleep 600", timeout=0.05)
            with pytest.raises(isthmus.Timeout, match="'sleep 600' still ran"):
                await getattr(running, call)()
        async with aio.pipeline("sleep 600", "cat") as running:
            pids = [stage.pid or 0 for stage in running.progress()]
            with pytest.raises(isthmus.Empty):
                await running.read(0.02)
        wait_until(lambda: all(process_state(pid) in ("", "Z") for pid in pids), "the stages to end")

    run(main())


def test_a_cancelled_loop_ends_its_pipeline(run: Run) -> None:
    async def main() -> None:
        running = aio.pipeline("sleep 600", "cat")

        async def read() -> None:
            async for _ in running:
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert None not in running.exit_codes

    run(main())
