"""Cutting input into messages, and writing messages out: lines, records that end with NUL, or the whole."""

from __future__ import annotations

import os
import select
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from isthmus.cli._show import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isthmus.cli._signals import Deferring

CHUNK = 64 << 10
ATOMIC = 4096
"""PIPE_BUF: where poll(2) says that a pipe can be written, so many bytes can without blocking (pipe(7))."""


class Input:
    """The pieces of a stream. `number` is that of the piece handed out last, from 1."""

    what = "line"

    def __init__(self, stream: BinaryIO, limit: int | None) -> None:
        """`limit`: no message has more bytes; of a longer piece only the beginning is read."""
        self.number = 0
        self._stream = stream
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        limit = -1 if self._limit is None else self._limit + 2
        for line in iter(partial(self._stream.readline, limit), b""):
            self.number += 1
            yield line.removesuffix(b"\n")

    def _goes_on(self, length: int) -> bool:
        return self._limit is None or length <= self._limit


class NullInput(Input):
    """Pieces that end with a NUL byte; the last one may do without."""

    what = "record"

    def __iter__(self) -> Iterator[bytes]:
        rest: list[bytes] = []
        length = 0
        # What is there is handed out, also where the stream is a pipe that goes on.
        while self._goes_on(length) and (part := os.read(self._stream.fileno(), CHUNK)):
            *pieces, last = part.split(b"\0")
            for piece in pieces:
                self.number += 1
                yield b"".join((*rest, piece))
                rest, length = [], 0
            rest.append(last)
            length += len(last)
        if length:
            self.number += 1
            yield b"".join(rest)


class WholeInput(Input):
    """All of the stream as one piece, an empty one too."""

    what = "input"

    def __iter__(self) -> Iterator[bytes]:
        self.number = 1
        parts: list[bytes] = []
        length = 0
        while self._goes_on(length) and (part := self._stream.read(CHUNK)):
            parts.append(part)
            length += len(part)
        yield b"".join(parts)


class Output:
    """A descriptor to which messages are written one by one; each is done when the system has all of it."""

    def __init__(self, fd: int, end: bytes, signals: Deferring) -> None:
        self._end = end
        self._fd = fd
        self._signals = signals
        try:
            mode = os.fstat(fd).st_mode
        except OSError as error:
            raise CommandError(f"standard output cannot be written: {error.strerror}") from None
        self.may_break = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        """Whether somebody reads the other end, who may go away."""
        self._chunk = None if stat.S_ISREG(mode) else ATOMIC
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def wait_writable(self) -> None:
        """Wait until something can be written; `BrokenPipeError` where nobody reads any more."""
        if self._chunk is None:
            return
        for _, events in self._poll.poll():
            if events & ~select.POLLOUT:
                raise BrokenPipeError

    def write(self, message: bytes, done: Callable[[], None]) -> None:
        """Write a message, and call `done` when all of it is written, before any signal is heeded.

        A signal may interrupt it before that, and it is not done. After `wait_writable`.
        """
        data = memoryview(message + self._end)
        while True:
            with self._signals.deferred:
                if data:
                    # A non-blocking descriptor has somebody else made so; nothing is written then.
                    with suppress(BlockingIOError):
                        data = data[os.write(self._fd, data[: self._chunk]) :]
                if not data:
                    done()
                    return
            self.wait_writable()
