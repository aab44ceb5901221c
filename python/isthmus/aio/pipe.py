"""`aio.Pipe`: pipes from asyncio."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

from isthmus import pipe as sync
from isthmus._descriptors import HasFileno, deadline_of, left
from isthmus._errors import Full, ShutDown, Unsupported
from isthmus._pipe_ends import LIMIT, at_least_1

from ._streams import Reads, Writes

__all__ = ["Pipe", "PipeEnd", "PipeReader", "PipeWriter"]

T = TypeVar("T")
S = TypeVar("S")


class PipeReader(Reads, Generic[T]):
    """The end of a pipe where things come out.

    `aio.PipeReader(reader)` wraps an open one, which goes on working; otherwise it takes what
    `isthmus.PipeReader` takes. A task that is cancelled loses nothing that was not handed over.
    """

    _end: sync.PipeReader[Any]

    def __init__(
        self, source: "sync.PipeReader[T] | int | HasFileno", *, type: Any = None, limit: int = LIMIT
    ) -> None:
        if isinstance(source, sync.PipeReader):
            self._end = source
        else:
            self._end = sync.PipeReader(source, type=type, limit=limit)

    @property
    def type(self) -> Any:
        """What messages are; None where bytes go through."""
        return self._end.type

    async def recv(self, timeout: float | None = None) -> T:
        """The next message; errors as those of `isthmus.PipeReader.recv`."""
        if self._end.type is None:
            raise Unsupported("bytes go through this pipe: take read(), or make it with a type")
        await self._turn()
        found: Any = self._end._next(False) or await self._until(self._end._message, timeout)
        return cast("T", found[0])

    @property
    def limit(self) -> int:
        """Bytes of the largest message."""
        return self._end.limit

    async def recv_many(self, most: int | None = None, timeout: float | None = None) -> list[T]:
        """The messages that are there, at most `most`, at least one: waits for it as `recv` does."""
        at_least_1(most)
        return self._end._and_more(await self.recv(timeout), most)

    async def __aiter__(self) -> AsyncIterator[T]:
        """Every message to the end; without a type every line."""
        if self._end.type is None:
            while line := await self.readline():
                yield cast("T", line)
            return
        while True:
            try:
                message = await self.recv()
            except ShutDown:
                return
            yield message


class PipeWriter(Writes, Generic[T]):
    """The end of a pipe where things go in.

    `aio.PipeWriter(writer)` wraps an open one, which goes on working; otherwise it takes what
    `isthmus.PipeWriter` takes.
    """

    _end: sync.PipeWriter[Any]

    def __init__(
        self, source: "sync.PipeWriter[T] | int | HasFileno", *, type: Any = None, limit: int = LIMIT
    ) -> None:
        if isinstance(source, sync.PipeWriter):
            self._end = source
        else:
            self._end = sync.PipeWriter(source, type=type, limit=limit)

    @property
    def type(self) -> Any:
        """What messages are; None where bytes go through."""
        return self._end.type

    async def send(self, message: T, timeout: float | None = None) -> None:
        """Sends a message: `Full`, `ShutDown`, `PeerDied`, `TooLarge` as `isthmus.PipeWriter.send`.

        When the task is cancelled the message was not sent, and nobody will receive it.
        """
        await self._transmit(self._end._cancellable(message), timeout, self._end._give_up)

    @property
    def limit(self) -> int:
        """Bytes of the largest message."""
        return self._end.limit

    async def send_many(self, messages: Sequence[T], timeout: float | None = None) -> None:
        """Sends messages with few system calls; `Full` says in `sent` how many went out before `timeout`."""
        deadline = deadline_of(timeout)
        sent = 0
        while sent < len(messages):
            count, sending = self._end._together(messages[sent : sent + 512])
            try:
                if sending is None:
                    await self.send(messages[sent], left(deadline))
                else:
                    await self._transmit(sending, left(deadline), self._end._give_up)
                sent += count
            except Full as error:
                error.sent = sent
                raise

    async def flush(self, timeout: float | None = None) -> None:
        """Waits until the rest of an interrupted message is in the pipe; `Full` after `timeout` seconds."""
        if (owed := self._end._owed()) is not None:
            await self._transmit(owed, timeout, lambda _sending, _error: None)


class PipeEnd(Generic[S, T]):
    """One end of a two-way pipe: `S` is what it sends, `T` what it receives."""

    reader: PipeReader[T]
    """What comes from the other end."""
    writer: PipeWriter[S]
    """What goes to the other end."""

    def __init__(self, end: "sync.PipeEnd[S, T]") -> None:
        self._end = end
        self.reader = PipeReader(end.reader)
        self.writer = PipeWriter(end.writer)

    @property
    def sync(self) -> Any:
        """The end for code that is not asynchronous."""
        return self._end

    async def send(self, message: S, timeout: float | None = None) -> None:
        """Sends a message to the other end."""
        await self.writer.send(message, timeout)

    async def recv(self, timeout: float | None = None) -> T:
        """The next message from the other end."""
        return await self.reader.recv(timeout)

    async def write(self, data: Any, timeout: float | None = None) -> int:
        """Writes bytes to the other end."""
        return await self.writer.write(data, timeout)

    async def read(self, size: int = 1 << 16, timeout: float | None = None) -> bytes:
        """Bytes from the other end."""
        return await self.reader.read(size, timeout)

    async def readline(self, timeout: float | None = None) -> bytes:
        """A line from the other end."""
        return await self.reader.readline(timeout)

    def __aiter__(self) -> AsyncIterator[T]:
        """Every message from the other end, or every line where it has no type."""
        return self.reader.__aiter__()

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something to receive."""
        return self.reader.fileno()

    @property
    def closed(self) -> bool:
        """Whether both directions are closed here."""
        return self._end.closed

    def close(self) -> None:
        """Closes both directions in this process."""
        self.writer.close()
        self.reader.close()

    async def __aenter__(self) -> "PipeEnd[S, T]":
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<isthmus.aio.PipeEnd of {self._end!r}>"


