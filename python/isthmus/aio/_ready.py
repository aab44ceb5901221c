"""Waiting for a descriptor in an event loop: `await readable(fd, timeout)`, `await writable(fd, timeout)`.

Each loop has one epoll of ours, and watches that. It is ours for these reasons:

- A loop keeps one callback a descriptor: `loop.add_reader` here would silently replace the application's own.
- uvloop takes the hang-up of a pipe's other end (EPOLLERR) for a broken descriptor: it forgets the callback,
  and who waits would wait for ever. In our own epoll we see it, and it ends the wait as it should.
- A registration with EPOLLONESHOT need not be taken back: one system call a wait, none after it.

Several tasks may wait for one descriptor: all are woken, each tries its call, and who comes too late waits
again. So the rule for the caller is: try, and if it would block, wait here and try again. Nothing here
changes a descriptor: O_NONBLOCK stays as it was.

A descriptor that is closed leaves an epoll without a word: `forget(fd)`, called before closing it, wakes
those who wait for it; their next try then finds out. See epoll(7).
"""

import asyncio
import contextlib
import errno
import select
import weakref

__all__ = ["forget", "readable", "ready", "writable"]

_BAD = select.EPOLLERR | select.EPOLLHUP
"""Ends every wait: the call that follows says what is wrong."""


async def readable(fd: int, timeout: float | None = None) -> bool:
    """Waits until reading from `fd` would not block; False after `timeout` seconds (None waits, 0 looks).

    The end of the stream and an error count as readable: the read then tells. A file that cannot be waited
    for, such as one on a disk, is always readable.
    """
    return await ready(fd, select.EPOLLIN, timeout)


async def writable(fd: int, timeout: float | None = None) -> bool:
    """Waits until writing to `fd` would not block; False after `timeout` seconds (None waits, 0 looks).

    A reader that is gone counts as writable: the write then tells.
    """
    return await ready(fd, select.EPOLLOUT, timeout)


async def ready(fd: int, events: int, timeout: float | None = None) -> bool:
    """Waits for any of `events` (select.EPOLLIN, EPOLLOUT, EPOLLPRI); False after `timeout` seconds.

    A descriptor that is not open is an OSError (EBADF).
    """
    loop = asyncio.get_running_loop()
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = _Watch(loop)
    return await watch.wait(loop, fd, events, timeout)


def forget(fd: int) -> None:
    """Wakes every task that waits for `fd`, in the loop of this thread and in those of others.

    Call it before closing the descriptor. Who is woken sees True, tries, and finds the handle closed.
    """
    for loop, watch in list(_watches.items()):
        if watch.waits_for(fd):
            with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits any more
                loop.call_soon_threadsafe(watch.wake, fd, -1)


class _Watch:
    """The epoll of one loop, and who waits for what in it. It does not keep the loop alive."""

    __slots__ = ("_epoll", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, list[tuple[int, asyncio.Future[bool]]]] = {}
        loop.add_reader(self._epoll.fileno(), self._on_events)

    def waits_for(self, fd: int) -> bool:
        return fd in self._waiting

    async def wait(
        self, loop: asyncio.AbstractEventLoop, fd: int, events: int, timeout: float | None
    ) -> bool:
        if timeout is not None and timeout <= 0:
            return _look(fd, events)
        future: asyncio.Future[bool] = loop.create_future()
        waiting = self._waiting.setdefault(fd, [])
        entry = (events, future)
        waiting.append(entry)
        timer: asyncio.TimerHandle | None = None
        try:
            if not self._arm(fd):
                return True
            if timeout is not None:
                timer = loop.call_later(timeout, _answer, future, False)
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            if entry in waiting:  # timed out or cancelled; what is armed fires once, for nobody
                waiting.remove(entry)
            if not waiting and self._waiting.get(fd) is waiting:
                del self._waiting[fd]

    def wake(self, fd: int, events: int) -> None:
        """Answers who waits for any of `events`, and arms again for the others."""
        waiting = self._waiting.get(fd)
        if waiting is None:
            return
        rest = []
        for entry in waiting:
            if entry[0] & events:
                _answer(entry[1], True)
            else:
                rest.append(entry)
        if rest:
            waiting[:] = rest
            with contextlib.suppress(OSError):  # closed meanwhile: as below
                self._arm(fd)
        else:
            waiting.clear()
            del self._waiting[fd]

    def _on_events(self) -> None:
        for fd, events in self._epoll.poll(0):
            self.wake(fd, -1 if events & _BAD else events)

    def _arm(self, fd: int) -> bool:
        """Asks for one event; False where the kernel cannot wait for such a file, because it never blocks."""
        events = select.EPOLLONESHOT
        for wanted, _ in self._waiting[fd]:
            events |= wanted
        # Mostly it is registered from the wait before; never, or another file has the number now, if not.
        for call in (self._epoll.modify, self._epoll.register, self._epoll.modify):
            try:
                call(fd, events)
            except OSError as error:
                if error.errno == errno.EPERM:
                    return False
                if error.errno not in (errno.ENOENT, errno.EEXIST):
                    raise
            else:
                return True
        raise OSError(errno.EBADF, f"descriptor {fd} was closed while a task waited for it")


def _answer(future: "asyncio.Future[bool]", answer: bool) -> None:
    if not future.done():
        future.set_result(answer)


def _look(fd: int, events: int) -> bool:
    poll = select.poll()
    poll.register(fd, events)  # poll and epoll have the same bits for these
    return bool(poll.poll(0))


_watches: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch]" = weakref.WeakKeyDictionary()
