"""The other end of the kernel's mechanisms hardly gets to run: everything comes late, whole and in order.

A starved process is one that is stopped again and again after a millisecond, a bounded number of times. What
is asked of it meanwhile comes back at its timeout (`Empty`, False) until it has answered, and loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import signals
from kernel_peers import fresh_name
from streams import blob, program
from support import PATIENCE, Peer, process_state, wait_until

Start = Callable[..., Peer]

TIMES = 40
RUNS, STOPS = 0.001, 0.008
SIZES = [0, 1, 100, 4080, 4090, 60_000, 300_000]


@contextlib.contextmanager
def starved(pid: int) -> Iterator[threading.Thread]:
    """Starves a process inside of the block, at most so many times; alive is the thread that does it."""
    over = threading.Event()

    def starve() -> None:
        with contextlib.suppress(ProcessLookupError), signals.ProcessHandle(pid) as process:
            for _ in range(TIMES):
                process.send(signal.SIGSTOP)
                over.wait(STOPS)
                process.send(signal.SIGCONT)
                if over.wait(RUNS):
                    return

    thread = threading.Thread(target=starve)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join()


def patiently(receive: Callable[[float], Any]) -> Any:
    """Asks again and again with a short timeout, as who has other things to do; so far it was `Empty`."""

    def ask() -> list[Any]:
        with contextlib.suppress(isthmus.Empty):
            return [receive(0.002)]
        return []

    return wait_until(ask, "an answer")[0]


def exchange(
    send: Callable[[Any, float], Any], receive: Callable[[float], Any], pid: int, sizes: list[int]
) -> None:
    """Sends and gets the same back, one by one and several at a time, while the other end is starved."""
    number = 0
    with starved(pid) as thread:
        while thread.is_alive() or number < len(sizes):
            several = [blob(number + n, sizes[(number + n) % len(sizes)]) for n in range(1 + number % 3)]
            for message in several:
                send(message, PATIENCE)
            for message in several:
                assert patiently(receive) == message
            number += len(several)


def test_a_program_at_two_pipes() -> None:
    code = """
        import isthmus
        reader, writer = isthmus.PipeReader(0, type=bytes), isthmus.PipeWriter(1, type=bytes)
        writer.send(b"here")
        for message in reader:
            writer.send(message)
        """
    ours, theirs = isthmus.Pipe.two_way(type=bytes)
    with program(code, stdin=theirs.reader, stdout=theirs.writer) as process, ours:
        theirs.close()
        assert ours.recv(PATIENCE) == b"here"
        # Two large ones at a time would wait for each other, starved or not.
        exchange(ours.send, ours.recv, process.pid, SIZES[:5])
        exchange(ours.send, ours.recv, process.pid, [300_000, 10, 10])
        ours.close()
        assert process.wait(PATIENCE) == 0


def test_a_reader_and_a_writer_of_fifos(tmp_path: Path, spawn: Start) -> None:
    there, back = isthmus.Fifo(tmp_path / "there", type=bytes), isthmus.Fifo(tmp_path / "back", type=bytes)
    with there, back:
        receiver = back.reader()
        peer = spawn(
            """
            import isthmus, sys
            there, back = (isthmus.Fifo.open(path, type=bytes) for path in sys.argv[1:])
            reader = there.reader()
            writer = back.writer(20)
            print("here", flush=True)
            while message := reader.recv(30):
                writer.send(message, 30)
            """,
            there.path,
            back.path,
        )
        sender = there.writer(PATIENCE)
        peer.expect("here")
        exchange(sender.send, receiver.recv, peer.pid, [1, 100, 4080, 4090, 60_000])
        sender.send(b"", PATIENCE)
        peer.finish()


def test_who_gets_and_puts_at_queues_of_the_kernel(spawn: Start) -> None:
    name = fresh_name()
    with isthmus.PosixQueue(name) as there, isthmus.PosixQueue(f"{name}-back") as back:
        try:
            peer = spawn(
                """
                import isthmus, sys
                there, back = (isthmus.PosixQueue.open(sys.argv[1] + end) for end in ("", "-back"))
                print("here", flush=True)
                while message := there.get(30):
                    back.put(message, 30)
                """,
                name,
            )
            peer.expect("here")
            exchange(there.put, back.get, peer.pid, [1, 100, 4000, 8184])
            there.put(b"", PATIENCE)
            peer.finish()
        finally:
            there.unlink()
            back.unlink()


def test_two_who_take_turns_by_semaphores_at_shared_memory(spawn: Start) -> None:
    name = fresh_name()
    mine, yours = isthmus.NamedSemaphore(f"{name}-mine", 0), isthmus.NamedSemaphore(f"{name}-yours", 0)
    memory = isthmus.SharedMemory(f"posix-shm://{name}", 8)
    try:
        peer = spawn(
            """
            import isthmus, sys
            mine, yours = (isthmus.NamedSemaphore.open(sys.argv[1] + end) for end in ("-mine", "-yours"))
            number = isthmus.SharedMemory.open(f"posix-shm://{sys.argv[1]}").view("q")
            print("here", flush=True)
            while yours.acquire(30) and number[0] >= 0:
                number[0] += 1
                mine.release()
            """,
            name,
        )
        peer.expect("here")
        number, turns = memory.view("q"), 0
        with starved(peer.pid) as thread:
            while thread.is_alive() or turns < 50:
                number[0] += 1
                yours.release()
                wait_until(lambda: mine.acquire(0.002), "my turn")
                turns += 1
                assert number[0] == 2 * turns
        number[0] = -1
        yours.release()
        peer.finish()
    finally:
        for each in (mine, yours, memory):
            each.unlink()


def test_two_who_count_under_a_lock_on_a_file(tmp_path: Path, spawn: Start) -> None:
    with isthmus.MappedFile(tmp_path / "count", 16) as file:
        numbers, lock = file.view("q"), file.lock(0, 16)
        peer = spawn(
            """
            import isthmus, sys
            file = isthmus.MappedFile(sys.argv[1])
            numbers, lock = file.view("q"), file.lock(0, 16)
            print("here", flush=True)
            mine = 0
            while not numbers[1]:
                with lock:
                    numbers[0] += 1
                mine += 1
            print(mine, flush=True)
            """,
            file.path,
        )
        peer.expect("here")
        taken = 0
        with starved(peer.pid) as thread:
            while thread.is_alive() or not taken:
                if lock.acquire(0.002):  # stopped while it holds the lock, the other keeps it
                    numbers[0] += 1
                    taken += 1
                    lock.release()
        with lock:
            numbers[1] = 1
        its = int(peer.finish())
        assert numbers[0] == taken + its


def test_numbers_on_signals_and_back(spawn: Start) -> None:
    number = signal.SIGRTMIN + 4
    with signals.Receiver(number) as receiver:
        with signals.children():
            peer = spawn(
                """
                import signal, sys
                from isthmus import signals
                number, parent = signal.SIGRTMIN + 4, int(sys.argv[1])
                with signals.Receiver(number) as receiver, signals.ProcessHandle(parent) as handle:
                    print("here", flush=True)
                    while (value := receiver.get(30).value) >= 0:
                        handle.sigqueue(number, 2 * value, timeout=30)
                """,
                os.getpid(),
            )
        peer.expect("here")
        sent = 0
        with starved(peer.pid) as thread, signals.ProcessHandle(peer.pid) as handle:
            while thread.is_alive() or sent < 100:
                for value in range(sent, sent + 10):
                    handle.sigqueue(number, value, timeout=PATIENCE)
                assert [patiently(receiver.get).value for _ in range(10)] == [
                    2 * value for value in range(sent, sent + 10)
                ]
                sent += 10
            handle.sigqueue(number, -1)
        peer.finish()


def test_a_program_in_a_pipeline() -> None:
    lines = [b"%d\n" % number for number in range(100_000)]
    with isthmus.pipeline("cat", lambda taken: taken, "cat", input=lines) as running:
        (victim,) = [stage.pid for stage in running.progress()[-1:] if stage.pid is not None]
        with starved(victim):
            assert list(running) == lines
        assert running.exit_codes == [0, 0, 0]
        wait_until(lambda: process_state(victim) in ("", "Z"), "it to end")


@pytest.mark.parametrize("grown", ["mine", "its"])
def test_memory_that_grows_meanwhile(spawn: Start, grown: str) -> None:
    with isthmus.SharedMemory("m", 100) as memory:
        peer = spawn(
            """
            import isthmus, sys
            memory = isthmus.SharedMemory.open("m")
            print("here", flush=True)
            while memory[0] == 0:
                if sys.argv[1] == "its":
                    memory.grow(min(memory.size + 1000, 2_000_000))
                view = memory.view()
                view[len(view) - 1] |= 1
            """,
            grown,
        )
        peer.expect("here")
        with starved(peer.pid) as thread:
            size = memory.size
            while thread.is_alive():
                if grown == "mine":
                    memory.grow(min(size + 1000, 2_000_000))
                assert memory.size >= size
                size = memory.size
                assert len(memory.view()) >= size
        memory[0] = 1
        peer.finish()
