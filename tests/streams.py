"""What the tests of pipes and FIFOs share, and run in threads and other processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import termios
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import isthmus
from support import PATIENCE, wait_until

SIZES = [0, 1, 4, 100, 4083, 4084, 4085, 4092, 65_524, 65_528, 65_536, 300_000, 1_500_000, 7, 7]
"""Of blobs, which have 8 bytes more: around PIPE_BUF, around what is read ahead, beyond every capacity."""

SENDER = """
    import isthmus, sys
    sys.path.insert(0, sys.argv[1])
    from streams import blob
    writer = isthmus.Fifo.open(sys.argv[2], type=bytes).writer(20)
    first, count, size = map(int, sys.argv[3:6])
    print("open", flush=True)
    for number in range(first, first + count):
        writer.send(blob(number, size))
    """
"""Sends blobs through a FIFO. Arguments: the folder of the tests, the path, first number, how many, size."""


def blob(number: int, size: int) -> bytes:
    """A message that tells its number and proves itself: nothing of it may be missing or another's."""
    pattern = (number * 2654435761 % (1 << 32)).to_bytes(4, "little")
    return number.to_bytes(4, "little") + size.to_bytes(4, "little") + (pattern * (size // 4 + 1))[:size]


def number_of(message: bytes) -> int:
    """The number of a blob; AssertionError when it is torn."""
    number = int.from_bytes(message[:4], "little")
    size = int.from_bytes(message[4:8], "little")
    assert message == blob(number, size), f"torn: {len(message)} bytes, {message[:16]!r}…"
    return number


def echo_back(end: isthmus.PipeEnd[Any, Any]) -> None:
    """Sends back what comes, until the end."""
    with end:
        for message in end:
            end.send(message)


def send_blobs(writer: isthmus.PipeWriter[bytes], sizes: list[int]) -> None:
    """Sends one blob of each size, and closes."""
    with writer:
        for number, size in enumerate(sizes):
            writer.send(blob(number, size))


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Starts a thread that does not outlive the tests."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def when_some_is_inside(
    end: isthmus.PipeWriter[Any] | isthmus.FifoReader[Any], call: Callable[[], object]
) -> None:
    """Waits until a part of a large message stands in the pipe of this end, and calls."""
    room = bytearray(4)

    def inside() -> int:
        fcntl.ioctl(end.fileno(), termios.FIONREAD, room)
        return int.from_bytes(room, sys.byteorder)

    wait_until(lambda: inside() >= 4096, "a part of the message to be inside")
    call()


def fill(writer: isthmus.PipeWriter[bytes] | isthmus.FifoWriter[bytes]) -> int:
    """Sends messages until there is no room; says how many went."""
    count = 0
    while True:
        try:
            writer.send(b"x" * 1000, timeout=0)
        except isthmus.Full:
            return count
        count += 1


def note(found: list[type[BaseException]], call: Callable[..., object], *args: object) -> None:
    """Writes down the type of what a call raises."""
    try:
        call(*args)
    except isthmus.IsthmusError as error:
        found.append(type(error))


def receive_under_ctrl_c(reader: Any, writer_of_child: Callable[[], Any]) -> None:
    """Receives what a forked child sends, while Ctrl+C is pressed: nothing is torn or comes twice.

    Of an interrupted `recv` one message at most is gone: the one that it was about to return.
    """
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        reader.close()
        writer, number = writer_of_child(), 0
        while True:
            writer.send(blob(number, number * 37 % (300 if number % 10 else 9000)))
            number += 1
    stop, go = threading.Event(), threading.Event()

    def press() -> None:
        go.wait()
        while not stop.wait(random.random() * 0.002):
            os.kill(os.getpid(), signal.SIGINT)

    signals = in_thread(press)
    pressed, last, got = 0, -1, 0
    done = False
    while not done:
        try:  # around the loop: Python looks for signals where that jumps back
            go.set()
            while pressed < 200 or got < 5000:
                number = number_of(reader.recv(20))
                assert number > last, (number, last)
                last = number
                got += 1
            stop.set()
            signals.join()
            done = True
        except KeyboardInterrupt:
            pressed += 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert last + 1 - got <= pressed, (last, got, pressed)


@contextlib.contextmanager
def program(code: str, *args: object, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program with the streams that are given; ended on leaving."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)]
    process = subprocess.Popen(command, **streams)
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def compiled(source: str, where: Path) -> Path:
    """A C program, compiled."""
    path = where / "program"
    (where / "program.c").write_text(textwrap.dedent(source))
    subprocess.run(["cc", "-Wall", "-Werror", "-o", path, where / "program.c"], check=True)
    return path


def open_fds() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
