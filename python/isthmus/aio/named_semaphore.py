"""`aio.NamedSemaphore`: a semaphore of the C library from asyncio.

Such a semaphore has no descriptor and rings no bell: whoever raises it may be a C program that knows of no
event loop. So while tasks wait, and only then, a thread of the wrapper sleeps in `sem_timedwait` for all,
and hands each permit it gets to the task that has waited longest. Nothing is polled, and a permit comes as
fast as to a thread. Trying again and again with pauses was the other way: it is late by its pause, or busy.

What could get lost on the way from the thread to the task (a cancelled task, a loop that was closed) goes to
the next task, or back to the semaphore.
"""

import asyncio
import os
import threading
from typing import Any, Self

from isthmus._errors import IsthmusError
from isthmus.named_semaphore import NamedSemaphore as SyncNamedSemaphore

from ._driver import check
from ._sync import Entered

__all__ = ["NamedSemaphore"]

_SLICE = 0.1
"""Seconds for which the thread sleeps on after its last task has gone, at most."""

_ending = False
"""Python is about to wait for its threads, and then ends."""


def _end() -> None:
    global _ending  # noqa: PLW0603 - one process, one end
    _ending = True


# As concurrent.futures learns of it. Asking whether the main thread lives is no way: for a moment that takes
# a lock which Python, as it ends, insists is free, and else it does not wait for its threads.
try:
    threading._register_atexit(_end)  # type: ignore[attr-defined]
except RuntimeError:
    _ending = True


class NamedSemaphore(Entered):
    """A POSIX semaphore from asyncio, beside the threads and programs that use it.

    `aio.NamedSemaphore(s)` wraps an open `isthmus.NamedSemaphore`, which goes on working;
    `aio.NamedSemaphore(name, initial)` opens or makes one. `async with semaphore:` takes one and gives it
    back. A task that is cancelled while it waits has taken nothing.

    **Starts a thread** while tasks wait, because a semaphore can be waited for in no other way; it ends when
    nobody waits any more.
    """

    __slots__ = ("__weakref__", "_line", "_semaphore")

    def __init__(self, semaphore: SyncNamedSemaphore | str, initial: int = 1, **attributes: Any) -> None:
        if not isinstance(semaphore, SyncNamedSemaphore):
            semaphore = SyncNamedSemaphore(semaphore, initial, **attributes)
        elif attributes:
            raise TypeError(
                f"{', '.join(attributes)}: attributes are for opening a semaphore, not for wrapping one"
            )
        self._semaphore = semaphore
        self._line = _Line(semaphore)

    @classmethod
    def create(cls, name: str, initial: int = 1, *, mode: int = 0o600) -> Self:
        """Makes the semaphore; `FileExistsError` where the name is taken."""
        return cls(SyncNamedSemaphore.create(name, initial, mode=mode))

    @classmethod
    def open(cls, name: str) -> Self:
        """Opens a semaphore that exists; `FileNotFoundError` where there is none."""
        return cls(SyncNamedSemaphore.open(name))

    @property
    def sync(self) -> SyncNamedSemaphore:
        """The semaphore for code that is not asynchronous."""
        return self._semaphore

    async def acquire(self, timeout: float | None = None) -> bool:
        """Takes one; False when `timeout` seconds went by (None waits, 0 tries)."""
        check(timeout)
        if self._semaphore.acquire(0):
            return True
        if timeout == 0:
            return False
        return await self._line.wait(timeout)

    def release(self, n: int = 1) -> None:
        """Gives `n` back, or more than there were; see `isthmus.NamedSemaphore.release`."""
        self._semaphore.release(n)

    @property
    def value(self) -> int:
        """How many there are; 0 while others wait. Another moment may differ."""
        return self._semaphore.value

    def close(self) -> None:
        """Ends the handle, for those who share it too: what waits here raises `ClosedError`."""
        self._semaphore.close()

    def unlink(self) -> None:
        """Removes the name; those who have it open go on using it."""
        self._semaphore.unlink()

    @property
    def name(self) -> str:
        """The name as C programs give it to sem_open."""
        return self._semaphore.name

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self._semaphore.closed

    def __repr__(self) -> str:
        state = " (closed)" if self.closed else f" = {self.value}"
        return f"<isthmus.aio.{type(self).__name__} {self.name!r}{state}>"


class _Line:
    """Tasks that wait for one semaphore, of any loops, and the thread that waits in their stead."""

    __slots__ = ("_lock", "_pid", "_runs", "_semaphore", "_waiting")

    def __init__(self, semaphore: SyncNamedSemaphore) -> None:
        self._semaphore = semaphore
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Taken again by its holder where garbage is collected in between: tasks thrown away leave the line.
        self._lock = threading.RLock()
        # In the order of their coming; false in a thread that Python does not wait for when it ends.
        self._waiting: dict[asyncio.Future[bool], bool] = {}
        self._runs = False

    async def wait(self, timeout: float | None) -> bool:
        if self._pid != os.getpid():
            self._begin()  # a forked child has neither the thread nor the tasks
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, _answer, future, False)
        with self._lock:
            self._waiting[future] = not threading.current_thread().daemon
            if not self._runs:
                self._runs = True
                # No daemon: Python would end it in the middle of a call. It ends by itself.
                threading.Thread(target=self._serve, name="isthmus semaphore", daemon=False).start()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None and future.result():
                self._hand_over()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._waiting.pop(future, None)

    def _serve(self) -> None:
        """In the thread: gets permits as long as anybody waits for one."""
        while True:
            with self._lock:
                if not self._waiting or self._is_left():
                    self._runs = False
                    return
            try:
                if self._semaphore.acquire(_SLICE):
                    self._hand_over()
            except (IsthmusError, OSError) as error:
                while (future := self._next()) is not None:
                    _tell(future, _fail, future, error)

    def _is_left(self) -> bool:
        # Python ends, and waits for this thread: a loop that nobody runs any more does not cancel its tasks,
        # nor does one in a thread that ends with Python.
        return _ending and not any(
            stays and future.get_loop().is_running() for future, stays in self._waiting.items()
        )

    def _next(self) -> "asyncio.Future[bool] | None":
        with self._lock:
            future = next(iter(self._waiting), None)
            if future is not None:
                del self._waiting[future]
            return future

    def _hand_over(self) -> None:
        """Gives a permit to the first who waits, or back where nobody does any more."""
        while (future := self._next()) is not None:
            if _tell(future, self._give, future):
                return
        self._semaphore.release()

    def _give(self, future: "asyncio.Future[bool]") -> None:
        if not _answer(future, True):
            self._hand_over()


def _tell(future: "asyncio.Future[bool]", call: Any, *arguments: Any) -> bool:
    """Calls in the loop of the future; False where that is closed."""
    try:
        future.get_loop().call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        return False
    return True


def _answer(future: "asyncio.Future[bool]", answer: bool) -> bool:
    if future.done():
        return False
    future.set_result(answer)
    return True


def _fail(future: "asyncio.Future[bool]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
