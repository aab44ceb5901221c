"""`select`: waits for the first of several things, of isthmus and of the operating system."""

import os
import select as _poll
import threading
import time
from types import TracebackType
from typing import Any, Self

from . import _core, _stopping
from ._errors import ClosedError

__all__ = ["Writable", "select"]


class Writable:
    """In `select`: ready when something can be put or written, instead of got or read.

    Of a queue: when it is filled less than `below` (0.0 to 1.0, as in `Queue.wait_writable`).
    """

    # No dataclass: importing that takes longer than all of isthmus.
    __slots__ = {"below": "The mark, of a queue.", "thing": "What to wait for."}

    thing: Any
    below: float

    def __init__(self, thing: Any, *, below: float = 1.0) -> None:
        self.thing = thing
        self.below = below

    def __repr__(self) -> str:
        return f"Writable({self.thing!r}, below={self.below})"


class Descriptor:
    """A descriptor among what `select` waits for, and whether it is ours to close."""

    __slots__ = ("_owned", "events", "fd")

    def __init__(self, fd: int, events: int, *, owned: bool = False) -> None:
        self.fd = fd
        self.events = events
        self._owned = owned

    def ready(self) -> bool:
        """Whether it is ready now. `POLLNVAL` counts: what comes next says what is wrong."""
        poll = _poll.poll()
        poll.register(self.fd, self.events)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Ends what was made for the wait."""
        if self._owned:
            self._owned = False
            os.close(self.fd)


class Ended:
    """A process that has ended already."""

    __slots__ = ()

    def ready(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Nothing to end."""


Target = _core.Wait | Descriptor | Ended


def target(thing: Any) -> Target:
    """What to wait for, for one of the things that users give."""
    if isinstance(thing, Writable):
        inner = _inner(thing.thing)
        if isinstance(inner, _core.Queue):
            inner.wait_writable(0, below=thing.below)  # says what is wrong with handle or mark
            return _core.Wait.below(inner, thing.below)
        return Descriptor(_descriptor(inner, thing.thing), _poll.POLLOUT)
    inner = _inner(thing)
    if isinstance(inner, _core.Queue):
        inner.empty()  # says what is wrong with the handle
        return _core.Wait.readable(inner)
    if isinstance(inner, _core.Mutex):
        inner.locked()
        return _core.Wait.mutex(inner)
    if hasattr(inner, "sentinel"):  # multiprocessing.Process
        return Descriptor(inner.sentinel, _poll.POLLIN)
    if not isinstance(inner, int) and not hasattr(inner, "fileno") and hasattr(inner, "pid"):
        return _process(inner)
    return Descriptor(_descriptor(inner, thing), _poll.POLLIN)


def _inner(thing: Any) -> Any:
    # What a class of isthmus.aio wraps.
    wrapped = getattr(thing, "sync", None)
    return wrapped if isinstance(wrapped, _core.Queue | _core.Mutex) else thing


def _descriptor(inner: Any, thing: Any) -> int:
    if isinstance(inner, bool) or not (isinstance(inner, int) or hasattr(inner, "fileno")):
        raise TypeError(
            f"select waits for queues, locks, processes, descriptors and what has fileno(), not for {thing!r}"
        )
    fd = inner if isinstance(inner, int) else inner.fileno()
    if fd < 0:
        raise ClosedError(f"{thing!r} is closed: its descriptor is {fd}")
    return int(fd)


def _process(process: Any) -> Target:
    # A child that was waited for has no process any more; its number may be another's.
    if getattr(process, "returncode", None) is not None:
        return Ended()
    try:
        return Descriptor(os.pidfd_open(process.pid), _poll.POLLIN, owned=True)
    except ProcessLookupError:
        return Ended()


class _Bells(threading.local):
    """The bells of a thread, one a namespace it has waited in; kept for the next wait."""

    def __init__(self) -> None:
        self._bells: dict[str, _core.Bell] = {}

    def of(self, namespace: str) -> _core.Bell:
        bell = self._bells.get(namespace)
        if bell is None or bell.closed:  # closed: made before a fork, by the parent
            bell = self._bells[namespace] = _core.Bell(namespace)
        return bell


