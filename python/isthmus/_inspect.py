"""A close look at one object, from outside: nothing is opened, taken or held up by it."""

import os
from typing import Any, NamedTuple

from . import _core

__all__ = ["Attachment", "Inspection", "PeekedMessage", "inspect"]


class Attachment(NamedTuple):
    """A living process that uses an object, with all its handles together."""

    pid: int
    command: str
    """The beginning of its command line."""
    uid: int
    """Its user."""
    roles: list[str]
    """`"producer"` once it has put a message, `"consumer"` once it has asked for one; of a queue."""
    handles: int
    """How many handles it has open."""
    event_loops: int
    """How many of its event loops have waited here."""
    waiting_to_put: int
    """Threads that wait for room now."""
    waiting_to_get: int
    """Threads that wait for a message now."""


class PeekedMessage(NamedTuple):
    """A message that was seen, and is where it was."""

    state: str
    """`"waiting"`, `"returned"` (a consumer gave it back), `"leased"`, or `"dead"` (nobody could use it)."""
    number: int
    """Which message of its priority it is, from 0."""
    priority: int
    """Its level of priority."""
    size: int
    """Its bytes."""
    deliveries: int
    """How often it was handed out."""
    sender: int | None
    """Process id of who put it; None where that process is not known any more."""
    holder: int | None
    """Process id of who has it on lease, dead or alive."""
    reason: str
    """What the last consumer said that gave it back."""
    data: bytes
    """The beginning of the message, encoded as the queue's type is."""


class Inspection(NamedTuple):
    """What can be seen of an object. What processes change is read at slightly different moments."""

    name: str
    kind: str
    """`"queue"`, `"mutex"` …; `"?"` where the file could not be read (see `problem`)."""
    size: int
    """Bytes of the whole file."""
    created: float
    """Seconds since the epoch."""
    persistent: bool
    version: int
    """Version of the layout of its kind."""
    attached: list[Attachment]
    """The living processes that use it, by process id."""
    problem: str | None
    """Why it cannot be used, or its messages not be read; None for a sound object."""
    attributes: dict[str, Any]
    """What it was created with; of a queue type, fingerprint of the type, capacity, priorities …"""
    layout: dict[str, Any]
    """How its memory is divided, in bytes; of a queue."""
    state: dict[str, Any]
    """What it holds now: of a queue depth, leased, dead …, of a mutex its owner, of a value the number, of a
    shared memory the bytes of its content."""
    messages: list[PeekedMessage]
    """Of a queue: those that consumers get next, in this order, then all on lease, then all that are dead."""


def inspect(
    name: str, *, messages: int = 10, size: int = 4096, namespace: str | os.PathLike[str] | None = None
) -> Inspection:
    """Looks closely at an object without disturbing anybody: it takes no lock and opens nothing.

    Of a queue at most `messages` of the next messages are read and all that are on lease or dead, with at
    most `size` bytes of each; they stay where they are. An object that is damaged or foreign says so in
    `problem`. Raises `FileNotFoundError` where there is no such name.
    """
    row, attributes, layout, state, seen = _core.look(name, messages, size, namespace)
    kind, length, created, persistent, version, attached, problem = row
    return Inspection(
        name,
        kind,
        length,
        created,
        persistent,
        version,
        [Attachment(*one) for one in attached],
        problem,
        attributes,
        layout,
        state,
        [PeekedMessage(*one) for one in seen],
    )
