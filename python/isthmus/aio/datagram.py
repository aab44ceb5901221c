"""`aio.Datagram`: datagrams from asyncio."""

import asyncio
import os
import select
from collections.abc import AsyncIterator
from typing import Any, Generic, Self, TypeVar, overload

from isthmus._errors import ClosedError, Empty, Full
from isthmus.socket._numbers import DatagramStats
from isthmus.socket._steps import deadline_of, left
from isthmus.socket.datagram import Datagram as SyncDatagram
from isthmus.socket.datagram import Received

from ._ready import forget, ready

__all__ = ["Datagram"]

T = TypeVar("T")

_IN_A_ROW = 64
_LOOK_AGAIN = 0.01
"""Seconds until a Unix socket tries again: the kernel does not say when another receiver has room."""


class Datagram(Generic[T]):
    """Datagrams from asyncio: `aio.Datagram(datagram)` wraps a socket, `aio.Datagram(…)` makes one.

    Arguments and methods are those of `isthmus.Datagram`. What may wait is awaited; a task that is
    cancelled has taken nothing, and sent nothing.
    """

    __slots__ = ("__weakref__", "_datagram", "_row")

    @overload
    def __init__(self, datagram: "SyncDatagram[T]") -> None: ...
    @overload
    def __init__(
        self: "Datagram[Any]", datagram: str | os.PathLike[str] | None = None, **options: Any
    ) -> None: ...
    def __init__(self, datagram: Any = None, **options: Any) -> None:
        if isinstance(datagram, SyncDatagram):
            if options:
                raise TypeError(
                    f"{', '.join(options)}: options are for making a socket, not for wrapping one"
                )
            self._datagram: SyncDatagram[T] = datagram
        else:
            self._datagram = SyncDatagram(datagram, **options)
        self._datagram._before_close = forget
        self._row = 0

    @property
    def sync(self) -> "SyncDatagram[T]":
        """The socket behind it."""
        return self._datagram

    async def send(
        self, message: T, to: str | os.PathLike[str] | None = None, timeout: float | None = None
    ) -> None:
        """As `isthmus.Datagram.send`. A host's name is looked up here and now: numbers are faster."""
        deadline = deadline_of(timeout)
        await self._turn()
        while True:
            try:
                self._datagram.send(message, to, 0)
                return
            except Full:
                rest = left(deadline)
                if rest == 0.0:
                    raise
                if to is None:
                    await ready(self._datagram.fileno(), select.EPOLLOUT, rest)
                else:
                    await asyncio.sleep(_LOOK_AGAIN if rest is None else min(rest, _LOOK_AGAIN))

    async def recv(self, timeout: float | None = None) -> T:
        """As `isthmus.Datagram.recv`."""
        message: T = (await self.recv_from(timeout)).message
        return message

    async def recv_from(self, timeout: float | None = None) -> Received:
        """As `isthmus.Datagram.recv_from`."""
        deadline = deadline_of(timeout)
        await self._turn()
        while True:
            try:
                return self._datagram.recv_from(0)
            except Empty:
                rest = left(deadline)
                if rest == 0.0 or not await ready(self._datagram.fileno(), select.EPOLLIN, rest):
                    raise self._datagram._empty(timeout) from None

    async def __aiter__(self) -> AsyncIterator[T]:
        """Messages until this socket is closed."""
        while True:
            try:
                message = await self.recv()
            except ClosedError:
                return
            yield message

    async def _turn(self) -> None:
        self._row += 1
        if self._row >= _IN_A_ROW:
            self._row = 0
            await asyncio.sleep(0)

    def join(self, group: str, interface: str | None = None) -> None:
        """As `isthmus.Datagram.join`."""
        self._datagram.join(group, interface)

    def leave(self, group: str, interface: str | None = None) -> None:
        """As `isthmus.Datagram.leave`."""
        self._datagram.leave(group, interface)

    def multicast(self, *, hops: int = 1, loop: bool = True, interface: str | None = None) -> None:
        """As `isthmus.Datagram.multicast`."""
        self._datagram.multicast(hops=hops, loop=loop, interface=interface)

    def stats(self) -> DatagramStats:
        """As `isthmus.Datagram.stats`."""
        return self._datagram.stats()

    @property
    def address(self) -> str | None:
        """As of `isthmus.Datagram`."""
        return self._datagram.address

    @property
    def peer(self) -> str | None:
        """As of `isthmus.Datagram`."""
        return self._datagram.peer

    @property
    def type(self) -> Any:
        """As of `isthmus.Datagram`."""
        return self._datagram.type

    @property
    def limit(self) -> int:
        """As of `isthmus.Datagram`."""
        return self._datagram.limit

    @property
    def closed(self) -> bool:
        """As of `isthmus.Datagram`."""
        return self._datagram.closed

    def fileno(self) -> int:
        """As of `isthmus.Datagram`."""
        return self._datagram.fileno()

    def close(self) -> None:
        """As `isthmus.Datagram.close`."""
        self._datagram.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._datagram,)

    def __repr__(self) -> str:
        return repr(self._datagram).replace("isthmus.Datagram", "isthmus.aio.Datagram")
