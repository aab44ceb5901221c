"""`aio.Queue`: a queue from asyncio. What would wait is awaited; all else is the queue's own."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from isthmus import _core
from isthmus._core import ASK
from isthmus._errors import IsthmusError, ShutDown, WouldBlock
from isthmus.queue import Queue as SyncQueue
from isthmus.queue import QueueStats

from ._driver import TURN, End, check, checkpoint, settle
from ._driver import until as wait_until

if TYPE_CHECKING:
    from typing import TypedDict, Unpack

    from isthmus._dead import DeadLetters

    class _Attributes(TypedDict, total=False):
        capacity: int | None
        priorities: int | None
        max_deliveries: int | None
        persistent: bool | None
        ends_with_producers: bool | None
        namespace: str | os.PathLike[str] | None


__all__ = ["Queue"]

T = TypeVar("T")
R = TypeVar("R")

# Messages of a batch that are encoded at once.
_BATCH = 512


class Queue(Generic[T]):
    """A queue from asyncio, beside the threads and processes that use it.

    `aio.Queue(q)` wraps an open `isthmus.Queue`, which goes on working; `aio.Queue(name, …)` opens or creates
    one with the arguments of `isthmus.Queue`. What may wait is awaited and behaves as its namesake there;
    what never waits (`qsize`, `stats`, `close`, `unlink`, the properties) is called as there. A task that is
    cancelled loses no message and no wake-up.
    """

    __slots__ = ("__weakref__", "_queue", "_turn")

    def __new__(cls, queue: Any = None, **attributes: Any) -> Self:  # noqa: D102 - the class says it
        # A queue of another mechanism has another class here too.
        if isinstance(queue, str) and "://" in queue and not queue.startswith("shm://"):
            queue, attributes = SyncQueue(queue, **attributes), {}
        if isinstance(queue, _core.PosixQueue):
            from .posix_mq import PosixQueue

            return PosixQueue(queue, **attributes)  # type: ignore[return-value, arg-type]
        return super().__new__(cls)

    @overload
    def __init__(self, queue: "SyncQueue[T]") -> None: ...
    @overload
    def __init__(
        self, queue: str | None = None, *, type: type[T], **attributes: "Unpack[_Attributes]"
    ) -> None: ...
    @overload
    def __init__(
        self: "Queue[Any]", queue: str | None = None, *, type: Any = None, **attributes: "Unpack[_Attributes]"
    ) -> None: ...
    def __init__(self, queue: Any = None, **attributes: Any) -> None:
        if isinstance(queue, SyncQueue):
            if attributes:
                raise TypeError(
                    f"{', '.join(attributes)}: attributes are for opening a queue, not for wrapping one"
                )
            self._queue: SyncQueue[T] = queue
        else:
            self._queue = SyncQueue(queue, **attributes)
        self._turn = 0

    @overload
    @classmethod
    def create(cls, name: str, *, type: type[T], **attributes: "Unpack[_Attributes]") -> "Queue[T]": ...
    @overload
    @classmethod
    def create(cls, name: str, *, type: Any = None, **attributes: "Unpack[_Attributes]") -> "Queue[Any]": ...
    @classmethod
    def create(cls, name: str, **attributes: Any) -> Any:
        """Creates the queue; `FileExistsError` where the name is taken."""
        return cls(SyncQueue.create(name, **attributes))

    @overload
    @classmethod
    def open(
        cls, name: str, *, type: type[T], namespace: str | os.PathLike[str] | None = None
    ) -> "Queue[T]": ...
    @overload
    @classmethod
    def open(
        cls, name: str, *, type: Any = None, namespace: str | os.PathLike[str] | None = None
    ) -> "Queue[Any]": ...
    @classmethod
    def open(cls, name: str, *, type: Any = None, namespace: str | os.PathLike[str] | None = None) -> Any:
        """Opens a queue that exists; `FileNotFoundError` where there is none."""
        return cls(SyncQueue.open(name, type=type, namespace=namespace))

    @property
    def sync(self) -> "SyncQueue[T]":
        """The queue for code that is not asynchronous."""
        return self._queue

    def _wait(self, on: int) -> _core.Wait:
        return _core.Wait.queue(self._queue, on)

    async def _run(self, call: Callable[[Any], R], timeout: float | None) -> R:
        if timeout is not None:
            check(timeout)
        self._turn += 1
        if not self._turn % TURN:
            await checkpoint()
        try:
            return call(ASK)
        except WouldBlock as blocked:
            on = blocked.on
        return await settle(call, self._wait, on, timeout)

    async def put(
        self,
        message: T,
        timeout: float | None = None,
        *,
        priority: int = 0,
        until: Literal["received", "done"] | None = None,
    ) -> None:
        """Puts a message; see `isthmus.Queue.put`.

        Cancelled while it waits for room, nothing was put; cancelled while it waits `until` a consumer has
        it, the message stays in the queue.
        """
        if until is None:
            await self._run(lambda t: self._queue.put(message, t, priority=priority), timeout)
            return
        if until not in {"received", "done"}:
            raise ValueError(f'until is {until!r}: it takes "received", "done" or None')
        end = End(timeout)
        level, position = await self._run(lambda t: self._queue._post(message, priority, t), timeout)
        done = until == "done"
        await wait_until(_core.Wait.fate(self._queue, level, position, done), end.left())
        self._queue._fate(level, position, done)

    async def get(self, timeout: float | None = None) -> T:
        """Takes the next message; see `isthmus.Queue.get`."""
        return await self._run(self._queue.get, timeout)

    async def get_view(self, timeout: float | None = None, *, writable: bool = False) -> Any:
        """Takes the next message and leaves it where it is; see `isthmus.Queue.get_view`."""
        return await self._run(lambda t: self._queue.get_view(t, writable=writable), timeout)

    def lease(self, timeout: float | None = None, *, view: bool = False) -> "_Leasing":
        """Takes the next message on lease: `async with q.lease() as job:` or `job = await q.lease()`.

        See `isthmus.Queue.lease`. A lease never waits: `with job:`, `job.ack()` and `job.nack()` are as
        there.
        """
        return _Leasing(self._run(lambda t: self._queue.lease(t, view=view), timeout))

    def reserve(
        self, shape: Any, dtype: Any = None, *, timeout: float | None = None, priority: int = 0
    ) -> "_Reserving":
        """Memory for one message, to be filled in place: `async with q.reserve(n) as block:`.

        See `isthmus.Queue.reserve`. `timeout` is for the memory and again for putting.
        """
        check(timeout)

        def reserve(within: Any) -> Any:
            return self._queue._reservation(shape, dtype, timeout, priority, within)

        return _Reserving(self, reserve, timeout)

    async def put_many(
        self, messages: Iterable[T], timeout: float | None = None, *, priority: int = 0
    ) -> int:
        """Puts all messages in order and says how many they were; see `isthmus.Queue.put_many`.

        Cancelled in the middle, the first ones are in the queue, and `CancelledError.sent` says how many.
        """
        items = messages if isinstance(messages, list) else list(messages)
        sent = 0
        end = End(timeout)

        def some(within: Any) -> None:
            nonlocal sent
            try:
                sent += self._queue.put_many(items[sent : sent + _BATCH], within, priority=priority)
            except (IsthmusError, WouldBlock, TypeError, ValueError) as error:
                sent += getattr(error, "sent", 0)
                error.sent = sent  # type: ignore[union-attr]
                raise

        try:
            while sent < len(items):
                await self._run(some, end.left())
        except asyncio.CancelledError as cancelled:
            cancelled.sent = sent  # type: ignore[attr-defined]
            raise
        return sent

    async def get_many(self, limit: int, timeout: float | None = None) -> list[T]:
        """Takes up to `limit` messages, at least one; see `isthmus.Queue.get_many`."""
        return await self._run(lambda t: self._queue.get_many(limit, t), timeout)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self._run(self._queue.get, None)
        except ShutDown:
            raise StopAsyncIteration from None

    async def views(self) -> AsyncIterator[Any]:
        """Iterates as over the queue, with `get_view`."""
        while True:
            try:
                view = await self.get_view()
            except ShutDown:
                return
            yield view
            # Not to be held while waiting for the next one.
            del view

    async def leases(self) -> AsyncIterator[_core.Lease]:
        """Iterates over leases: `async for job in q.leases(): with job: …`; see `isthmus.Queue.leases`."""
        while True:
            try:
                job = await self.lease()
            except ShutDown:
                return
            yield job
            del job

    async def wait_readable(self, timeout: float | None = None) -> bool:
        """Waits until `get` would not have to wait; see `isthmus.Queue.wait_readable`."""
        check(timeout)
        self._queue.empty()  # says what is wrong with the handle
        ready = await wait_until(_core.Wait.readable(self._queue), timeout)
        self._queue.empty()
        return ready

    async def wait_writable(self, timeout: float | None = None, *, below: float = 1.0) -> bool:
        """Waits until the queue is filled less than `below`; see `isthmus.Queue.wait_writable`."""
        check(timeout)
        if self._queue.wait_writable(0, below=below):
            return True
        await wait_until(_core.Wait.below(self._queue, below), timeout)
        return self._queue.wait_writable(0, below=below)

    async def shutdown(self) -> None:
        """Accepts no more messages; see `isthmus.Queue.shutdown`."""
        await self._run(self._queue._shutdown, None)

    def close(self) -> None:
        """Ends the handle, for those who share it too: what waits here raises `ClosedError`."""
        self._queue.close()

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it."""
        self._queue.unlink()

    async def __aenter__(self) -> Self:
        self._queue.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str | None:
        """The name, or None for an anonymous queue."""
        return self._queue.name

    @property
    def type(self) -> Any:
        """What messages are."""
        return self._queue.type

    @property
    def capacity(self) -> int:
        """Bytes for messages."""
        return self._queue.capacity

    @property
    def message_max(self) -> int:
        """Bytes of the largest message that fits."""
        return self._queue.message_max

    @property
    def priorities(self) -> int:
        """Levels of priority."""
        return self._queue.priorities

    @property
    def max_deliveries(self) -> int:
        """How often a message is handed out at most before it goes to `q.dead`."""
        return self._queue.max_deliveries

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._queue.closed

    @property
    def fill(self) -> float:
        """How much of the capacity is taken, 0.0 to 1.0."""
        return self._queue.fill

    @property
    def dead(self) -> "DeadLetters":
        """Messages that nobody could use."""
        return self._queue.dead

    def qsize(self) -> int:
        """Messages inside; another moment may differ."""
        return self._queue.qsize()

    def empty(self) -> bool:
        """True where no message is inside; another moment may differ."""
        return self._queue.empty()

    def stats(self) -> QueueStats:
        """Numbers about the queue; see `isthmus.Queue.stats`."""
        return self._queue.stats()

    def __repr__(self) -> str:
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.aio.{type(self).__name__} {what}{' (closed)' if self.closed else ''}>"


