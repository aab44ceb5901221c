"""One asyncio server and five thousand clients in another process."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Peer

CLIENTS = 5000

SERVER = """
import asyncio, importlib.util, resource, sys
from isthmus import aio

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)

async def handle(stream):
    async for message in stream:
        await stream.send(message)

async def main():
    async with aio.Listener(sys.argv[1], most_opening=6000) as listener:
        serving = asyncio.create_task(listener.serve(handle))
        print("listens", flush=True)
        memory = int(open("/proc/self/statm").read().split()[1]) * 4096
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            now = int(open("/proc/self/statm").read().split()[1]) * 4096
            stats = listener.stats()
            print(stats.accepted, len(asyncio.all_tasks()), (now - memory) // 1024, flush=True)
        listener.close()
        await serving

if sys.argv[3] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""

CLIENT = """
import resource, sys, isthmus
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
streams = [isthmus.Stream(sys.argv[1], timeout=60, retry=True) for _ in range(int(sys.argv[3]))]
print("connected", flush=True)
sys.stdin.readline()
for turn in range(3):
    for number, stream in enumerate(streams):
        stream.send([turn, number, "x" * 100])
    for number, stream in enumerate(streams):
        assert stream.recv(60) == [turn, number, "x" * 100]
print("answered", flush=True)
sys.stdin.readline()
for stream in streams:
    stream.close()
print("closed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(360)
@pytest.mark.parametrize(("kind", "loop"), [("tcp", "asyncio"), ("unix", "uvloop")])
def test_five_thousand_clients(kind: str, loop: str, tmp_path: Path, spawn: Callable[..., Peer]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = CLIENTS + 200
    assert hard == resource.RLIM_INFINITY or hard >= needed, (
        f"the tests need {needed} descriptors, not {hard}"
    )
    address = f"unix://{tmp_path}/s"
    if kind == "tcp":
        import socket

        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    server = spawn(SERVER, address, needed, loop)
    server.expect("listens")
    client = spawn(CLIENT, address, needed, CLIENTS)
    client.expect("connected", patience=100)
    server.send("count")
    accepted, tasks, idle = map(int, server.line().split())
    assert accepted == CLIENTS
    assert tasks >= CLIENTS
    client.send()
    client.expect("answered", patience=100)
    server.send("count")
    _, _, busy = map(int, server.line().split())
    # A few KiB each, before the first message and after: what a client may cost at all times.
    assert idle / CLIENTS < 40, f"{idle / CLIENTS:.1f} KiB a client"
    assert busy / CLIENTS < 40, f"{busy / CLIENTS:.1f} KiB a client"
    print(f"{idle / CLIENTS:.1f} KiB a client when idle, {busy / CLIENTS:.1f} after its messages")
    client.send()
    client.expect("closed", patience=100)
    client.finish()
    server.send("")
    server.finish()
