"""`Queue`: each message goes to one consumer, in any process. The native class does the work."""

import os
from typing import NamedTuple, Self

from . import _core
from ._errors import ClosedError, Unsupported

__all__ = ["Queue", "QueueStats"]


class QueueStats(NamedTuple):
    """What is known of a queue at one moment; the numbers may be a few messages apart from each other."""

    depth: int
    """Messages inside."""
    put: int
    """Messages ever put."""
    got: int
    """Messages ever got."""
    bytes_in_use: int
    """Bytes of the capacity that are taken, headers included."""
    capacity: int
    """Bytes for messages."""
    largest: int
    """Bytes of the largest message that was ever put."""
    attached: int
    """Living processes that use the queue."""
    producers_waiting: bool
    """Producers may be asleep because it is full."""
    consumers_waiting: bool
    """Consumers may be asleep because it is empty."""


class Queue(_core.Queue):
    """A queue of bytes in shared memory: each message goes to one consumer, in any process.

    `Queue(name)` opens the queue of that name in the namespace, or creates it; what exists is accepted in
    every attribute that is not given, and an attribute that differs is an `IncompatibleError`.
    `Queue.create` insists on a new one, `Queue.open` on one that exists. `Queue()` is anonymous: it reaches
    other processes by fork and by pickling.

    `capacity` is in bytes (8 MiB), reserved at once. `type` is `bytes`, the only one there is yet: messages
    are any contiguous buffers and come out as bytes. `persistent` keeps the queue when the last process
    closes it, until `unlink()`. With `ends_with_producers` consumers get the end when the queue is empty
    and the last producer has closed its handle, and `PeerDied` when that one was killed. `namespace` is
    the directory; without it ISTHMUS_NAMESPACE counts, and without that the user's own.

    A handle may be used by any number of threads, and by forked children.
    """

    __slots__ = ()

    def __new__(  # noqa: D102 - the class says it
        cls,
        name: str | None = None,
        *,
        capacity: int | None = None,
        type: type[bytes] = bytes,
        persistent: bool | None = None,
        ends_with_producers: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        _check(type)
        return super().__new__(
            cls, name, "open_or_create", capacity, persistent, ends_with_producers, namespace
        )

    @classmethod
    def create(
        cls,
        name: str,
        *,
        capacity: int | None = None,
        type: type[bytes] = bytes,
        persistent: bool | None = None,
        ends_with_producers: bool | None = None,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Creates the queue; `FileExistsError` where the name is taken."""
        _check(type)
        return super().__new__(cls, name, "create", capacity, persistent, ends_with_producers, namespace)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        type: type[bytes] = bytes,
        namespace: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens a queue that exists; `FileNotFoundError` where there is none."""
        _check(type)
        return super().__new__(cls, name, "open", None, None, None, namespace)

    def stats(self) -> QueueStats:
        """Depth, counts, memory and how many are attached."""
        return QueueStats(*self._stats())

    def __del__(self) -> None:
        # A handle that is only dropped is closed, and warns of messages that go with it.
        self.close()

    def __repr__(self) -> str:
        what = "anonymous" if self.name is None else repr(self.name)
        return f"<isthmus.{type(self).__name__} {what}{' (closed)' if self.closed else ''}>"

    def __reduce__(self) -> tuple[object, ...]:
        # A named queue is reopened by its name. An anonymous one is opened through this process, which has
        # to live until then.
        if self.closed:
            raise ClosedError("this handle is closed: it cannot be pickled")
        namespace, name, fd, nonce = self._place()
        if name is None:
            return _adopt, (type(self), os.fspath(namespace), os.getpid(), fd, nonce)
        return _reopen, (type(self), os.fspath(namespace), name)


def _check(kind: object) -> None:
    if kind is not bytes:
        raise Unsupported(f"type={kind!r}: a queue takes bytes only in this version")


def _reopen(cls: type[Queue], namespace: str, name: str) -> Queue:
    return cls.open(name, namespace=namespace)


def _adopt(cls: type[Queue], namespace: str, pid: int, fd: int, nonce: int) -> Queue:
    return _core.Queue.__new__(cls, None, "open", None, None, None, namespace, (pid, fd, nonce))
