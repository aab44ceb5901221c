"""`aio.Stream`, `aio.Listener` and `aio.Datagram`, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import io
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import aio
from isthmus.aio import stream as aio_stream
from sockets import Certificates, certificates, echo_server
from support import PATIENCE, Peer

__all__ = ["certificates"]

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def _loops() -> list[Any]:
    kinds: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    if importlib.util.find_spec("uvloop") is not None:
        kinds.append(pytest.param(importlib.import_module("uvloop").new_event_loop, id="uvloop"))
    return kinds


@pytest.fixture(params=_loops())
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, with patience and not longer."""

    def in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, PATIENCE * 2))

    return in_loop


@pytest.fixture(params=["unix", "tcp", "tls"])
def place(request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates) -> dict[str, Any]:
    """An address, and the options of who listens and who connects."""
    if request.param == "unix":
        return {"at": f"unix://{tmp_path}/s", "here": {}, "there": {}}
    if request.param == "tcp":
        return {"at": "tcp://localhost:0", "here": {}, "there": {}}
    return {
        "at": "tcp://127.0.0.1:0",
        "here": {"tls": certificates.listening},
        "there": {"tls": certificates.trusting},
    }


async def connected(place: dict[str, Any], **options: Any) -> tuple[aio.Stream[Any], aio.Stream[Any]]:
    async with aio.Listener(place["at"], **place["here"], **options) as listener:
        client = asyncio.create_task(aio.Stream.connect(listener.address, **place["there"], **options))
        server = await listener.accept(PATIENCE)
        return await client, server


