"""`Pipe`: bytes or messages between related processes, and to and from the standard streams of any program.

What messages look like in a pipe is said in `_pipe_ends.py`.
"""

import os
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from . import _descriptors as descriptors
from ._errors import NoSpaceError
from ._pipe_ends import LIMIT, PipeReader, PipeWriter
from ._stream import AHEAD

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Pipe", "PipeEnd", "PipeReader", "PipeWriter"]

T = TypeVar("T")
S = TypeVar("S")

_CAPACITY = 1 << 18
"""What a pipe is made with where nobody says and the user may have it: the kernel's own default is 64 KiB."""


class PipeEnd(Generic[S, T]):
    """One end of a two-way pipe: `S` is what it sends, `T` what it receives. See `Pipe.two_way`."""

    def __init__(self, reader: "PipeReader[T]", writer: "PipeWriter[S]") -> None:
        self._reader = reader
        self._writer = writer

    @property
    def reader(self) -> "PipeReader[T]":
        """What comes from the other end: `subprocess.Popen(stdin=end.reader)`."""
        return self._reader

    @property
    def writer(self) -> "PipeWriter[S]":
        """What goes to the other end: `subprocess.Popen(stdout=end.writer)`."""
        return self._writer

    def send(self, message: S, timeout: float | None = None) -> None:
        """Sends a message to the other end, as `PipeWriter.send` does."""
        self._writer.send(message, timeout)

    def recv(self, timeout: float | None = None) -> T:
        """The next message from the other end, as `PipeReader.recv` does."""
        return self._reader.recv(timeout)

    def write(self, data: "Buffer", timeout: float | None = None) -> int:
        """Writes bytes to the other end, as `PipeWriter.write` does."""
        return self._writer.write(data, timeout)

    def read(self, size: int = AHEAD, timeout: float | None = None) -> bytes:
        """Bytes from the other end, as `PipeReader.read` does."""
        return self._reader.read(size, timeout)

    def readline(self, timeout: float | None = None) -> bytes:
        """A line from the other end, as `PipeReader.readline` does."""
        return self._reader.readline(timeout)

    def __iter__(self) -> Iterator[T]:
        """Every message from the other end, or every line where it has no type."""
        return iter(self._reader)

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something to receive."""
        return self._reader.fileno()

    @property
    def closed(self) -> bool:
        """Whether both directions are closed here."""
        return self._reader.closed and self._writer.closed

    def close(self) -> None:
        """Closes both directions in this process."""
        self._writer.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._reader, self._writer)

    def __repr__(self) -> str:
        return f"<isthmus.PipeEnd {'(closed)' if self.closed else f'of {self._reader!r}, {self._writer!r}'}>"


class Pipe(Generic[T]):
    """A one-way pipe: what goes in at `writer` comes out at `reader`, in this process and in related ones.

    `reader, writer = isthmus.Pipe()` carries bytes; `isthmus.Pipe(type=Job)` carries messages: `bytes` or
    other buffers as they are, a `msgspec.Struct`, dataclass or builtin type encoded and validated on receipt,
    arrays, `object` by pickle, a `Codec` of your own. `limit` is the most bytes of a message, `capacity` what
    the kernel's buffer takes (256 KiB where the user may have that; `NoSpaceError` names the limit).

    The ends go to children by fork, and by pickling where multiprocessing spawns them, and are standard
    streams of any program: `subprocess.Popen(…, stdin=pipe.reader)`. The end of the stream comes when every
    copy of the writing end is closed: a process keeps one end and closes the other, `pipe.as_reader()` does
    both. See pipe(7).
    """

    reader: PipeReader[T]
    writer: PipeWriter[T]

    @overload
    def __init__(self, *, type: type[T], capacity: int | None = None, limit: int = LIMIT) -> None: ...
    @overload
    def __init__(
        self: "Pipe[Any]", *, type: Any = None, capacity: int | None = None, limit: int = LIMIT
    ) -> None: ...
    def __init__(self, *, type: Any = None, capacity: int | None = None, limit: int = LIMIT) -> None:
        self.reader, self.writer = _pair(type, capacity, limit)

    @classmethod
    def two_way(
        cls,
        *,
        type: Any = None,
        back: Any = None,
        capacity: int | None = None,
        limit: int = LIMIT,
    ) -> tuple[PipeEnd[Any, Any], PipeEnd[Any, Any]]:
        """Two ends, each of which sends to the other: `ours, theirs = isthmus.Pipe.two_way(type=Job)`.

        It is made of two pipes. The first end sends `type` and receives `back`, which is the same where it is
        not given.
        """
        there = _pair(type, capacity, limit)
        try:
            here = _pair(type if back is None else back, capacity, limit)
        except BaseException:
            for end in there:
                end.close()
            raise
        return PipeEnd(here[0], there[1]), PipeEnd(there[0], here[1])

    def as_reader(self) -> PipeReader[T]:
        """The reading end, after closing the writing one in this process."""
        self.writer.close()
        return self.reader

    def as_writer(self) -> PipeWriter[T]:
        """The writing end, after closing the reading one in this process."""
        self.reader.close()
        return self.writer

    @property
    def closed(self) -> bool:
        """Whether both ends are closed here."""
        return self.reader.closed and self.writer.closed

    def close(self) -> None:
        """Closes both ends in this process."""
        self.writer.close()
        self.reader.close()

    def __iter__(self) -> Iterator[Any]:
        """Reader and writer, to be unpacked."""
        return iter((self.reader, self.writer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _pipe, (self.reader, self.writer)

    def __repr__(self) -> str:
        return f"<isthmus.Pipe {'(closed)' if self.closed else f'of {self.reader!r}, {self.writer!r}'}>"


def _pipe(reader: PipeReader[T], writer: PipeWriter[T]) -> Pipe[T]:
    pipe: Pipe[T] = Pipe.__new__(Pipe)
    pipe.reader, pipe.writer = reader, writer
    return pipe


def _pair(type: Any, capacity: int | None, limit: int) -> tuple[PipeReader[Any], PipeWriter[Any]]:
    fds = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            descriptors.set_capacity(fds[0], _CAPACITY if capacity is None else capacity)
        except NoSpaceError:
            if capacity is not None:
                raise
        return PipeReader(fds[0], type=type, limit=limit), PipeWriter(fds[1], type=type, limit=limit)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
