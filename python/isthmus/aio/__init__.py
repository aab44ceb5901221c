"""asyncio: the same names and the same verbs, awaited.

`aio.X(x)` wraps a handle that sync code goes on using; `aio.X(name, …)` opens or creates one. What may wait
is awaited; what never waits is called as in `isthmus` itself. Works on asyncio's own loops and on uvloop, any
number of loops in a process, one a thread. No thread is started but by `NamedSemaphore`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from .mutex import Mutex
from .queue import Queue
from .select import select

if _TYPE_CHECKING:
    from ._pipeline import Pipeline, pipeline
    from .barrier import Barrier
    from .condition import Condition
    from .datagram import Datagram
    from .event import Event
    from .fifo import Fifo, FifoClient, FifoReader, FifoRequest, FifoServer, FifoWriter
    from .listener import Listener
    from .lockset import LockSet
    from .mapped_file import RangeLock
    from .mutex import RLock
    from .named_semaphore import NamedSemaphore
    from .pipe import Pipe, PipeEnd, PipeReader, PipeWriter
    from .posix_mq import PosixQueue
    from .rwlock import RWLock
    from .semaphore import BoundedSemaphore, Semaphore
    from .stream import Stream

_LATER = {
    "Barrier": "barrier",
    "BoundedSemaphore": "semaphore",
    "Condition": "condition",
    "Datagram": "datagram",
    "Event": "event",
    "Fifo": "fifo",
    "FifoClient": "fifo",
    "FifoReader": "fifo",
    "FifoRequest": "fifo",
    "FifoServer": "fifo",
    "FifoWriter": "fifo",
    "Listener": "listener",
    "LockSet": "lockset",
    "NamedSemaphore": "named_semaphore",
    "Pipe": "pipe",
    "PipeEnd": "pipe",
    "PipeReader": "pipe",
    "PipeWriter": "pipe",
    "Pipeline": "_pipeline",
    "PosixQueue": "posix_mq",
    "RLock": "mutex",
    "RWLock": "rwlock",
    "RangeLock": "mapped_file",
    "Semaphore": "semaphore",
    "Stream": "stream",
    "pipeline": "_pipeline",
}
"""Names by the module that has them, imported when one is asked for."""

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Datagram",
    "Event",
    "Fifo",
    "FifoClient",
    "FifoReader",
    "FifoRequest",
    "FifoServer",
    "FifoWriter",
    "Listener",
    "LockSet",
    "Mutex",
    "NamedSemaphore",
    "Pipe",
    "PipeEnd",
    "PipeReader",
    "PipeWriter",
    "Pipeline",
    "PosixQueue",
    "Queue",
    "RLock",
    "RWLock",
    "RangeLock",
    "Semaphore",
    "Stream",
    "pipeline",
    "select",
]

for _name in __all__:
    if _name not in _LATER:
        globals()[_name].__module__ = __name__
del _name


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_LATER[name]}", __name__), name)
    value.__module__ = __name__
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