def test_messages_both_ways(run: Run, place: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = await connected(place)
        async with one, other:
            for message in (1, "two", b"3" * 200_000, {"four": [4]}):
                sending = asyncio.create_task(one.send(message))
                assert await other.recv() == message
                await sending
            assert await one.send_many(range(5000)) == 5000
            got: list[int] = []
            while len(got) < 5000:
                got += await other.recv_many(timeout=PATIENCE)
            assert got == list(range(5000))
            assert not await one.poll()
            await one.finish()
            assert await other.poll(PATIENCE)
            assert [message async for message in other] == []
            await other.send("after the end of the other direction")
            assert await one.recv(PATIENCE) == "after the end of the other direction"
            assert one.address == other.address
            assert "aio.Stream" in repr(one)
        assert one.closed
        with pytest.raises(isthmus.ClosedError):
            await one.recv()
        with pytest.raises(isthmus.ClosedError):
            await one.send(1)

    run(main())


def test_large_messages_both_ways_at_once(run: Run, place: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = await connected(place, type=bytes)
        data = os.urandom(3_000_000)
        async with one, other:
            results = await asyncio.gather(
                *(end.send(data) for end in (one, other)), *(end.recv() for end in (one, other))
            )
            assert results[2:] == [data, data]
            with pytest.raises(isthmus.Empty, match="nothing came"):
                await one.recv(0.01)
            with pytest.raises(isthmus.Empty):
                await one.recv(0)

    run(main())


def test_full_and_flush(run: Run, place: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = await connected(place, type=bytes)
        async with one, other:
            sent = 0

            async def fill() -> None:
                nonlocal sent
                while True:
                    await one.send(b"x" * 5000, 0.05)
                    sent += 1

            with pytest.raises(isthmus.Full, match="took nothing"):
                await fill()
            rest = asyncio.create_task(one.flush(PATIENCE))
            for _ in range(sent):
                assert await other.recv(PATIENCE) == b"x" * 5000
            await rest
            with pytest.raises(isthmus.Empty):
                await other.recv(0.02)

    run(main())


def test_cancelling_loses_nothing(run: Run, place: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = await connected(place)
        got: list[int] = []

        async def take() -> None:
            while True:
                got.append(await other.recv())

        async with one, other:
            for number in range(300):
                taking = asyncio.create_task(take())
                await asyncio.sleep(0)
                await one.send(number)
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                taking.cancel()
                await asyncio.wait([taking])
            await one.finish()
            got += [message async for message in other]
            assert got == list(range(300))

    run(main())


def test_a_cancelled_send_is_sent_whole_or_not_at_all(run: Run, place: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = await connected(place, type=bytes)
        async with one, other:
            sending = asyncio.create_task(one.send(b"m" * 20_000_000))
            await asyncio.sleep(0.05)
            sending.cancel()
            await asyncio.wait([sending])
            after = asyncio.create_task(one.send(b"after"))
            assert await other.recv() == b"m" * 20_000_000
            assert await other.recv() == b"after"
            await after

    run(main())


def test_a_stream_is_shared_with_threads(run: Run, place: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = await connected(place)
        async with one, other:
            threading.Thread(target=lambda: one.sync.send_many(range(100))).start()
            assert [await other.recv(PATIENCE) for _ in range(100)] == list(range(100))
            await one.send("for a thread")
            assert await asyncio.to_thread(other.sync.recv, PATIENCE) == "for a thread"
            waiting = asyncio.create_task(other.recv())
            await asyncio.sleep(0.02)
            other.sync.close()
            with pytest.raises(isthmus.ClosedError):
                await waiting

    run(main())


def test_the_death_of_the_other_side(run: Run, place: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = await connected(place)
        await one.send("last words")
        one.sync._sock.close()
        async with other:
            assert await other.recv(PATIENCE) == "last words"
            with pytest.raises(isthmus.PeerDied):
                await other.recv(PATIENCE)

    run(main())


def test_bytes_files_and_descriptors(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        raw = await connected({"at": f"unix://{tmp_path}/raw", "here": {}, "there": {}}, framing="raw")
        async with raw[0] as one, raw[1] as other:
            await one.send(b"GET /\r\n12345")
            assert await other.read_until(b"\r\n", PATIENCE) == b"GET /\r\n"
            assert await other.read(5, PATIENCE) == b"12345"
            with pytest.raises(isthmus.Empty):
                await other.read(5, 0.01)
            room = bytearray(10)
            await one.send(b"abc")
            assert await other.recv_into(room, PATIENCE) == 3
            copy = io.BytesIO()
            copying = asyncio.create_task(other.recv_file(copy, count=9, timeout=PATIENCE))
            for part in (b"123", b"456", b"789 and more"):
                await one.send(part)
                wanted = min(9, copy.tell() + len(part))
                while copy.tell() < wanted:
                    await asyncio.sleep(0.001)
            assert await copying == 9
            assert copy.getvalue() == b"123456789"
            assert await other.recv(PATIENCE) == b" and more"
        passing = {"at": f"unix://{tmp_path}/pass", "here": {}, "there": {}}
        ends = await connected(passing, descriptors=1)
        async with ends[0] as one, ends[1] as other:
            with (tmp_path / "file").open("w+b") as file:
                file.write(os.urandom(2_000_000))
                file.flush()
                await one.send("here", descriptors=[file])
                message, found = await other.recv_with_descriptors(PATIENCE)
                assert message == "here"
                assert os.fstat(found[0]).st_size == 2_000_000
                os.close(found[0])
                copy = io.BytesIO()
                sending = asyncio.create_task(one.send_file(file))
                assert await other.recv_file(copy, timeout=PATIENCE) == 2_000_000
                assert await sending == 2_000_000
                assert copy.getvalue() == (tmp_path / "file").read_bytes()

    run(main())


def test_connecting_fails_as_it_does_without_asyncio(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError, match="no such socket"):
            await aio.Stream.connect(tmp_path / "nobody")
        with pytest.raises(isthmus.Unreachable, match="cannot be found"):
            await aio.Stream.connect("tcp://no.such.host.invalid:1")
        with pytest.raises(isthmus.Timeout, match="the last attempt"):
            await aio.Stream.connect(tmp_path / "nobody", retry=True, timeout=0.1)
        async with aio.Listener(tmp_path / "s", type=int) as listener:
            with pytest.raises(isthmus.Timeout, match=r"not done in 0\.05 s"):
                await aio.Stream.connect(tmp_path / "s", timeout=0.05)
            serving = asyncio.create_task(listener.accept())
            with pytest.raises(isthmus.IncompatibleError, match="type int"):
                await aio.Stream.connect(tmp_path / "s", type=str)
            serving.cancel()
        with pytest.raises(TypeError, match="connect"):
            aio.Stream(f"unix://{tmp_path}/s")  # type: ignore[arg-type]

    run(main())


def test_time_that_is_up_within_an_attempt_says_what_ended_the_one_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[Exception] = [isthmus.Refused("nobody is there"), isthmus.Timeout("looking up")]

    async def places(*_: object) -> None:
        raise outcomes.pop(0)

    monkeypatch.setattr(aio_stream, "_places", places)
    with pytest.raises(isthmus.Timeout, match="the last attempt: nobody is there"):
        run(aio.Stream.connect("tcp://127.0.0.1:1", timeout=PATIENCE, retry=isthmus.Backoff(0.001)))
    assert not outcomes


def test_reconnect(run: Run, place: dict[str, Any]) -> None:
    async def main() -> None:
        one, other = await connected(place)
        address = one.address
        other.sync._sock.close()
        with pytest.raises(isthmus.PeerDied):
            await one.recv(PATIENCE)
        with pytest.raises(isthmus.Timeout, match="the last attempt"):
            await one.reconnect(0.5)
        with pytest.raises(isthmus.ClosedError):
            await one.send(1)
        again = asyncio.create_task(one.reconnect(PATIENCE, backoff=isthmus.Backoff(0.01)))
        async with aio.Listener(address, **place["here"]) as listener, await listener.accept(PATIENCE) as new:
            await again
            async with one:
                await one.send("again")
                assert await new.recv(PATIENCE) == "again"
                with pytest.raises(isthmus.Unsupported, match="accepted"):
                    await new.reconnect()

    run(main())


@pytest.mark.parametrize(
    ("sync", "face", "only_sync"),
    [
        (isthmus.Stream, aio.Stream, {"from_socket", "makefile", "pair"}),
        (isthmus.Listener, aio.Listener, {"from_socket", "inherited", "next_turn"}),
        (isthmus.Datagram, aio.Datagram, set()),
    ],
    ids=["stream", "listener", "datagram"],
)
def test_what_can_be_done_with_one_can_be_awaited(sync: type, face: type, only_sync: set[str]) -> None:
    """Ways to make one are wrapped: `aio.Stream(isthmus.Stream.pair()[0])`."""
    for name, there in inspect.getmembers(sync):
        if name.startswith("_") or name in only_sync:
            continue
        here = getattr(face, name)
        assert isinstance(here, property) == isinstance(there, property)
        if not isinstance(here, property):
            parameters = inspect.signature(here).parameters
            assert list(parameters) == list(inspect.signature(there).parameters), name


def test_what_it_says_of_itself(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        ends = await connected({"at": f"unix://{tmp_path}/s", "here": {}, "there": {}}, type=int, limit=99)
        async with ends[0] as one, ends[1] as other:
            assert (one.type, one.framing, one.limit, one.peer_limit) == (int, "messages", 99, 99)
            await one.close(finish=False)
            with pytest.raises(isthmus.PeerDied):
                await other.recv(PATIENCE)
        async with aio.Datagram("udp://127.0.0.1:9", type=int) as there:
            assert (there.type, there.peer, there.limit) == (int, "udp://127.0.0.1:9", 65507)
        async with aio.Listener(tmp_path / "s") as listener:
            assert listener.sockets == listener.sync.sockets

    run(main())


def test_a_server_ends_bad_clients_and_serves_the_others(run: Run, place: dict[str, Any]) -> None:
    failed: list[dict[str, Any]] = []

    async def handle(stream: aio.Stream[Any]) -> None:
        async for message in stream:
            if message == "fail":
                raise RuntimeError("a mistake in the handler")
            await stream.send(message)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        async with aio.Listener(place["at"], limit=1000, **place["here"]) as listener:
            serving = asyncio.create_task(listener.serve(handle))
            good = await aio.Stream.connect(listener.address, **place["there"])
            too_large = (1001).to_bytes(4, "little")
            for word in (
                b"\xf1\xff\xff\xff",
                too_large,
                b"\x02\0\0\0\xc1\xc1",
                b"\x05\0\0\0\xa4fail",
            ):
                bad = await aio.Stream.connect(listener.address, **place["there"])
                await asyncio.to_thread(bad.sync._channel.send, word)
                with pytest.raises((isthmus.ShutDown, isthmus.PeerDied)):
                    await bad.recv(PATIENCE)
                await bad.close()
                await good.send("still there?")
                assert await good.recv(PATIENCE) == "still there?"
            assert listener.stats().accepted == 5
            listener.close()
            await serving
            with pytest.raises((isthmus.ShutDown, isthmus.PeerDied)):
                await good.recv(PATIENCE)
            await good.close()
        assert [str(context["exception"]) for context in failed] == ["a mistake in the handler"]

    run(main())


def test_a_server_without_a_descriptor_left_goes_on(tmp_path: Path, spawn: Callable[..., Peer]) -> None:
    spawn(
        """
        import asyncio, resource, sys
        from isthmus import aio

        async def handle(stream):
            async for message in stream:
                await stream.send(message)

        async def main():
            async with aio.Listener(sys.argv[1]) as listener:
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
                print("listens", flush=True)
                await listener.serve(handle)

        asyncio.run(main())
        """,
        f"unix://{tmp_path}/s",
    ).expect("listens")
    inside: list[isthmus.Stream[Any]] = []

    def fill() -> None:
        while True:
            inside.append(isthmus.Stream(tmp_path / "s", timeout=PATIENCE))

    with pytest.raises(isthmus.Refused, match="no descriptor left, try again later"):
        fill()
    assert 30 < len(inside) < 64
    for number, stream in enumerate(inside):
        stream.send(number)
        assert stream.recv(PATIENCE) == number
        with pytest.raises(isthmus.Refused, match="no descriptor left"):
            isthmus.Stream(tmp_path / "s", timeout=PATIENCE)
    for stream in inside:
        stream.close()
    with isthmus.Stream(tmp_path / "s", timeout=PATIENCE, retry=True) as stream:
        stream.send("back again")
        assert stream.recv(PATIENCE) == "back again"


def test_more_clients_than_allowed_wait_outside(run: Run, tmp_path: Path) -> None:
    inside = 0
    most = 0

    async def handle(stream: aio.Stream[Any]) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await stream.send("come in")
        await stream.recv()
        inside -= 1

    async def client(address: str) -> None:
        async with await aio.Stream.connect(address) as stream:
            assert await stream.recv() == "come in"
            await asyncio.sleep(0.01)
            await stream.send("bye")

    async def main() -> None:
        async with aio.Listener(tmp_path / "s") as listener:
            serving = asyncio.create_task(listener.serve(handle, most_clients=3))
            await asyncio.gather(*(client(listener.address) for _ in range(20)))
            serving.cancel()
            await asyncio.wait([serving])
        assert most == 3

    run(main())


def test_a_flood_from_one_client_leaves_time_for_the_others(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        ends = await connected({"at": f"unix://{tmp_path}/s", "here": {}, "there": {}})
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                ends[0].sync.send_many(range(1000), PATIENCE)

        flooding = threading.Thread(target=flood)
        flooding.start()
        turns = 0
        taken = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        ticking = asyncio.create_task(tick())
        while taken < 50_000:
            await ends[1].recv()
            taken += 1
        stop.set()
        ticking.cancel()
        while flooding.is_alive():
            if await ends[1].poll(0.01):
                await ends[1].recv_many(timeout=0)
        for end in ends:
            await end.close(0)
        assert turns > 50_000 / 200

    run(main())


def test_datagrams(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for at in ("udp://127.0.0.1:0", f"unix://{tmp_path}/d"):
            async with aio.Datagram(at=at, type=int) as here:
                assert here.address is not None
                waiting = asyncio.create_task(here.recv())
                async with aio.Datagram(here.address, type=int) as there:
                    await there.send(1)
                    assert await waiting == 1
                    with pytest.raises(isthmus.Empty):
                        await here.recv(0.01)
                    cancelled = asyncio.create_task(here.recv())
                    await asyncio.sleep(0.01)
                    cancelled.cancel()
                    await asyncio.wait([cancelled])
                    await there.send(2)
                    assert (await here.recv_from(PATIENCE)).message == 2
                assert here.stats().received == 2
                waiting = asyncio.create_task(here.recv())
                await asyncio.sleep(0.01)
                here.close()
                with pytest.raises(isthmus.ClosedError):
                    await waiting

    run(main())


def test_a_server_of_threads_and_a_client_of_asyncio(run: Run, tmp_path: Path) -> None:
    async def main(address: str) -> None:
        async with await aio.Stream.connect(address) as stream:
            for number in range(200):
                await stream.send(number)
                assert await stream.recv(PATIENCE) == number

    with echo_server(f"unix://{tmp_path}/s") as server:
        run(main(server.address))
