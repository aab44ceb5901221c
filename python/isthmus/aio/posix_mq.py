"""`aio.PosixQueue`: a queue of the kernel from asyncio. Its descriptor is watched by the event loop."""

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Literal, NoReturn, Self, TypeVar

from isthmus._errors import Empty, Full
from isthmus.posix_mq import PosixQueue as SyncPosixQueue
from isthmus.posix_mq import PosixQueueStats

from ._driver import End, check, checkpoint
from ._ready import forget, readable, writable

__all__ = ["PosixQueue"]

T = TypeVar("T")
R = TypeVar("R")

_TURN = 64
"""After so many calls that did not wait, the loop runs once: a queue that others keep filled never blocks."""
_BATCH = 64
"""Messages that are encoded at once; a queue of the kernel has room for ten, usually."""
_SLICE = 1.0
"""Seconds after which a wait looks at the handle: one that sync code has closed leaves no trace in epoll."""


class PosixQueue(Generic[T]):
    """A queue of the kernel from asyncio, beside the threads and programs that use it.

    `aio.PosixQueue(q)` wraps an open `isthmus.PosixQueue`, which goes on working; `aio.PosixQueue(name, …)`,
    or `aio.Queue("posix-mq:///name", …)`, opens or makes one with the arguments of `isthmus.PosixQueue`. What
    may wait is awaited; what never waits is called as there. A task that is cancelled loses no message.

    The kernel serves who sleeps in `mq_receive` before who watches the descriptor, as event loops do: beside
    a program that always waits there, a task gets what that one has no time for.
    """

    __slots__ = ("__weakref__", "_queue", "_turn")

    def __init__(self, queue: SyncPosixQueue[T] | str, **attributes: Any) -> None:
        if isinstance(queue, SyncPosixQueue):
            if attributes:
                raise TypeError(
                    f"{', '.join(attributes)}: attributes are for opening a queue, not for wrapping one"
                )
            self._queue: SyncPosixQueue[T] = queue
        else:
            self._queue = SyncPosixQueue(queue, **attributes)
        self._turn = 0

    @classmethod
    def create(cls, name: str, **attributes: Any) -> Self:
        """Makes the queue; `FileExistsError` where the name is taken."""
        return cls(SyncPosixQueue.create(name, **attributes))

    @classmethod
    def open(cls, name: str, **attributes: Any) -> Self:
        """Opens a queue that exists; `FileNotFoundError` where there is none."""
        return cls(SyncPosixQueue.open(name, **attributes))

    @property
    def sync(self) -> SyncPosixQueue[T]:
        """The queue for code that is not asynchronous."""
        return self._queue

    async def _run(self, call: Callable[[], R], ready: Callable[..., Any], timeout: float | None) -> R:
        """Tries, and where that would wait, watches the descriptor and tries again."""
        end = End(timeout)
        self._turn += 1
        if not self._turn % _TURN:
            await checkpoint()
        while True:
            left = end.left()
            try:
                return call()
            except (Empty, Full):
                if left == 0:
                    raise
            # What is taken is taken in this task, after its last await: cancelled here, nothing is lost.
            for_message = ready is readable
            self._queue._waits(for_message, True)
            try:
                await self._wait(ready, left)
            finally:
                self._queue._waits(for_message, False)

    async def _wait(self, ready: Callable[..., Any], left: float | None) -> None:
        await ready(self._queue.fileno(), _SLICE if left is None else min(left, _SLICE))

    async def put(
        self,
        message: T,
        timeout: float | None = None,
        *,
        priority: int = 0,
        until: Literal["received", "done"] | None = None,
    ) -> None:
        """Puts a message; see `isthmus.PosixQueue.put`."""
        await self._run(
            lambda: self._queue.put(message, 0, priority=priority, until=until), writable, timeout
        )

    async def get(self, timeout: float | None = None) -> T:
        """Takes the next message; see `isthmus.PosixQueue.get`."""
        return await self._run(lambda: self._queue.get(0), readable, timeout)

    async def get_with_priority(self, timeout: float | None = None) -> tuple[T, int]:
        """Takes the next message, and says its priority."""
        return await self._run(lambda: self._queue.get_with_priority(0), readable, timeout)

    async def get_many(self, limit: int, timeout: float | None = None) -> list[T]:
        """Takes up to `limit` messages, at least one; see `isthmus.PosixQueue.get_many`."""
        return await self._run(lambda: self._queue.get_many(limit, 0), readable, timeout)

    async def put_many(
        self, messages: Iterable[T], timeout: float | None = None, *, priority: int = 0
    ) -> int:
        """Puts all messages in order and says how many they were; see `isthmus.PosixQueue.put_many`.

        Cancelled in the middle, the first ones are in the queue, and `CancelledError.sent` says how many.
        """
        items = messages if isinstance(messages, list) else list(messages)
        sent = 0
        end = End(timeout)

        def some() -> None:
            nonlocal sent
            try:
                sent += self._queue.put_many(items[sent : sent + _BATCH], 0, priority=priority)
            except BaseException as error:
                sent += getattr(error, "sent", 0)
                error.sent = sent  # type: ignore[attr-defined]
                raise

        try:
            while sent < len(items):
                await self._run(some, writable, end.left())
        except asyncio.CancelledError as cancelled:
            cancelled.sent = sent  # type: ignore[attr-defined]
            raise
        return sent

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self.get()

    async def wait_readable(self, timeout: float | None = None) -> bool:
        """Waits until `get` would not have to wait; see `isthmus.PosixQueue.wait_readable`."""
        check(timeout)
        if self._queue.wait_readable(0):
            return True
        self._queue._waits(True, True)
        try:
            return await self._look(lambda: self._queue.wait_readable(0), readable, timeout)
        finally:
            self._queue._waits(True, False)

    async def wait_writable(self, timeout: float | None = None, *, below: float = 1.0) -> bool:
        """Waits until less than `below` of `maxsize` is taken; see `isthmus.PosixQueue.wait_writable`."""

        async def nap(_fd: int, seconds: float) -> None:
            await asyncio.sleep(min(seconds, 0.01))

        ready = writable if below >= 1.0 else nap
        return await self._look(lambda: self._queue.wait_writable(0, below=below), ready, timeout)

    async def _look(self, call: Callable[[], bool], ready: Callable[..., Any], timeout: float | None) -> bool:
        end = End(timeout)
        while True:
            left = end.left()
            if call():
                return True
            if left == 0:
                return False
            await self._wait(ready, left)

    def notify(self, to: int | Callable[[], object] | None, *, payload: int = 0) -> None:
        """See `isthmus.PosixQueue.notify`; a function is called in another thread, not in the loop's."""
        self._queue.notify(to, payload=payload)

    # What the kernel has nothing for: the sync queue says why.

    def lease(self, timeout: float | None = None, *, view: bool = False) -> NoReturn:
        """`Unsupported`; see `isthmus.PosixQueue.lease`."""
        self._queue.lease(timeout, view=view)

    def leases(self) -> NoReturn:
        """`Unsupported`; see `isthmus.PosixQueue.leases`."""
        self._queue.leases()

    def get_view(self, timeout: float | None = None, *, writable: bool = False) -> NoReturn:
        """`Unsupported`; see `isthmus.PosixQueue.get_view`."""
        self._queue.get_view(timeout, writable=writable)

    def views(self) -> NoReturn:
        """`Unsupported`; see `isthmus.PosixQueue.views`."""
        self._queue.views()

    def reserve(
        self, shape: object, dtype: Any = None, *, timeout: float | None = None, priority: int = 0
    ) -> NoReturn:
        """`Unsupported`; see `isthmus.PosixQueue.reserve`."""
        self._queue.reserve(shape, dtype, timeout=timeout, priority=priority)

    def shutdown(self) -> NoReturn:
        """`Unsupported`; see `isthmus.PosixQueue.shutdown`."""
        self._queue.shutdown()

    @property
    def dead(self) -> Any:
        """`Unsupported`; see `isthmus.PosixQueue.dead`."""
        return self._queue.dead

    @property
    def max_deliveries(self) -> Any:
        """`Unsupported`; see `isthmus.PosixQueue.max_deliveries`."""
        return self._queue.max_deliveries

    def close(self) -> None:
        """Ends the handle, for those who share it too: what waits here raises `ClosedError`."""
        if not self._queue.closed:
            fd = self._queue.fileno()
            self._queue.close()
            forget(fd)

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
    def name(self) -> str:
        """The name as C programs give it to mq_open."""
        return self._queue.name

    @property
    def url(self) -> str:
        """What `aio.Queue` takes to open it."""
        return self._queue.url

    @property
    def type(self) -> Any:
        """What messages are."""
        return self._queue.type

    @property
    def maxsize(self) -> int:
        """Most messages at a time."""
        return self._queue.maxsize

    @property
    def message_max(self) -> int:
        """Bytes of the largest message that fits."""
        return self._queue.message_max

    @property
    def capacity(self) -> int:
        """Bytes for messages."""
        return self._queue.capacity

    @property
    def priorities(self) -> int:
        """Levels of priority."""
        return self._queue.priorities

    @property
    def access(self) -> str:
        """What this handle may do: `"r"`, `"w"` or `"rw"`."""
        return self._queue.access

    @property
    def fill(self) -> float:
        """How much of `maxsize` is taken, 0.0 to 1.0."""
        return self._queue.fill

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._queue.closed

    def qsize(self) -> int:
        """Messages inside; another moment may differ."""
        return self._queue.qsize()

    def empty(self) -> bool:
        """True where no message is inside; another moment may differ."""
        return self._queue.empty()

    def full(self) -> bool:
        """True where no further message has room; another moment may differ."""
        return self._queue.full()

    def stats(self) -> PosixQueueStats:
        """Numbers about the queue; see `isthmus.PosixQueue.stats`."""
        return self._queue.stats()

    def fileno(self) -> int:
        """The descriptor; see `isthmus.PosixQueue.fileno`."""
        return self._queue.fileno()

    def __repr__(self) -> str:
        return f"<isthmus.aio.{type(self).__name__} {self.name!r}{' (closed)' if self.closed else ''}>"
