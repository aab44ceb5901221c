"""`Queue`: each message goes to one consumer, in any process. The native class does the work."""

from typing import NamedTuple

from . import _core

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
    """Bytes of the capacity that are taken."""
    capacity: int
    """Bytes for messages."""
    largest: int
    """The largest message that can ever fit, in bytes."""
    attached: int
    """Living processes that use the queue."""
    producers_waiting: int
    """Producers asleep because it is full (an estimate)."""
    consumers_waiting: int
    """Consumers asleep because it is empty (an estimate)."""


class Queue(_core.Queue):  # noqa: D101 - the native class explains itself
    __doc__ = _core.Queue.__doc__
    __slots__ = ()

    def stats(self) -> QueueStats:
        """Depth, counts, memory and who is attached, as a named tuple."""
        return QueueStats(*self._stats())
