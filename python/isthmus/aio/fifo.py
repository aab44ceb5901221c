"""`aio.Fifo`: FIFOs from asyncio."""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar, cast

from isthmus import _fifo_calls as calls
from isthmus import fifo as sync
from isthmus._descriptors import SLICE, deadline_of, left
from isthmus._errors import ClosedError, Empty, Full, PeerDied, ShutDown, Timeout, Unsupported
from isthmus.fifo import LIMIT

from ._ready import writable
from ._streams import Reads, Writes, again

__all__ = ["Fifo", "FifoClient", "FifoReader", "FifoRequest", "FifoServer", "FifoWriter"]

S = TypeVar("S")
T = TypeVar("T")


class FifoReader(Reads, Generic[T]):
    """The end of a FIFO where things come out: `aio.FifoReader(reader)`, or `await aio.Fifo(…).reader()`."""

    _end: sync.FifoReader[Any]

    def __init__(self, reader: "sync.FifoReader[T]") -> None:
        self._end = reader

    @property
    def abandoned(self) -> int:
        """Messages that were forgotten incomplete, because their sender died or gave them up."""
        return self._end.abandoned

    async def recv(self, timeout: float | None = None) -> T:
        """The next message: `Empty`, `InvalidMessage`, `ShutDown` as `isthmus.FifoReader.recv`."""
        if not self._end._framed:
            raise Unsupported("bytes go through this FIFO: take read(), or open it with a type")
        await self._turn()
        if found := self._end._next(False):
            return cast("T", found[0])
        return cast("T", self._end._decoded(await self._until(self._end._message, timeout)))

    async def __aiter__(self) -> AsyncIterator[T]:
        """Every message to the end; without a type every line."""
        if not self._end._framed:
            while line := await self.readline():
                yield cast("T", line)
            return
        while True:
            try:
                message = await self.recv()
            except ShutDown:
                return
            yield message


class FifoWriter(Writes, Generic[T]):
    """The end of a FIFO where things go in: `aio.FifoWriter(writer)`, or `await aio.Fifo(…).writer()`."""

    _end: sync.FifoWriter[Any]

    def __init__(self, writer: "sync.FifoWriter[T]") -> None:
        self._end = writer

    async def send(self, message: T, timeout: float | None = None) -> None:
        """Sends a message: `Full`, `ShutDown`, `PeerDied`, `TooLarge` as `isthmus.FifoWriter.send`.

        When the task is cancelled the message was not sent, and nobody will receive it.
        """
        deadline = deadline_of(timeout)
        await self._turn()
        steps = self._end._steps(message)
        try:
            for what in steps:
                if what == "reader":
                    await again(deadline, Full("nobody reads the FIFO"))
                elif not await writable(self._end._open_fd(), left(deadline)):
                    raise Full("no room came in time")
        except BaseException as error:
            with contextlib.suppress(StopIteration):
                steps.throw(error)
            raise


class Fifo(Generic[T]):
    """A named pipe: `aio.Fifo(fifo)` wraps one, `aio.Fifo(path, …)` takes what `isthmus.Fifo` takes."""

    def __init__(
        self,
        fifo: "sync.Fifo[T] | str | os.PathLike[str]",
        *,
        type: Any = None,
        mode: int = 0o600,
        limit: int = LIMIT,
    ) -> None:
        self._fifo: sync.Fifo[Any] = (
            fifo if isinstance(fifo, sync.Fifo) else sync.Fifo(fifo, type=type, mode=mode, limit=limit)
        )

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, type: Any = None, mode: int = 0o600, limit: int = LIMIT
    ) -> "Fifo[Any]":
        """Makes the FIFO; FileExistsError where something has that path."""
        return cls(sync.Fifo.create(path, type=type, mode=mode, limit=limit))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, type: Any = None, limit: int = LIMIT) -> "Fifo[Any]":
        """Takes the FIFO that exists; FileNotFoundError where there is none."""
        return cls(sync.Fifo.open(path, type=type, limit=limit))

    @property
    def sync(self) -> Any:
        """The FIFO for code that is not asynchronous."""
        return self._fifo

    @property
    def path(self) -> str:
        """Where it is."""
        return self._fifo.path

    @property
    def type(self) -> Any:
        """What messages are; None where bytes go through."""
        return self._fifo.type

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._fifo.closed

    async def reader(
        self, timeout: float | None = None, *, ends_with_writers: bool = False
    ) -> "FifoReader[T]":
        """Opens the end to read from; waits only while another process reads messages from it."""
        deadline = deadline_of(timeout)
        while True:
            try:
                return FifoReader(self._fifo.reader(0, ends_with_writers=ends_with_writers))
            except Timeout as late:
                await again(deadline, late)

    async def writer(self, timeout: float | None = None, *, patient: bool = False) -> "FifoWriter[T]":
        """Opens the end to write to, as soon as somebody reads; `Timeout` after `timeout` seconds."""
        deadline = deadline_of(timeout)
        while True:
            try:
                return FifoWriter(self._fifo.writer(0, patient=patient))
            except Timeout as late:
                await again(deadline, late)

    def close(self) -> None:
        """Closes the ends that were opened through this handle. The FIFO stays."""
        self._fifo.close()

    def unlink(self) -> None:
        """Removes the FIFO from the file system. `FileNotFoundError` where it is gone."""
        self._fifo.unlink()

    async def __aenter__(self) -> "Fifo[T]":
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<isthmus.aio.Fifo of {self._fifo!r}>"