_bells = _Bells()


class Targets:
    """What to wait for, ended afterwards."""

    __slots__ = ("found",)

    def __init__(self, things: tuple[Any, ...]) -> None:
        self.found: list[Target] = []
        try:
            for thing in things:
                self.found.append(target(thing))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends what was made for the wait."""
        for each in self.found:
            if not isinstance(each, _core.Wait):
                each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def select(*things: Any, timeout: float | None = None) -> list[Any]:
    """Waits for the first of several things; those that are ready, in the order given, or [] in vain.

    - A queue is ready when `get` would not wait (also where it would raise, because the queue has ended), and
      `Writable(queue, below=0.5)` when it is filled less than that.
    - A lock is ready when `acquire` would not wait, also where it would raise `OwnerDied`.
    - A process (`subprocess.Popen`, `multiprocessing.Process`, anything with a `pid`) is ready when it has
      ended.
    - A descriptor, a socket, a pipe, anything with `fileno()` is ready when it can be read, and
      `Writable(it)` when it can be written.

    Nothing is taken: another thread or process may be faster, so go on with `timeout=0`. `timeout` is in
    seconds, None waits, 0 looks. A peer that is killed does not keep it waiting for what came before, and its
    end counts as ready where it ends a queue or a lock. `isthmus.aio.select` is the same, awaited. Needs a
    descriptor for each namespace and each process given. `ShutDown` when this process is asked to end
    (`graceful_shutdown`), unless it waits for room and locks only. See poll(2), pidfd_open(2).
    """
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is {timeout}: it takes seconds from 0 (looks) upwards, or None (waits)")
    with Targets(things) as targets:
        ready = _wait(targets.found, timeout, work=any(map(_is_work, things)))
    return [thing for thing, is_ready in zip(things, ready, strict=True) if is_ready]


def _is_work(thing: Any) -> bool:
    """Whether something is to come, other than room or a lock."""
    return not isinstance(thing, Writable) and not isinstance(_inner(thing), _core.Mutex)


def _wait(found: list[Target], timeout: float | None, *, work: bool) -> list[bool]:
    ready = [each.ready() for each in found]
    if any(ready) or timeout == 0:
        return ready
    end = None if timeout is None else time.monotonic() + timeout
    poll = _poll.poll()
    bells: dict[int, _core.Bell] = {}
    waits: list[tuple[_core.Wait, _core.Bell]] = []
    for each in found:
        if isinstance(each, _core.Wait):
            bell = _bells.of(each.namespace)
            each.token(bell)  # says what is wrong, such as too many who wait
            waits.append((each, bell))
            bells[bell.fileno()] = bell
        elif isinstance(each, Descriptor):
            poll.register(each.fd, each.events)
    for fd in bells:
        poll.register(fd, _poll.POLLIN)
    stop: int | None = None
    nap = min((wait.slice for wait, _ in waits), default=3600.0)
    try:
        while True:
            # Anew each time: it is closed at the end of the block, and the number may be another's then.
            if stop is not None:
                poll.unregister(stop)
            if (stop := _stopping.bell if work else None) is not None:
                poll.register(stop, _poll.POLLIN)
            # SYNC(wait): armed, then looked at again.
            rung = [wait.arm(bell) for wait, bell in waits]
            left = nap if end is None else min(nap, end - time.monotonic())
            got = poll.poll(0 if any(rung) else max(0.0, left) * 1000)
            for fd, _ in got:
                if fd in bells:
                    bells[fd].read()
            if not got:
                for wait, _ in waits:
                    wait.look()
            ready = [each.ready() for each in found]
            if any(ready) or (end is not None and time.monotonic() >= end):
                return ready
            if work:
                _stopping.heed()
    finally:
        for wait, bell in waits:
            wait.disarm(bell)
            # It took nothing: the wake-up is for others.
            wait.pass_on()
