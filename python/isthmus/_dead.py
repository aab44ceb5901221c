"""`q.dead`: the messages of a queue that nobody could use, and why."""

from collections.abc import Iterator
from typing import NamedTuple

from . import _core
from ._errors import Empty

__all__ = ["DeadLetter", "DeadLetters"]


class DeadLetter(NamedTuple):
    """A message that nobody could use."""

    data: bytes
    """The message as it was put, encoded; empty in what `peek()` gives."""
    reason: str
    """What the last consumer said: the error it ended with, or that it was killed."""
    sender: int | None
    """Process id of who put it; None where that process is not known any more."""
    deliveries: int
    """How often it was handed out."""
    number: int
    """Which message of its priority it is, from 0."""
    priority: int
    """Its level of priority."""
    size: int
    """Its bytes."""


class DeadLetters:
    """The messages of one queue that were handed out too often, rejected, or could not be decoded.

    They stay until they are taken or put back, and use a lease each until then.
    """

    __slots__ = ("_queue",)

    def __init__(self, queue: _core.Queue) -> None:
        self._queue = queue

    def __len__(self) -> int:
        return len(self._queue._letters())

    def __bool__(self) -> bool:
        return len(self) > 0

    def __iter__(self) -> Iterator[DeadLetter]:
        """Takes them one by one, oldest first, until there are none."""
        while (row := self._queue._letter()) is not None:
            yield DeadLetter(*row)

    def get(self) -> DeadLetter:
        """Takes the oldest one; `Empty` where there is none."""
        row = self._queue._letter()
        if row is None:
            raise Empty("no message of this queue is dead")
        return DeadLetter(*row)

    def peek(self) -> list[DeadLetter]:
        """All of them, oldest first, without their data; they stay."""
        return [DeadLetter(*row) for row in self._queue._letters()]

    def requeue(self) -> int:
        """Hands all of them out again, before all other messages and as if never delivered; says how many."""
        return self._queue._requeue()

    def __repr__(self) -> str:
        return f"<isthmus.DeadLetters of {self._queue!r}>"
