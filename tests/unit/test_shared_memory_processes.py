"""`SharedMemory` between processes: handed on, killed, growing at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forking
import isthmus
from support import HEADER, Peer, get_word, object_files, wait_until
from workers import fill_memory

Start = Callable[..., Peer]

CONTENT = HEADER + 4096
"""Where the content of a named one begins in its file."""

MAKERS: list[Any] = [
    pytest.param(lambda size: isthmus.SharedMemory("m", size), id="named"),
    pytest.param(lambda size: isthmus.SharedMemory(size=size), id="anonymous"),
]


def has_grown(memory: isthmus.SharedMemory, before: int) -> Callable[[], bool]:
    return lambda: memory.size > before


def test_processes_that_grow_at_once_end_at_the_largest(spawn: Start) -> None:
    code = """
        import sys, isthmus
        memory = isthmus.SharedMemory.open("m")
        print("ready", flush=True)
        sys.stdin.readline()
        for step in range(200):
            size = 1000 + step * 997 + int(sys.argv[1])
            assert memory.grow(size) >= size
            memory.view()[size - 1] = 1
        memory.close()
    """
    with isthmus.SharedMemory("m", 0) as memory:
        peers = [spawn(code, number) for number in range(3)]
        for peer in peers:
            peer.expect("ready")
        for peer in peers:
            peer.send()
        for peer in peers:
            peer.finish()
        assert memory.size == 1000 + 199 * 997 + 2
        view = memory.view()
        assert all(view[1000 + step * 997 + n - 1] == 1 for step in range(200) for n in range(3))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("make", MAKERS)
def test_it_goes_to_processes_of_every_start_method(
    make: Callable[[int], isthmus.SharedMemory], method: str
) -> None:
    with make(100) as memory:
        context: Any = multiprocessing.get_context(method)
        children = [context.Process(target=fill_memory, args=(memory, n)) for n in (1, 2, 3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        assert bytes(memory[:5]) == b"\0\1\2\3\0"
        assert memory.size == 103


@pytest.mark.parametrize("make", MAKERS)
def test_a_forked_child_has_handle_and_views(make: Callable[[int], isthmus.SharedMemory]) -> None:
    name = {"m": '"m", ', None: "size="}[make(1).name]
    out = forking.run(f"""
memory = isthmus.SharedMemory({name}100)
view = memory.view()
def work():
    view[0] = 1
    memory[1] = 2
    memory.grow(200)
    memory[199] = 3
    memory.close()
    view[2] = 4
join(child(work))
assert bytes(view[:3]) == b"\\1\\2\\4" and memory[199] == 3 and memory.size == 200
memory.close()
view[3] = 5
say("fine")
""")
    assert out == "fine\n"


def test_a_name_lives_while_a_forked_child_has_it(namespace: Path) -> None:
    forking.run("""
memory = isthmus.SharedMemory("m", 100)
r, w = os.pipe()
def work():
    os.close(w)
    os.read(r, 1)
    assert os.path.exists(os.environ["ISTHMUS_NAMESPACE"] + "/m")
    memory.close()
    assert not os.path.exists(os.environ["ISTHMUS_NAMESPACE"] + "/m")
