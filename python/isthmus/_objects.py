"""What is in a namespace: listing it, and removing what nobody uses."""

import os
from typing import NamedTuple

from . import _core

__all__ = ["ObjectInfo", "clean", "objects", "remove"]


class ObjectInfo(NamedTuple):
    """One object of a namespace, as `isthmus ls` shows it."""

    name: str
    kind: str
    """`"queue"`, `"mutex"`, `"value"` or `"memory"`; `"?"` where it could not be read (see `problem`)."""
    size: int
    """Bytes of the whole file."""
    created: float
    """Seconds since the epoch."""
    persistent: bool
    depth: int | None
    """Messages inside, of a queue."""
    capacity: int | None
    """Bytes for messages, of a queue; bytes of content, of a shared memory."""
    attached: list[tuple[int, str]]
    """Process id and command of every living process that uses the object."""
    problem: str | None
    """Why the object cannot be used; None for a sound one."""
    value: int | float | None
    """The number in a value."""


def objects(namespace: str | os.PathLike[str] | None = None) -> list[ObjectInfo]:
    """Lists the objects of a namespace, by name, without disturbing anybody who uses them."""
    return [ObjectInfo(*entry) for entry in _core.objects(namespace)]


def clean(namespace: str | os.PathLike[str] | None = None) -> list[str]:
    """Removes the objects whose users are all gone, except persistent ones; returns their names."""
    return _core.clean(namespace)


def remove(name: str, namespace: str | os.PathLike[str] | None = None) -> None:
    """Removes the name of an object of any kind, persistent or in use, sound or damaged.

    Processes that use it keep what they have, and the memory goes with the last of them; whoever opens the
    name from now on finds nothing, or a new object. `FileNotFoundError` where there is no such name,
    `IncompatibleError` where it is no object: a foreign file is never removed.
    """
    _core.remove(name, namespace)