class _Leasing:
    """What `aio.Queue.lease` gives: to be awaited, or entered."""

    __slots__ = ("_lease", "_taking")

    def __init__(self, taking: Any) -> None:
        self._taking = taking

    def __await__(self) -> Generator[Any, None, _core.Lease]:
        lease: Generator[Any, None, _core.Lease] = self._taking.__await__()
        return lease

    async def __aenter__(self) -> _core.Lease:
        lease: _core.Lease = await self._taking
        self._lease = lease
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lease.__exit__(kind, error, traceback)


class _Reserving:
    """What `aio.Queue.reserve` gives: memory between entering and leaving."""

    __slots__ = ("_queue", "_reservation", "_reserve", "_timeout")

    def __init__(self, queue: Queue[Any], reserve: Callable[[Any], Any], timeout: float | None) -> None:
        self._queue = queue
        self._reserve = reserve
        self._timeout = timeout

    def shorten(self, length: int) -> None:
        """Makes the message shorter than what was reserved; of a queue of bytes."""
        self._reservation.shorten(length)

    async def __aenter__(self) -> Any:
        self._reservation = await self._queue._run(self._reserve, self._timeout)
        return self._reservation.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        reservation = self._reservation
        if kind is not None:
            reservation.cancel()
        if reservation._settled:
            return
        try:
            await self._queue._run(reservation._put, self._timeout)
        except BaseException:
            # Cancelled, or no room: nobody will put it any more.
            reservation.cancel()
            raise