pid = child(work)
memory.close()
os.write(w, b"x")
join(pid)
""")
    assert object_files(namespace) == []


def test_an_anonymous_address_leads_nowhere_once_the_sender_is_done(spawn: Start) -> None:
    memory = isthmus.SharedMemory(size=10)
    address = pickle.dumps(memory)
    memory.close()
    decoys = [isthmus.SharedMemory(size=10) for _ in range(5)]  # one has the number again
    with pytest.raises(FileNotFoundError, match="sender"):
        pickle.loads(address)
    del decoys
    peer = spawn("""
        import pickle, sys, isthmus
        print(pickle.dumps(isthmus.SharedMemory(size=10)).hex(), flush=True)
    """)
    address = bytes.fromhex(peer.line())
    peer.finish()
    with pytest.raises(FileNotFoundError, match="sender"):
        pickle.loads(address)


def test_a_killed_user_leaves_content_and_no_name(namespace: Path, spawn: Start) -> None:
    peer = spawn("""
        import sys, isthmus
        memory = isthmus.SharedMemory("m", 100)
        memory[0:5] = b"alive"
        print("written", flush=True)
        sys.stdin.readline()
    """)
    peer.expect("written")
    with isthmus.SharedMemory.open("m") as memory:
        peer.kill()
        assert bytes(memory[:5]) == b"alive"
        memory.grow(200)
        assert bytes(memory[:5]) == b"alive"
        (found,) = isthmus.objects()
        assert [pid for pid, _ in found.attached] == [os.getpid()]
    assert object_files(namespace) == []


def test_the_name_of_a_killed_only_user_is_cleaned(namespace: Path, spawn: Start) -> None:
    peer = spawn("""
        import sys, isthmus
        memory = isthmus.SharedMemory("m", 100)
        memory[0] = 1
        print("written", flush=True)
        sys.stdin.readline()
    """)
    peer.expect("written")
    peer.kill()
    assert object_files(namespace) == ["m"]
    assert isthmus.clean() == ["m"]
    with isthmus.SharedMemory("m", 100) as memory:
        assert memory[0] == 0


def test_killed_while_it_grows_the_others_grow_on(namespace: Path, spawn: Start) -> None:
    """Wherever it was killed, the size has memory under it, and what was there is unharmed."""
    code = """
        import sys, isthmus
        memory = isthmus.SharedMemory.open("m")
        print("ready", flush=True)
        for _ in range(300):  # not all there is, should it be killed late
            memory.grow(memory.size + 50_000)
        sys.stdin.readline()
    """
    with isthmus.SharedMemory("m", 10) as memory:
        memory[0:4] = b"safe"
        for _ in range(10):
            peer = spawn(code)
            peer.expect("ready")
            before = memory.size
            wait_until(has_grown(memory, before), "it to grow")
            peer.kill()
            size = memory.size
            assert get_word(namespace / "m", HEADER) == size
            assert (namespace / "m").stat().st_size >= CONTENT + size
            view = memory.view()
            assert view[size - 1] == 0
            assert memory.grow(size + 1) == size + 1
            assert bytes(memory[:4]) == b"safe"


def test_a_descriptor_from_another_program_is_memory_too() -> None:
    ours, theirs = socket.socketpair()
    fd = os.memfd_create("foreign")
    os.ftruncate(fd, 100)
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [fd])
        _, (received,), _, _ = socket.recv_fds(theirs, 1, 1)
    with isthmus.SharedMemory.from_fd(received) as memory:
        os.close(received)
        memory[0:2] = b"hi"
        assert os.pread(fd, 2, 0) == b"hi"
        memory.grow(200)
        assert os.fstat(fd).st_size == 200
        with pickle.loads(pickle.dumps(memory)) as other:
            assert bytes(other[:2]) == b"hi"
    only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with isthmus.SharedMemory.from_fd(only) as memory:
        assert memory.readonly
        with pytest.raises(TypeError, match="read-only"):
            memory[0] = 1
    os.close(only)
    with isthmus.SharedMemory.from_fd(fd) as memory:
        os.ftruncate(fd, 1 << 20)
        memory.view()
        assert os.fstat(fd).st_blocks * 512 >= 1 << 20, "ftruncate reserves nothing, we do"
    os.close(fd)
    reading, writing = os.pipe()
    with pytest.raises(ValueError, match="pipe"):
        isthmus.SharedMemory.from_fd(reading)
    os.close(reading)
    os.close(writing)


def test_descriptors_closed_by_somebody_else_harm_no_other_file(tmp_path: Path) -> None:
    memory = isthmus.SharedMemory(size=10)
    number = memory.fileno()
    os.close(number)
    other = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    assert other == number
    with pytest.raises(OSError, match="descriptor"):
        memory.view()
    memory.close()
    os.write(other, b"still mine")
    os.close(other)


def test_nothing_of_multiprocessing_is_started_or_told(spawn: Start) -> None:
    """No resource tracker: nothing destroys memory behind our back when some process ends."""
    spawn("""
        import sys, isthmus
        with isthmus.SharedMemory("m", 10) as a, isthmus.SharedMemory(size=10) as b:
            a.view(), b.view()
        assert "multiprocessing" not in sys.modules and "numpy" not in sys.modules
    """).finish()
