"""What tests of queues share: messages to tell apart, filling up, emptying."""

from __future__ import annotations

import isthmus

MIB = 1 << 20


def drain(handle: isthmus.Queue[bytes]) -> list[bytes]:
    """Everything that is in a queue."""
    messages = []
    while True:
        try:
            messages.append(handle.get(timeout=0))
        except isthmus.Empty:
            return messages


def pattern(size: int) -> bytes:
    """`size` bytes in which no two places of a page look alike."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def fill(handle: isthmus.Queue[bytes], size: int) -> int:
    """Puts messages until the queue is full; says how many."""
    count = 0
    while True:
        try:
            handle.put(bytes(size), timeout=0)
        except isthmus.Full:
            return count
        count += 1


def limit_of(handle: isthmus.Queue[bytes]) -> int:
    """The largest message that a queue ever takes, as it says itself."""
    try:
        handle.put(bytes(handle.capacity + 1), timeout=0)
    except isthmus.TooLarge as refused:
        return refused.limit
    raise AssertionError("a message larger than the queue was taken")
