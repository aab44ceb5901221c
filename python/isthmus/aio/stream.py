"""`aio.Stream`: a stream from asyncio. Each call tries, and waits for the descriptor where it would block.

So cancelling loses nothing: what is taken is taken after the last `await`. A peer that never stops sending
does not keep the loop to itself: after some messages in a row the others have their turn.
"""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from isthmus._errors import Empty, Full, IsthmusError, ShutDown, Timeout
from isthmus.socket._address import Address, Place, unknown_host
from isthmus.socket._auth import Credentials
from isthmus.socket._opening import Opened, connecting
from isthmus.socket._protocol import CONNECTED
from isthmus.socket._steps import Backoff, Steps, deadline_of, left
from isthmus.socket._terms import Terms
from isthmus.socket.stream import TRY_AGAIN, Attempts, backoff_of, connecting_terms
from isthmus.socket.stream import Stream as SyncStream

from ._ready import forget, ready

if TYPE_CHECKING:
    from isthmus.socket._auth import Users
    from isthmus.socket._terms import Framing

__all__ = ["Stream", "connect", "take_steps"]

T = TypeVar("T")
R = TypeVar("R")

_IN_A_ROW = 64
"""Messages that one task takes or sends without waiting before others have their turn."""


class Stream(Generic[T]):
    """A stream from asyncio: `aio.Stream(stream)` wraps one, `await aio.Stream.connect(address)` makes one.

    Methods are those of `isthmus.Stream`. What may wait is awaited; a task that is cancelled in `recv` has
    taken nothing, and in `send` the message is sent whole or not at all (its rest with the next call).
    """

    __slots__ = ("__weakref__", "_row", "_stream")

    def __init__(self, stream: "SyncStream[T]") -> None:
        if not isinstance(stream, SyncStream):
            raise TypeError(
                f"aio.Stream({stream!r}): takes a stream; `await aio.Stream.connect(address)` connects"
            )
        self._stream = stream
        self._row = 0
        stream._before_close = forget

    @classmethod
    async def connect(
        cls,
        address: str | os.PathLike[str],
        *,
        type: Any = None,
        framing: "Framing" = "messages",
        timeout: float | None = 30.0,
        retry: bool | Backoff = False,
        limit: int | None = None,
        users: "Users" = None,
        key: bytes | str | None = None,
        tls: Any = None,
        descriptors: int = 0,
        keepalive: float | None = 60.0,
    ) -> "Stream[Any]":
        """Connects; arguments and errors are those of `isthmus.Stream`."""
        where, terms = connecting_terms(
            address, type, framing, limit, users, key, tls, descriptors, keepalive
        )
        opened = await connect(where, terms, timeout, backoff_of(retry))
        return cls(SyncStream._made(where, terms, opened, CONNECTED))

    @property
    def sync(self) -> "SyncStream[T]":
        """The stream behind it."""
        return self._stream

    # ---- receiving

    async def recv(self, timeout: float | None = None) -> T:
        """As `isthmus.Stream.recv`."""
        stream = self._stream
        deadline = deadline_of(timeout)
        while True:
            if await self._filled(deadline):
                try:
                    return stream.recv(0)
                except Empty:  # a thread was faster
                    continue
            raise stream._empty(timeout)

    async def recv_many(self, most: int | None = None, timeout: float | None = None) -> list[T]:
        """As `isthmus.Stream.recv_many`."""
        return await self._received(lambda: self._stream.recv_many(most, 0), timeout)

    async def recv_with_descriptors(self, timeout: float | None = None) -> tuple[T, list[int]]:
        """As `isthmus.Stream.recv_with_descriptors`."""
        return await self._received(lambda: self._stream.recv_with_descriptors(0), timeout)

    async def recv_into(self, buffer: Any, timeout: float | None = None) -> int:
        """As `isthmus.Stream.recv_into`."""
        return await self._received(lambda: self._stream.recv_into(buffer, 0), timeout)

    async def recv_file(
        self, file: IO[bytes], *, count: int | None = None, timeout: float | None = None
    ) -> int:
        """As `isthmus.Stream.recv_file`; writing to a disk is not waited for in the background."""
        counted = _Counted(file)

        def attempt() -> int:
            rest = None if count is None else count - counted.written
            self._stream.recv_file(cast("IO[bytes]", counted), count=rest, timeout=0)
            return counted.written

        return await self._received(attempt, timeout)

    async def read(self, size: int, timeout: float | None = None) -> bytes:
        """As `isthmus.Stream.read`."""
        return await self._received(lambda: self._stream.read(size, 0), timeout)

    async def read_until(
        self, mark: bytes = b"\n", timeout: float | None = None, *, limit: int | None = None
    ) -> bytes:
        """As `isthmus.Stream.read_until`."""
        return await self._received(lambda: self._stream.read_until(mark, 0, limit=limit), timeout)

    async def poll(self, timeout: float | None = 0.0) -> bool:
        """As `isthmus.Stream.poll`."""
        deadline = deadline_of(timeout)
        try:
            return await self._filled(deadline)
        except IsthmusError:
            return not self._stream.closed

    async def __aiter__(self) -> AsyncIterator[T]:
        """Messages until the other side finishes."""
        while True:
            try:
                message = await self.recv()
            except ShutDown:
                return
            yield message

    async def _filled(self, deadline: float | None) -> bool:
        """Until a message is here; False when time is over."""
        stream = self._stream
        self._row += 1
        if self._row >= _IN_A_ROW:
            self._row = 0
            await asyncio.sleep(0)
        while not stream._ready:
            if stream._receiving.acquire(blocking=False):
                try:
                    if stream._owed:
                        stream._pay()
                    if stream._fill_now():
                        break
                finally:
                    stream._receiving.release()
            if not await self._wait(select.EPOLLIN, deadline):
                return False
        return True

    async def _received(self, attempt: Callable[[], R], timeout: float | None) -> R:
        """Tries until it succeeds or time is over; what tries goes on where it was."""
        deadline = deadline_of(timeout)
        while True:
            try:
                return attempt()
            except Empty:
                if not await self._wait(select.EPOLLIN, deadline):
                    raise self._stream._empty(timeout) from None

    async def _wait(self, events: int, deadline: float | None) -> bool:
        stream = self._stream
        self._row = 0
        if stream.closed:
            raise stream._closed_error()
        if events == select.EPOLLIN and stream._owed and stream._unsent():
            events |= select.EPOLLOUT
        rest = left(deadline)
        if rest == 0.0:
            return False
        return await ready(stream.fileno(), events, rest)

    # ---- sending

    async def send(
        self, message: T, timeout: float | None = None, *, flush: bool = True, descriptors: Iterable[Any] = ()
    ) -> None:
        """As `isthmus.Stream.send`; returns when the kernel has all of the message."""
        deadline = deadline_of(timeout)
        stream = self._stream
        passed = tuple(descriptors)
        self._row += 1
        if self._row >= _IN_A_ROW:
            self._row = 0
            await asyncio.sleep(0)
        while True:
            try:
                stream.send(message, 0, flush=flush, descriptors=passed)
                break
            except Full:
                if not await self._wait(select.EPOLLOUT, deadline):
                    raise stream._full(timeout) from None
        if stream._owed and flush:
            await self._flushed(deadline)

    async def send_many(self, messages: Iterable[T], timeout: float | None = None) -> int:
        """As `isthmus.Stream.send_many`."""
        deadline = deadline_of(timeout)
        count = 0
        for message in messages:
            try:
                await self.send(message, left(deadline), flush=False)
            except Full as full:
                full.sent = count
                raise
            count += 1
        if not await self._flushed(deadline):
            raise Full(f"{self._stream.peer}: took not all in {timeout:g} s; the rest follows", sent=count)
        return count

    async def flush(self, timeout: float | None = None) -> None:
        """As `isthmus.Stream.flush`."""
        if not await self._flushed(deadline_of(timeout)):
            raise self._stream._full(timeout)

    async def _flushed(self, deadline: float | None) -> bool:
        """Sends what is still here; False when time is over."""
        stream = self._stream
        while stream._unsent():
            with contextlib.suppress(Full):
                stream.flush(0)
            if stream._unsent() and not await self._wait(select.EPOLLOUT, deadline):
                return False
        return True

    async def finish(self, timeout: float | None = None) -> None:
        """As `isthmus.Stream.finish`."""
        deadline = deadline_of(timeout)
        while True:
            try:
                self._stream.finish(0)
                break
            except Full:
                if not await self._wait(select.EPOLLOUT, deadline):
                    raise self._stream._full(timeout) from None

    async def send_file(
        self, file: Any, *, offset: int = 0, count: int | None = None, timeout: float | None = None
    ) -> int:
        """As `isthmus.Stream.send_file`, in a thread of the loop's executor: a disk may take its time."""
        call = self._stream.send_file
        return await asyncio.to_thread(call, file, offset=offset, count=count, timeout=timeout)

    # ---- ends

    async def reconnect(self, timeout: float | None = None, *, backoff: Backoff | None = None) -> None:
        """As `isthmus.Stream.reconnect`."""
        stream = self._stream
        deadline = deadline_of(timeout)
        stream._let_go()
        opened = await connect(stream._where, stream._terms, left(deadline), backoff or Backoff())
        stream._resume(opened)

    async def close(self, timeout: float | None = 1.0, *, finish: bool = True) -> None:
        """As `isthmus.Stream.close`: what is still here has `timeout` seconds to get out."""
        stream = self._stream
        if stream.closed:
            return
        try:
            if finish and os.getpid() == stream._owner:
                with contextlib.suppress(IsthmusError, OSError):  # there is nobody to tell
                    await self.finish(timeout)
        except asyncio.CancelledError:
            stream.close(0, finish=finish)
            raise
        stream.close(0, finish=finish)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # ---- what it is

    @property
    def address(self) -> str:
        """As of `isthmus.Stream`."""
        return self._stream.address

    @property
    def peer(self) -> str:
        """As of `isthmus.Stream`."""
        return self._stream.peer

    @property
    def credentials(self) -> Credentials | None:
        """As of `isthmus.Stream`."""
        return self._stream.credentials

    @property
    def certificate(self) -> dict[str, Any] | None:
        """As of `isthmus.Stream`."""
        return self._stream.certificate

    @property
    def type(self) -> Any:
        """As of `isthmus.Stream`."""
        return self._stream.type

    @property
    def framing(self) -> "Framing":
        """As of `isthmus.Stream`."""
        return self._stream.framing

    @property
    def limit(self) -> int:
        """As of `isthmus.Stream`."""
        return self._stream.limit

    @property
    def peer_limit(self) -> int:
        """As of `isthmus.Stream`."""
        return self._stream.peer_limit

    @property
    def closed(self) -> bool:
        """As of `isthmus.Stream`."""
        return self._stream.closed

    def fileno(self) -> int:
        """As of `isthmus.Stream`."""
        return self._stream.fileno()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._stream,)

    def __repr__(self) -> str:
        return repr(self._stream).replace("isthmus.Stream", "isthmus.aio.Stream")


