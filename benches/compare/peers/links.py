"""Both directions between two processes at once: what a connection is, in one loop or in none."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .base import Library, Place

T = TypeVar("T")
PATIENCE = 10.0  # seconds until the other side must listen


@dataclass
class Ends:
    """What one process has of a link. With a loop, `send` and `recv` answer awaitables.

    `finish` is called after a burst, where a library keeps small messages back for a while.
    """

    send: Callable[[bytes], Any]
    recv: Callable[[], Any]
    keep: Any = None
    finish: Callable[[], Any] | None = None
    unwrap: Callable[[Any], bytes] = bytes


class Link(ABC):
    """Made in the parent, opened by both processes at the same time."""

    @abstractmethod
    def ends(self, answers: bool) -> Any:
        """`Ends`, or a coroutine that answers them; the one who `answers` listens."""

    def close(self) -> None:  # noqa: B027  most have nothing to clean up
        """Called in the parent after both processes have gone."""


@dataclass(frozen=True)
class LinkPeer(Library):
    """A way to talk to another process; `loop` says in which event loop, if in one."""

    connect: Callable[[Place, int], Link]
    loop: str | None = field(default=None, kw_only=True)


def persist(attempt: Callable[[], T]) -> T:
    """Tries until the other side listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