class Pipe(Generic[T]):
    """A one-way pipe: `aio.Pipe(pipe)` wraps one, `aio.Pipe(type=Job)` makes one as `isthmus.Pipe` does.

    `reader, writer = aio.Pipe()` works as there.
    """

    reader: PipeReader[T]
    """Where things come out."""
    writer: PipeWriter[T]
    """Where things go in."""

    def __init__(
        self,
        pipe: "sync.Pipe[T] | None" = None,
        *,
        type: Any = None,
        capacity: int | None = None,
        limit: int = LIMIT,
    ) -> None:
        made = sync.Pipe(type=type, capacity=capacity, limit=limit) if pipe is None else pipe
        self._pipe = made
        self.reader = PipeReader(made.reader)
        self.writer = PipeWriter(made.writer)

    @property
    def sync(self) -> Any:
        """The pipe for code that is not asynchronous."""
        return self._pipe

    def __iter__(self) -> Iterator[Any]:
        """Reader and writer, to be unpacked."""
        return iter((self.reader, self.writer))

    @classmethod
    def two_way(
        cls, *, type: Any = None, back: Any = None, capacity: int | None = None, limit: int = LIMIT
    ) -> "tuple[PipeEnd[Any, Any], PipeEnd[Any, Any]]":
        """Two ends, each of which sends to the other."""
        left, right = sync.Pipe.two_way(type=type, back=back, capacity=capacity, limit=limit)
        return PipeEnd(left), PipeEnd(right)

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
        return self._pipe.closed

    def close(self) -> None:
        """Closes both ends in this process."""
        self.writer.close()
        self.reader.close()

    async def __aenter__(self) -> "Pipe[T]":
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<isthmus.aio.Pipe of {self._pipe!r}>"