class _Counted:
    """A file that knows how much was written to it, over several attempts."""

    __slots__ = ("_write", "written")

    def __init__(self, file: IO[bytes]) -> None:
        self._write = file.write
        self.written = 0

    def write(self, data: bytes) -> None:
        self._write(data)
        self.written += len(data)


async def take_steps(steps: Steps[R], timeout: float | None, deadline: float | None, doing: str) -> R:
    """Takes the steps in this event loop; `Timeout` when they are not done in time."""
    answer: bool | None = None
    try:
        while True:
            need = next(steps) if answer is None else steps.send(answer)
            rest = left(deadline)
            last = rest is not None and (need.seconds is None or rest < need.seconds)
            seconds = rest if last else need.seconds
            if need.fd < 0:
                await asyncio.sleep(seconds or 0.0)
                answer = False
            else:
                answer = await ready(need.fd, need.events, seconds)
            if last and not answer:
                raise Timeout(f"{doing}: not done in {timeout:g} s")
    except StopIteration as done:
        result: R = done.value
        return result
    finally:
        steps.close()


async def _places(address: Address, deadline: float | None, doing: str) -> list[Place]:
    if address.scheme == "unix":
        return address.places()
    host, port, family, kind, protocol, flags = address.question()
    asked: Awaitable[Any] = asyncio.get_running_loop().getaddrinfo(
        host, port, family=family, type=kind, proto=protocol, flags=flags
    )
    try:
        return address.placed(await asyncio.wait_for(asked, left(deadline)))
    except TimeoutError:
        raise Timeout(f"{doing}: the host could not be looked up in time") from None
    except socket.gaierror as error:
        raise unknown_host(address, error) from error


async def connect(address: Address, terms: Terms, timeout: float | None, backoff: Backoff | None) -> Opened:
    """Connects, with a backoff until it succeeds."""
    attempts = Attempts(address, timeout, backoff)
    while True:
        try:
            places = await _places(address, attempts.deadline, attempts.doing)
            steps = connecting(address, places, terms)
            return await take_steps(steps, timeout, attempts.deadline, attempts.doing)
        except TRY_AGAIN as problem:
            await asyncio.sleep(attempts.pause_after(problem))
