"""What tests of queues share: messages that show where they were cut, filling up, emptying."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import isthmus

KIB = 1 << 10
MIB = 1 << 20

LEASES_OF_64_KIB = 16
"""How many leases the smallest queue has; see `layout.rs`."""


def pattern(size: int, salt: int = 0) -> bytes:
    """`size` bytes in which no two places of a page look alike; another `salt`, another pattern."""
    turned = bytes((value + salt) % 251 for value in range(251))
    return (turned * (size // 251 + 1))[:size]


def fill(handle: isthmus.Queue[Any], size: int, priority: int = 0) -> int:
    """Puts messages until the queue is full; says how many."""
    count = 0
    while True:
        try:
            handle.put(bytes(size), timeout=0, priority=priority)
        except isthmus.Full:
            return count
        count += 1


def drain(handle: isthmus.Queue[Any]) -> list[Any]:
    """Everything that is in a queue."""
    messages = []
    with contextlib.suppress(isthmus.Empty, isthmus.ShutDown):
        while True:
            messages.append(handle.get(timeout=0))
    return messages


def limit_of(handle: isthmus.Queue[Any]) -> int:
    """The largest message that a queue ever takes, as it says itself."""
    try:
        handle.put(bytes(handle.capacity + 1), timeout=0)
    except isthmus.TooLarge as refused:
        return refused.limit
    raise AssertionError("a message larger than the queue was taken")


def idle(handle: isthmus.Queue[Any]) -> bool:
    """Nothing is inside, on lease or dead, and all memory is free."""
    stats = handle.stats()
    return (stats.depth, stats.leased, stats.dead, stats.bytes_in_use) == (0, 0, 0, 0)


@contextlib.contextmanager
def queue_of_bytes(name: str | None = None, **attributes: Any) -> Iterator[isthmus.Queue[bytes]]:
    """A queue of bytes; what a test leaves in it is thrown away without a warning."""
    attributes = {"capacity": MIB, **attributes}
    handle = isthmus.Queue(name, type=bytes, **attributes)
    try:
        yield handle
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            handle.close()
