"""`aio.Listener`: a listener from asyncio, and `serve`: a task for each client."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Self, TypeVar, overload

from isthmus._errors import ClosedError, IsthmusError
from isthmus.socket._steps import deadline_of, left
from isthmus.socket.listener import Listener as SyncListener
from isthmus.socket.listener import ListenerStats

from ._ready import forget, readable
from .stream import Stream

__all__ = ["Listener"]

T = TypeVar("T")

_IN_A_ROW = 16


class Listener(Generic[T]):
    """A listener from asyncio: `aio.Listener(listener)` wraps one, `aio.Listener(address, …)` makes one.

    Arguments and methods are those of `isthmus.Listener`; `accept` is awaited and gives an `aio.Stream`.
    `serve` runs a server. A task that is cancelled in `accept` has taken no stream.
    """

    __slots__ = ("__weakref__", "_listener", "_row")

    @overload
    def __init__(self, listener: "SyncListener[T]") -> None: ...
    @overload
    def __init__(self: "Listener[Any]", listener: str | os.PathLike[str], **options: Any) -> None: ...
    def __init__(self, listener: Any, **options: Any) -> None:
        if isinstance(listener, SyncListener):
            if options:
                raise TypeError(
                    f"{', '.join(options)}: options are for making a listener, not for wrapping one"
                )
            self._listener: SyncListener[T] = listener
        else:
            self._listener = SyncListener(listener, **options)
        self._listener._before_close = forget
        self._row = 0

    @property
    def sync(self) -> "SyncListener[T]":
        """The listener behind it."""
        return self._listener

    async def accept(self, timeout: float | None = None) -> "Stream[T]":
        """As `isthmus.Listener.accept`."""
        deadline = deadline_of(timeout)
        listener = self._listener
        self._row += 1
        if self._row >= _IN_A_ROW:
            self._row = 0
            await asyncio.sleep(0)
        while True:
            if listener.closed:
                raise listener._closed_error()
            with listener._in_this_process():
                if not listener._done and listener._turning.acquire(blocking=False):
                    try:
                        listener._turn(0.0)
                    finally:
                        listener._turning.release()
            with contextlib.suppress(IndexError):
                return Stream(listener._done.popleft())
            rest = left(deadline)
            if rest == 0.0:
                raise listener._empty(timeout)
            soon = listener.next_turn()
            seconds = soon if rest is None else rest if soon is None else min(rest, soon)
            if not listener.closed:
                await readable(listener.fileno(), seconds)

    async def __aiter__(self) -> "AsyncIterator[Stream[T]]":
        """Streams as they come, until this listener is closed."""
        while True:
            try:
                stream = await self.accept()
            except ClosedError:
                return
            yield stream

    async def serve(
        self, handler: "Callable[[Stream[T]], Awaitable[object]]", *, most_clients: int | None = None
    ) -> None:
        """Runs `handler(stream)` in a task of its own for each client.

        It ends when this listener is closed, or when it is cancelled; then the tasks are cancelled, and it
        waits for their end.

        When a handler ends, its stream is closed. One that fails because of its client (`PeerDied`,
        `TooLarge`, `InvalidMessage` and every other error of isthmus) ends that client and no other; any
        other exception goes to the loop's exception handler, and the server goes on as well. With
        `most_clients` at a time, others wait in the kernel until one leaves.
        """
        room = asyncio.Semaphore(most_clients) if most_clients is not None else None
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                if room is not None:
                    await room.acquire()
                try:
                    stream = await self.accept()
                except ClosedError:
                    return
                task = asyncio.create_task(_handled(handler, stream, room))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def stats(self) -> ListenerStats:
        """As `isthmus.Listener.stats`."""
        return self._listener.stats()

    @property
    def address(self) -> str:
        """As of `isthmus.Listener`."""
        return self._listener.address

    @property
    def port(self) -> int:
        """As of `isthmus.Listener`."""
        return self._listener.port

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """As of `isthmus.Listener`."""
        return self._listener.sockets

    @property
    def closed(self) -> bool:
        """As of `isthmus.Listener`."""
        return self._listener.closed

    def fileno(self) -> int:
        """As of `isthmus.Listener`."""
        return self._listener.fileno()

    def close(self) -> None:
        """As `isthmus.Listener.close`."""
        self._listener.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._listener,)

    def __repr__(self) -> str:
        return repr(self._listener).replace("isthmus.Listener", "isthmus.aio.Listener")


async def _handled(
    handler: "Callable[[Stream[Any]], Awaitable[object]]",
    stream: "Stream[Any]",
    room: asyncio.Semaphore | None,
) -> None:
    """One client, from its first message to its end."""
    try:
        await handler(stream)
    except IsthmusError:
        pass  # it ended as clients do; the handler could have looked
    except Exception as error:  # noqa: BLE001 - the others go on
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"the handler of {stream.peer} failed", "exception": error}
        )
    finally:
        if room is not None:
            room.release()
        await stream.close()
