"""Streams of bytes, lines and files, and the programs of others on the other side."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import isthmus
from sockets import Certificates, certificates, loose, require
from support import PATIENCE

__all__ = ["certificates"]

Connected = Callable[..., tuple["isthmus.Stream[Any]", "isthmus.Stream[Any]"]]


@pytest.fixture(params=["unix", "tcp", "tls"])
def connected(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates
) -> Iterator[Connected]:
    made: list[Any] = []

    def connect(**options: Any) -> tuple[isthmus.Stream[Any], isthmus.Stream[Any]]:
        ends = loose(str(request.param), tmp_path, certificates, **options)
        made.extend(ends)
        return ends[0], ends[1]

    yield connect
    for end in made:
        end.close()


# ---- bytes


def test_bytes_come_as_they_come(connected: Connected) -> None:
    one, other = connected(framing="raw")
    one.send(b"hello")
    assert other.recv(PATIENCE) == b"hello"
    one.send(b"")
    with pytest.raises(isthmus.Empty):
        other.recv(0.02)
    one.send(memoryview(b"world"))
    one.close()
    assert other.recv(PATIENCE) == b"world"
    with pytest.raises(isthmus.ShutDown):
        other.recv(PATIENCE)


def test_read_takes_exactly_so_many(connected: Connected) -> None:
    one, other = connected(framing="raw")
    data = os.urandom(1_000_000)

    def give() -> None:
        one.send(data)
        one.finish()

    sender = threading.Thread(target=give)
    sender.start()
    assert other.read(0) == b""
    assert other.read(3, PATIENCE) == data[:3]
    assert other.read(500_000) == data[3:500_003]
    assert other.read(499_000, PATIENCE) == data[500_003:999_003]
    sender.join()
    with pytest.raises(isthmus.ShutDown, match="finished after 997 bytes"):
        other.read(1000, PATIENCE)
    assert other.read(997, PATIENCE) == data[999_003:]
    with pytest.raises(ValueError, match="size is -1"):
        other.read(-1)


def test_read_that_is_not_done_in_time_goes_on_later(connected: Connected) -> None:
    one, other = connected(framing="raw")
    for number in range(5):
        one.send(b"%d" % number)
        with pytest.raises(isthmus.Empty):
            other.read(6, 0.02)
    one.send(b"5")
    assert other.read(6, PATIENCE) == b"012345"


def test_read_until_a_mark(connected: Connected) -> None:
    one, other = connected(framing="raw")
    for part in (b"GET / HT", b"TP/1.1\r", b"\nHost: x\r\n\r", b"\nbody"):
        one.send(part)
        time.sleep(0.01)
    assert other.read_until(b"\r\n", PATIENCE) == b"GET / HTTP/1.1\r\n"
    assert other.read_until(b"\r\n\r\n", PATIENCE) == b"Host: x\r\n\r\n"
    with pytest.raises(isthmus.Empty):
        other.read_until(b"\n", 0.02)
    assert other.recv(0) == b"body"
    one.send(b"x" * 200)
    with pytest.raises(isthmus.TooLarge, match="limit is 100"):
        other.read_until(b"\n", PATIENCE, limit=100)
    assert other.read(200, PATIENCE) == b"x" * 200
    with pytest.raises(ValueError, match="mark is empty"):
        other.read_until(b"")


def test_recv_into_gives_what_came(connected: Connected) -> None:
    one, other = connected(framing="raw")
    room = bytearray(8)
    one.send(b"hello")
    assert other.recv_into(room, PATIENCE) == 5
    assert room[:5] == b"hello"
    one.send(b"a longer text")
    got = b""
    while len(got) < 13:
        size = other.recv_into(room, PATIENCE)
        got += room[:size]
    assert got == b"a longer text"
    one.close()
    with pytest.raises(isthmus.ShutDown):
        other.recv_into(room)


@pytest.mark.parametrize("timeout", [None, PATIENCE], ids=["waits", "timeout"])
def test_large_buffers_are_not_copied(timeout: float | None) -> None:
    """What this process takes besides the buffers of the caller, in both directions."""
    one, other = isthmus.Stream.pair(type=bytes)
    given = memoryview(bytearray(os.urandom(1 << 16) * 256))
    room = bytearray(given.nbytes)
    with one, other:
        one.send(bytes(100_000), timeout=0)
        other.recv(PATIENCE)
        tracemalloc.start()
        try:
            for _ in range(3):
                sending = threading.Thread(target=one.send, args=(given, timeout))
                sending.start()
                assert other.recv_into(room, timeout) == given.nbytes
                sending.join(PATIENCE)
                assert room == given
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < given.nbytes // 8


def test_as_a_file(connected: Connected) -> None:
    one, other = connected(framing="raw")
    with one.makefile("wb") as out:
        out.write(b"first line\nsecond line\nrest")
    one.finish()
    with other.makefile("rb") as file:
        assert file.readline() == b"first line\n"
        assert file.readlines() == [b"second line\n", b"rest"]
        assert file.read() == b""
        assert file.readable()
    assert not other.closed
    with pytest.raises(ValueError, match='"rb" or "wb"'):
        one.makefile("r+")


def test_what_belongs_to_another_framing_says_so() -> None:
    for one, other in (isthmus.Stream.pair(), isthmus.Stream.pair(framing="lines")):
        with one, other:
            for call in (
                one.makefile,
                partial(one.read, 1),
                partial(one.read_until, b"x"),
                partial(one.recv_into, bytearray(1)),
            ):
                with pytest.raises(isthmus.Unsupported, match="framing"):
                    call()


# ---- lines


def test_lines(connected: Connected) -> None:
    one, other = connected(framing="lines")
    for line in ("hello", "", "größer als", "x" * 100_000):
        one.send(line)
        assert other.recv(PATIENCE) == line
    assert one.send_many(map(str, range(1000))) == 1000
    assert [other.recv(PATIENCE) for _ in range(1000)] == [str(number) for number in range(1000)]
    for wrong in ("two\nlines", "return\r"):
        with pytest.raises(ValueError, match="line ends"):
            one.send(wrong)
    with pytest.raises(TypeError, match="a line is a str"):
        one.send(b"bytes")
    one._channel.send(b"windows\r\n\xff\xfe\nlast, without an end")
    one.close()
    assert other.recv(PATIENCE) == "windows"
    with pytest.raises(isthmus.InvalidMessage, match="utf-8"):
        other.recv(PATIENCE)
    assert list(other) == ["last, without an end"]
    assert other.type is str


@pytest.mark.parametrize("text", [b"x" * 101 + b"\n", b"x" * 300, b"fine\n" + b"y" * 101 + b"\nz\n"])
def test_a_line_over_the_limit_ends_the_stream(connected: Connected, text: bytes) -> None:
    one, other = connected(framing="lines", limit=100)
    one._channel.send(b"x" * 100 + b"\n")
    assert other.recv(PATIENCE) == "x" * 100
    one._channel.send(text)
    if text.startswith(b"fine"):
        assert other.recv(PATIENCE) == "fine"
    for _ in range(2):
        with pytest.raises(isthmus.TooLarge, match="limit of this stream is 100"):
            other.recv(PATIENCE)


def test_a_line_in_many_pieces(connected: Connected) -> None:
    one, other = connected(framing="lines")
    for letter in b"a slow line\nand half":
        one._channel.send(bytes([letter]))
        other.poll(0)
    assert other.recv(PATIENCE) == "a slow line"
    with pytest.raises(isthmus.Empty):
        other.recv(0.02)
    one.send(" of one")
    assert other.recv(PATIENCE) == "and half of one"


# ---- files


def test_a_file_and_messages_around_it(connected: Connected, tmp_path: Path) -> None:
    one, other = connected(limit=1000)
    data = os.urandom(3_000_000)
    (tmp_path / "from").write_bytes(data)

    def give() -> None:
        one.send("before")
        with (tmp_path / "from").open("rb") as file:
            assert one.send_file(file) == len(data)
            one.send("between")
            assert one.send_file(file, offset=10, count=20) == 20
            assert one.send_file(file, offset=len(data)) == 0
        one.send("after")

    giver = threading.Thread(target=give)
    giver.start()
    assert other.recv(PATIENCE) == "before"
    assert other.poll(PATIENCE)
    with pytest.raises(isthmus.Unsupported, match="a file of 3000000 bytes"):
        other.recv(PATIENCE)
    with (tmp_path / "to").open("wb") as file:
        with pytest.raises(isthmus.TooLarge):
            other.recv_file(file, count=10)
        assert other.recv_file(file, timeout=PATIENCE) == len(data)
        with pytest.raises(isthmus.Unsupported, match="sends a message"):
            other.recv_file(file, timeout=PATIENCE)
    assert (tmp_path / "to").read_bytes() == data
    assert other.recv(PATIENCE) == "between"
    with (tmp_path / "part").open("wb") as file:
        assert other.recv_file(file) == 20
        assert other.recv_file(file) == 0
    assert (tmp_path / "part").read_bytes() == data[10:30]
    assert other.recv(PATIENCE) == "after"
    giver.join()


def test_a_file_in_pieces_with_timeouts(connected: Connected, tmp_path: Path) -> None:
    one, other = connected()
    data = os.urandom(400_000)
    (tmp_path / "from").write_bytes(data)

    def give() -> None:
        with (tmp_path / "from").open("rb") as file:
            one.send_file(file, timeout=PATIENCE)

    giver = threading.Thread(target=give)
    with (tmp_path / "to").open("wb") as file:
        with pytest.raises(isthmus.Empty):
            other.recv_file(file, timeout=0.01)
        giver.start()
        while True:
            try:
                assert other.recv_file(file, timeout=0.01) == len(data)
                break
            except isthmus.Empty:
                continue
    giver.join()
    assert (tmp_path / "to").read_bytes() == data


def test_a_file_that_cannot_be_sent_to_its_end_ends_the_sending(connected: Connected, tmp_path: Path) -> None:
    one, other = connected()
    (tmp_path / "from").write_bytes(bytes(20_000_000))
    with (tmp_path / "from").open("rb") as file:
        with pytest.raises(isthmus.Full):
            one.send_file(file, timeout=0.05)
        for wrong in ({"offset": -1}, {"offset": 1, "count": 20_000_000}, {"count": -1}):
            with pytest.raises(ValueError, match="the file has"):
                one.send_file(file, **wrong)
    with pytest.raises(isthmus.PeerDied, match="not sent to its end"):
        one.send("more")
    one.close()
    with (tmp_path / "to").open("wb") as file:
        with pytest.raises(isthmus.PeerDied, match=r"middle of a message|reset"):
            other.recv_file(file)
    with pytest.raises(TypeError, match="open file"):
        other.send_file("name")  # type: ignore[arg-type]


def test_bytes_to_a_file(connected: Connected, tmp_path: Path) -> None:
    one, other = connected(framing="raw")
    data = os.urandom(300_000)
    (tmp_path / "from").write_bytes(data)

    def give() -> None:
        with (tmp_path / "from").open("rb") as file:
            one.send_file(file)
        one.finish()

    giver = threading.Thread(target=give)
    giver.start()
    with (tmp_path / "to").open("wb") as file:
        assert other.recv_file(file, count=100, timeout=PATIENCE) == 100
        assert other.recv_file(file) == len(data) - 100
        with pytest.raises(isthmus.PeerDied, match="0 of 5 bytes"):
            other.recv_file(file, count=5)
    giver.join()
    assert (tmp_path / "to").read_bytes() == data


# ---- the programs of others


def test_socat_as_a_client_and_as_a_server(tmp_path: Path) -> None:
    socat = require("socat")
    for address, there in (
        (f"unix://{tmp_path}/s", f"UNIX-CONNECT:{tmp_path}/s"),
        ("tcp://127.0.0.1:0", "TCP4:127.0.0.1:{port}"),
    ):
        with isthmus.Listener(address, framing="lines") as listener:
            client = subprocess.Popen(
                [socat, "-t5", "-", there.format(port=listener.port)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            with listener.accept(PATIENCE) as stream:
                assert client.stdin is not None
                client.stdin.write(b"question\n")
                client.stdin.close()
                client.stdin = None
                assert list(stream) == ["question"]  # half-closed: the answer still goes
                stream.send("answer")
            assert client.communicate(timeout=PATIENCE)[0] == b"answer\n"
    server = subprocess.Popen([socat, f"UNIX-LISTEN:{tmp_path}/echo", "EXEC:cat"])
    with isthmus.Stream(tmp_path / "echo", framing="raw", retry=True, timeout=PATIENCE) as raw:
        raw.send(b"x" * 10_000)
        assert raw.read(10_000, PATIENCE) == b"x" * 10_000
        raw.finish()
        with pytest.raises(isthmus.ShutDown):
            raw.recv(PATIENCE)
    assert server.wait(PATIENCE) == 0


def test_netcat_as_a_client(tmp_path: Path) -> None:
    with isthmus.Listener("tcp://127.0.0.1:0", framing="lines") as listener:
        client = subprocess.Popen(
            [require("nc"), "-N", "127.0.0.1", str(listener.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with listener.accept(PATIENCE) as stream:
            stream.send("welcome")
            assert client.stdin is not None
            client.stdin.write(b"one\ntwo\n")
            client.stdin.close()
            client.stdin = None
            assert list(stream) == ["one", "two"]
        assert client.communicate(timeout=PATIENCE)[0] == b"welcome\n"


def test_pythons_own_sockets(tmp_path: Path) -> None:
    with isthmus.Listener(tmp_path / "s", framing="raw") as listener, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "s"))
        sock.settimeout(PATIENCE)
        with listener.accept(PATIENCE) as stream:
            sock.sendall(b"to isthmus")
            assert stream.read(10, PATIENCE) == b"to isthmus"
            stream.send(b"to the socket")
            assert sock.recv(100) == b"to the socket"
            sock.close()
            with pytest.raises(isthmus.ShutDown):
                stream.recv(PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with isthmus.Stream(address, framing="raw") as stream:
            accepted, _ = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            accepted.close()
            with pytest.raises(isthmus.PeerDied, match=f"{address} reset the connection"):
                stream.recv(PATIENCE)


def test_streams_of_asyncio(tmp_path: Path) -> None:
    async def serve() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(line.upper())
            writer.close()
            done.set()

        done = asyncio.Event()
        server = await asyncio.start_unix_server(handle, tmp_path / "s")
        async with server:
            ready.set()
            await asyncio.wait_for(done.wait(), PATIENCE)

    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(PATIENCE)
    with isthmus.Stream(tmp_path / "s", framing="lines") as stream:
        stream.send("hello")
        assert stream.recv(PATIENCE) == "HELLO"
        stream.finish()
        assert list(stream) == []
    thread.join(PATIENCE)


def test_what_a_client_of_another_protocol_is_told(tmp_path: Path) -> None:
    """An isthmus stream that meets a server of something else."""
    for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b""):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def reply(server: socket.socket = server, answer: bytes = answer) -> None:
                sock, _ = server.accept()
                with sock:
                    sock.recv(128)
                    sock.sendall(answer)

            thread = threading.Thread(target=reply)
            thread.start()
            wanted = isthmus.IncompatibleError if answer else isthmus.Refused
            with pytest.raises(wanted, match=r"does not speak|hung up"):
                isthmus.Stream(f"tcp://127.0.0.1:{server.getsockname()[1]}")
            thread.join()


def test_the_digest_of_much_through_socat(tmp_path: Path) -> None:
    server = subprocess.Popen([require("socat"), f"UNIX-LISTEN:{tmp_path}/sum", "SYSTEM:sha256sum"])
    with isthmus.Stream(tmp_path / "sum", framing="raw", retry=True, timeout=PATIENCE) as stream:
        digest = hashlib.sha256()
        for _ in range(50):
            part = os.urandom(100_000)
            digest.update(part)
            stream.send(part, PATIENCE)
        stream.finish()
        assert stream.read_until(b" ", PATIENCE) == digest.hexdigest().encode() + b" "
    server.wait(PATIENCE)