class FifoRequest(Generic[S, T]):
    """A request that a server has received: `message`, and `await reply(…)` for the answer."""

    def __init__(self, request: "calls.FifoRequest[S, T]") -> None:
        self._request = request

    @property
    def message(self) -> S:
        """What the client asks."""
        return self._request.message

    async def reply(self, answer: T, timeout: float | None = 1.0) -> bool:
        """Answers; False where the client has gone, `Full` when it does not take it in time."""
        request = self._request
        writer = request._server._writer_to(request._name)
        if writer is None:
            return False
        with writer:
            try:
                await FifoWriter(writer).send(request._server._reply_data(request._number, answer), timeout)
            except (ShutDown, PeerDied):
                return False
        return True


class FifoServer(Generic[S, T]):
    """Receives requests: `aio.FifoServer(server)` wraps one, or takes what `isthmus.FifoServer` takes.

    Opening does not wait: `Timeout` where another process serves.
    """

    def __init__(self, server: "calls.FifoServer[S, T] | str | os.PathLike[str]", **options: Any) -> None:
        if isinstance(server, calls.FifoServer):
            self._server = server
        else:
            self._server = calls.FifoServer(server, **{"timeout": 0, **options})
        self._reader: FifoReader[bytes] = FifoReader(self._server._reader)

    @property
    def sync(self) -> Any:
        """The server for code that is not asynchronous."""
        return self._server

    @property
    def path(self) -> str:
        """Where clients ask."""
        return self._server.path

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._server.closed

    async def recv(self, timeout: float | None = None) -> "FifoRequest[S, T]":
        """The next request; `Empty` when none came in `timeout` seconds."""
        return FifoRequest(self._server._parsed(await self._reader.recv(timeout)))

    async def __aiter__(self) -> "AsyncIterator[FifoRequest[S, T]]":
        """Every request, until the server is closed."""
        while not self._server.closed:
            try:
                request = await self.recv()
            except ClosedError:
                return
            yield request

    def close(self) -> None:
        """Ends this server; the FIFO stays for the next."""
        self._server.close()

    def unlink(self) -> None:
        """Removes the FIFO. `FileNotFoundError` where it is gone."""
        self._server.unlink()

    async def __aenter__(self) -> "FifoServer[S, T]":
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()


class FifoClient(Generic[S, T]):
    """Asks a server: `aio.FifoClient(client)` wraps one, or takes what `isthmus.FifoClient` takes.

    Opening does not wait: `Timeout` where nobody serves. One call at a time.
    """

    def __init__(self, client: "calls.FifoClient[S, T] | str | os.PathLike[str]", **options: Any) -> None:
        if isinstance(client, calls.FifoClient):
            self._client = client
        else:
            self._client = calls.FifoClient(client, **{"timeout": 0, **options})
        self._reader: FifoReader[bytes] = FifoReader(self._client._reader)
        self._writer: FifoWriter[bytes] = FifoWriter(self._client._writer)

    @property
    def sync(self) -> Any:
        """The client for code that is not asynchronous."""
        return self._client

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._client.closed

    async def call(self, message: S, timeout: float | None = None) -> T:
        """Asks, and waits for the reply; errors as those of `isthmus.FifoClient.call`."""
        deadline = deadline_of(timeout)
        request = self._client._request(message)
        await self._writer.send(request, left(deadline))
        while True:
            rest = left(deadline)
            try:
                reply = await self._reader.recv(SLICE if rest is None else min(rest, SLICE))
            except Empty:
                self._client._check_server()
                if rest is not None and rest <= SLICE:
                    raise
                continue
            if reply[:8] == request[:8]:
                return cast("T", self._client._decoded(reply))

    def close(self) -> None:
        """Ends this client, and removes its FIFO."""
        self._client.close()

    async def __aenter__(self) -> "FifoClient[S, T]":
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()
