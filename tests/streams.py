"""What the tests of pipes and FIFOs run in other processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import isthmus
from support import PATIENCE


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
