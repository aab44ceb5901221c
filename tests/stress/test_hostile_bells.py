"""The FIFOs that wake event loops: garbage in them, others under their names, cells that name them falsely.

A loop gets every message all the same, at the latest when it looks by itself; nothing is written to what is
no FIFO.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus
from hostile import SEED, Damaged, watched
from support import HEADER, Peer, wait_until

Start = Callable[..., Peer]

BELL = 1 << 63
"""The role of a cell that belongs to an event loop."""
POINTS = (256, 320, 352, 368)
"""Wait points in the body of a queue; who waits by a bell has a bit in the upper half."""

LOOP = """
import asyncio, faulthandler, sys, warnings, isthmus, isthmus.aio
faulthandler.dump_traceback_later(90, exit=True)
async def main():
    q = isthmus.aio.Queue("jobs", type=bytes)
    print("ready", flush=True)
    expected = 0
    while (message := await q.get(timeout=60)) != b"end":
        assert int(message) == expected, (message, expected)
        expected += 1
        print("got", expected, flush=True)
    q.close()
asyncio.run(main())
"""
"""An event loop that waits for numbers, one after the other."""


@pytest.fixture
def jobs(namespace: Path) -> Iterator[isthmus.Queue[bytes]]:
    """A queue in a namespace without bells."""
    for entry in namespace.glob(".bell-*"):
        entry.unlink()
    with isthmus.Queue("jobs", type=bytes, capacity=256 << 10) as handle:
        yield handle
    for entry in namespace.glob(".bell-*"):
        entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def waiting_loop(namespace: Path, spawn: Start) -> tuple[Peer, Path]:
    """A process whose loop waits for a message, and its bell."""
    peer = spawn(LOOP)
    peer.expect("ready")
    bells = wait_until(lambda: list(namespace.glob(".bell-*")), "the loop to have a bell")
    return peer, bells[0]


def finish(jobs: isthmus.Queue[bytes], peer: Peer) -> None:
    jobs.put(b"end")
    peer.finish()


def test_garbage_in_a_bell_is_no_message_and_loses_none(
    namespace: Path, jobs: isthmus.Queue[bytes], spawn: Start
) -> None:
    peer, bell = waiting_loop(namespace, spawn)
    choose = random.Random(SEED)
    descriptor = os.open(bell, os.O_WRONLY | os.O_NONBLOCK)
    with watched(peer):
        for number in range(30):
            with contextlib.suppress(BlockingIOError):
                # Whole tokens, parts of tokens, and now and then so much that nothing else fits.
                for _ in range(choose.choice([1, 3, 200])):
                    os.write(descriptor, choose.randbytes(choose.choice([1, 2, 3, 4, 5, 8, 4096])))
            jobs.put(str(number).encode())
            peer.expect(f"got {number + 1}")
    os.close(descriptor)
    finish(jobs, peer)
    assert not list(namespace.glob(".bell-*"))


@pytest.mark.parametrize("what", ["nothing", "file", "directory", "symlink", "socket", "fifo", "full fifo"])
def test_something_else_under_the_name_of_a_bell_in_use(
    namespace: Path, jobs: isthmus.Queue[bytes], spawn: Start, tmp_path: Path, what: str
) -> None:
    """Whoever rings finds nobody there; the loop looks by itself."""
    peer, bell = waiting_loop(namespace, spawn)
    bell.unlink()
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    descriptor = -1
    match what:
        case "file":
            bell.write_bytes(b"mine")
        case "directory":
            bell.mkdir()
        case "symlink":
            bell.symlink_to(target)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(bell))
        case "fifo" | "full fifo":
            os.mkfifo(bell)
            if what == "full fifo":
                descriptor = os.open(bell, os.O_RDWR | os.O_NONBLOCK)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(descriptor, bytes(4096))
    for number in range(5):
        jobs.put(str(number).encode())
        peer.expect(f"got {number + 1}")
    isthmus.clean()
    assert target.read_bytes() == b"mine"
    if what == "file":
        assert bell.read_bytes() == b"mine"
    # A FIFO that nobody listens to is garbage; all else is somebody's.
    assert os.path.lexists(bell) == (what not in {"nothing", "fifo"})
    finish(jobs, peer)
    if descriptor >= 0:
        os.close(descriptor)


def test_cells_that_name_bells_falsely(namespace: Path, jobs: isthmus.Queue[bytes], spawn: Start) -> None:
    """Every cell says that loops wait, by bells that are files, directories, links or nothing at all."""
    peer, _ = waiting_loop(namespace, spawn)
    names = [f".bell-{number:016x}" for number in range(1, 6)]
    (namespace / names[0]).write_bytes(b"mine")
    (namespace / names[1]).mkdir()
    (namespace / names[2]).symlink_to(namespace / names[0])
    os.mkfifo(namespace / names[3])
    os.mknod(namespace / names[4], stat.S_IFSOCK | 0o600)
    words = Damaged(namespace / "jobs", [(HEADER, HEADER + 512)]).words
    choose = random.Random(SEED)
    users = [
        spawn("""
        import sys, isthmus
        with isthmus.Queue.open("jobs", type=bytes) as q:
            for line in sys.stdin:
                q.put(line.strip().encode())
                print("put", flush=True)
    """)
        for _ in range(2)
    ]
    with watched(peer, grows_by=8 << 20):
        for number in range(50):
            for index in range(8, 256):
                if words[4096 // 8 + index * 4] == 0 or choose.random() < 0.5:
                    words[4096 // 8 + index * 4 + 1] = BELL
                    words[4096 // 8 + index * 4 + 2] = choose.getrandbits(64)
                    words[4096 // 8 + index * 4 + 3] = choose.randrange(8)
            for point in POINTS:
                words[(HEADER + point) // 8] |= choose.getrandbits(32) << 32
            user = users[number % 2]
            user.send(str(number))
            user.expect("put")
            peer.expect(f"got {number + 1}")
    for user in users:
        user.finish()
    assert (namespace / names[0]).read_bytes() == b"mine"
    for name in (names[0], names[1], names[2], names[4]):
        assert os.path.lexists(namespace / name)
    finish(jobs, peer)


def test_a_flood_in_a_bell_costs_no_memory_and_the_loop_goes_on(
    namespace: Path, jobs: isthmus.Queue[bytes], spawn: Start
) -> None:
    """Who rings without end keeps a loop busy, and no more than that."""
    peer, bell = waiting_loop(namespace, spawn)
    flood = spawn(
        """
        import os, sys
        descriptor = os.open(sys.argv[1], os.O_WRONLY)
        print("ready", flush=True)
        while True:
            os.write(descriptor, os.urandom(4096))
        """,
        bell,
    )
    flood.expect("ready")
    with watched(peer, grows_by=8 << 20):
        for number in range(50):
            jobs.put(str(number).encode())
            peer.expect(f"got {number + 1}")
    flood.kill()
    finish(jobs, peer)


def test_a_namespace_full_of_bells_is_swept_and_listed(namespace: Path, jobs: isthmus.Queue[bytes]) -> None:
    for number in range(500):
        os.mkfifo(namespace / f".bell-{number:016x}")
    (namespace / ".bell-").write_bytes(b"mine")
    assert [entry.name for entry in isthmus.objects()] == ["jobs"]
    isthmus.clean()
    assert [entry.name for entry in namespace.glob(".bell-*")] == [".bell-"]
