"""A server, many clients that do not behave, and one that does: it is served, and the server stays small."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus
from sockets import hello
from support import PATIENCE, Peer

SEED = int(os.environ.get("ISTHMUS_TEST_SEED", "20261121"))

PRELUDE = """
import asyncio, sys, threading, isthmus
from isthmus import aio

ends = {}

def ended(error):
    ends[type(error).__name__] = ends.get(type(error).__name__, 0) + 1
"""

THREADS = (
    PRELUDE
    + """
def serve(stream):
    try:
        with stream:
            for message in stream:
                stream.send(message)
    except BaseException as error:
        ended(error)

listener = isthmus.Listener(sys.argv[1], type=bytes)
def accept():
    for stream in listener:
        threading.Thread(target=serve, args=(stream,), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
print("listens", flush=True)
for line in sys.stdin:
    print(sorted(ends), flush=True)
"""
)

ASYNCIO = (
    PRELUDE
    + """
async def serve(stream):
    try:
        async for message in stream:
            await stream.send(message)
    except BaseException as error:
        ended(error)
        raise

async def main():
    async with aio.Listener(sys.argv[1], type=bytes) as listener:
        serving = asyncio.create_task(listener.serve(serve))
        print("listens", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(sorted(ends), flush=True)
        listener.close()
        await serving

asyncio.run(main())
"""
)

CLEAR = {"CorruptError", "PeerDied", "ShutDown", "TooLarge", "Unsupported"}


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opened(path: Path) -> socket.socket:
    """A client that speaks the protocol as far as that."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(path))
    sock.sendall(hello(limit=1 << 30))
    assert len(sock.recv(128, socket.MSG_WAITALL)) == 128
    return sock


def garbage(chance: random.Random) -> bytes:
    """Frames, some of them damaged."""
    sizes = [chance.choice([0, 3, 200, 5000, 20_000]) for _ in range(chance.randrange(1, 6))]
    wire = bytearray(b"".join(size.to_bytes(4, "little") + chance.randbytes(size) for size in sizes))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(wire))
        wire[at : at + chance.randrange(3)] = chance.choice([b"", b"\xff", b"\xfe\xff\xff\xff", b"\0\0\0\0"])
    return bytes(wire)


@pytest.mark.parametrize("server", [THREADS, ASYNCIO], ids=["threads", "asyncio"])
def test_hostile_clients_harm_no_other_and_cost_little(
    server: str, tmp_path: Path, spawn: Callable[..., Peer]
) -> None:
    path = tmp_path / "s"
    peer = spawn(server, f"unix://{path}")
    peer.expect("listens")
    chance = random.Random(SEED)
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack, isthmus.Stream(path, type=bytes) as good:

        def served() -> None:
            message = chance.randbytes(1000)
            good.send(message, PATIENCE)
            assert good.recv(PATIENCE) == message

        def clients(count: int) -> Iterator[socket.socket]:
            for number in range(count):
                if number % 10 == 0:
                    served()
                yield stack.enter_context(opened(path))
            served()

        for _ in clients(20):  # so that what the first ones cost is not counted
            pass
        before = resident(peer.pid)
        for sock in clients(60):
            # A message of 60 MB is announced, and does not come.
            sock.sendall((60 << 20).to_bytes(4, "little") + bytes(10_000))
            held.append(sock)
        for sock in clients(60):
            # Asks and does not take the answers.
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.send((1000).to_bytes(4, "little") + bytes(1000))
            held.append(sock)
        grown = (resident(peer.pid) - before) / len(held)
        assert grown < 600_000, f"{grown:.0f} bytes a client"
        known = [b"\xf5\xff\xff\xff", b"\xfd\xff\xff\xff" + bytes(8), b"\xff\xff\xff\x7f", b"\x05\0\0\0x"]
        for sock in clients(150):
            sock.sendall(known.pop() if known else garbage(chance))
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1 << 16):
                    pass
    print(f"{grown / 1024:.0f} KiB a client")
    peer.send()
    kinds = set(peer.line()[1:-1].replace("'", "").split(", "))
    assert (
        {"PeerDied", "TooLarge", "CorruptError"} <= kinds <= CLEAR
    )  # and nothing that is no error of isthmus
