"""Inter-process communication on Linux that does not hang, leak or tear when a peer dies.

Public is what `__all__` lists here, and the command `isthmus`. Modules and names that begin with an
underscore are private, the native module `isthmus._core` included.
"""

import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _sys.platform != "linux":
    raise ImportError(f"isthmus works on Linux only (futex, flock, /proc); this is {_sys.platform}")

try:
    from ._core import __version__ as __version__
except ImportError as error:
    raise ImportError(
        f"the native module of isthmus does not load ({error}); install a wheel for this machine, "
        "or build it with `pip install .` in a checkout (needs Rust)"
    ) from error

from ._codec import Codec
from ._core import Lease, Reservation, View
from ._dead import DeadLetter, DeadLetters
from ._errors import (
    BrokenBarrierError,
    BuriedError,
    ClosedError,
    CorruptError,
    DeadlockError,
    Denied,
    Empty,
    Full,
    IncompatibleError,
    InvalidMessage,
    IsthmusError,
    NoSpaceError,
    NotOwnerError,
    OwnerDied,
    PeerDied,
    Refused,
    ShutDown,
    StageFailed,
    Timeout,
    TooLarge,
    Undelivered,
    Unreachable,
    Unsupported,
)
from ._objects import ObjectInfo, clean, objects, remove
from .mutex import Mutex
from .queue import Queue, QueueStats
from .value import Value

if _TYPE_CHECKING:
    from ._doctor import Diagnosis, Finding, doctor
    from ._fifo_calls import FifoClient, FifoRequest, FifoServer
    from ._inspect import Attachment, Inspection, PeekedMessage, inspect
    from ._pipeline import Pipeline, StageProgress, pipeline
    from ._select import Writable, select
    from .barrier import Barrier
    from .condition import Condition
    from .event import Event
    from .fifo import Fifo, FifoReader, FifoWriter
    from .lockset import LockSet
    from .mapped_file import MappedFile, RangeLock
    from .named_semaphore import NamedSemaphore, NamedSemaphoreInfo
    from .pipe import Pipe, PipeEnd, PipeReader, PipeWriter
    from .posix_mq import PosixQueue, PosixQueueInfo, PosixQueueStats
    from .rlock import RLock
    from .rwlock import RWLock
    from .semaphore import BoundedSemaphore, Semaphore
    from .shared_array import SharedArray
    from .shared_memory import SharedMemory
    from .socket import (
        Backoff,
        Credentials,
        Datagram,
        DatagramStats,
        Listener,
        ListenerStats,
        Received,
        Stream,
        Tls,
    )

_LATER = {
    "_doctor": ("Diagnosis", "Finding", "doctor"),
    "socket": (
        "Backoff",
        "Credentials",
        "Datagram",
        "DatagramStats",
        "Listener",
        "ListenerStats",
        "Received",
        "Stream",
        "Tls",
    ),
    "barrier": ("Barrier",),
    "condition": ("Condition",),
    "event": ("Event",),
    "lockset": ("LockSet",),
    "rlock": ("RLock",),
    "rwlock": ("RWLock",),
    "semaphore": ("BoundedSemaphore", "Semaphore"),
    "_fifo_calls": ("FifoClient", "FifoRequest", "FifoServer"),
    "_pipeline": ("Pipeline", "StageProgress", "pipeline"),
    "_inspect": ("Attachment", "Inspection", "PeekedMessage", "inspect"),
    "_select": ("Writable", "select"),
    "fifo": ("Fifo", "FifoReader", "FifoWriter"),
    "mapped_file": ("MappedFile", "RangeLock"),
    "named_semaphore": ("NamedSemaphore", "NamedSemaphoreInfo"),
    "pipe": ("Pipe", "PipeEnd", "PipeReader", "PipeWriter"),
    "posix_mq": ("PosixQueue", "PosixQueueInfo", "PosixQueueStats"),
    "shared_array": ("SharedArray",),
    "shared_memory": ("SharedMemory",),
}
"""Public names by the module that has them, imported when one is asked for: `import isthmus` stays cheap."""
_LATER_MODULES = {name: module for module, names in _LATER.items() for name in names}

__all__ = [
    "Attachment",
    "Backoff",
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "BuriedError",
    "ClosedError",
    "Codec",
    "Condition",
    "CorruptError",
    "Credentials",
    "Datagram",
    "DatagramStats",
    "DeadLetter",
    "DeadLetters",
    "DeadlockError",
    "Denied",
    "Diagnosis",
    "Empty",
    "Event",
    "Fifo",
    "FifoClient",
    "FifoReader",
    "FifoRequest",
    "FifoServer",
    "FifoWriter",
    "Finding",
    "Full",
    "IncompatibleError",
    "Inspection",
    "InvalidMessage",
    "IsthmusError",
    "Lease",
    "Listener",
    "ListenerStats",
    "LockSet",
    "MappedFile",
    "Mutex",
    "NamedSemaphore",
    "NamedSemaphoreInfo",
    "NoSpaceError",
    "NotOwnerError",
    "ObjectInfo",
    "OwnerDied",
    "PeekedMessage",
    "PeerDied",
    "Pipe",
    "PipeEnd",
    "PipeReader",
    "PipeWriter",
    "Pipeline",
    "PosixQueue",
    "PosixQueueInfo",
    "PosixQueueStats",
    "Queue",
    "QueueStats",
    "RLock",
    "RWLock",
    "RangeLock",
    "Received",
    "Refused",
    "Reservation",
    "Semaphore",
    "SharedArray",
    "SharedMemory",
    "ShutDown",
    "StageFailed",
    "StageProgress",
    "Stream",
    "Timeout",
    "Tls",
    "TooLarge",
    "Undelivered",
    "Unreachable",
    "Unsupported",
    "Value",
    "View",
    "Writable",
    "clean",
    "doctor",
    "inspect",
    "objects",
    "pipeline",
    "remove",
    "select",
]

# Users see, catch and pickle `isthmus.Full`, wherever it is written down.
for _name in __all__:
    if _name not in _LATER_MODULES and globals()[_name].__module__ != __name__:
        globals()[_name].__module__ = __name__
del _name, _sys, _LATER


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "signals":
        return import_module(".signals", __name__)
    if name not in _LATER_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LATER_MODULES[name]}", __name__), name)
    value.__module__ = __name__
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
