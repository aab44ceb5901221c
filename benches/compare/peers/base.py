"""The one small interface every peer has: a channel made before the fork, an end opened on each side."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a channel may keep its files: a directory on tmpfs and a name of its own in it."""

    directory: Path
    name: str


@dataclass
class Sender:
    """The sending end. `send` is the library's own callable, so that no wrapper is measured with it.

    `polled`: `send` answers falsy when there is no room and the caller tries again (`send_batch`
    answers how many went).
    """

    send: Callable[[bytes], Any]
    send_batch: Callable[[Sequence[bytes]], Any] | None = None
    polled: bool = False
    keep: Any = None  # whatever must live as long as the end does


@dataclass
class Receiver:
    """The receiving end. `polled`: `recv` answers None when there is nothing and the caller tries again."""

    recv: Callable[[], Any]
    recv_batch: Callable[[int], Sequence[Any]] | None = None
    polled: bool = False
    keep: Any = None
    unwrap: Callable[[Any], Any] = bytes  # the message in what `recv` answers; used to verify, untimed


class Channel(ABC):
    """One direction. Made in the parent; each end is opened by the process that uses it."""

    @abstractmethod
    def sender(self) -> Sender: ...

    @abstractmethod
    def receiver(self) -> Receiver: ...

    def close(self) -> None:  # noqa: B027  most have nothing to clean up
        """Called in the parent after both processes have gone."""


@dataclass(frozen=True)
class Library:
    """Something to compare with, and whether it is here."""

    key: str
    title: str
    module: str | None = field(default=None, kw_only=True)  # must be importable; None: standard library
    distribution: str | None = field(default=None, kw_only=True)
    note: str = field(default="", kw_only=True)

    def absent(self) -> str | None:
        """Why it cannot be measured, without importing it; None when it can."""
        if self.module is None or importlib.util.find_spec(self.module) is not None:
            return None
        return f"{self.distribution or self.module} is not installed"

    def version(self) -> str | None:
        if self.distribution is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Peer(Library):
    """A way to move messages."""

    connect: Callable[[Place, int], Channel]  # place and size of a message
    largest: int | None = field(default=None, kw_only=True)  # bytes of the largest message it can move
    batches: bool = field(default=False, kw_only=True)
    # Sizes of its buffer worth trying for messages of a size; `connect` then takes `buffer=`.
    buffers: Callable[[int], Sequence[int]] | None = field(default=None, kw_only=True)


Opened = Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]  # acquire and release, in a process


@dataclass(frozen=True)
class LockPeer(Library):
    """A lock two processes can share: `prepare` in the parent, what it answers called in each process."""

    prepare: Callable[[Place], Opened]
    clean: Callable[[Place], None] | None = field(default=None, kw_only=True)  # after the processes have gone
    single: bool = field(default=False, kw_only=True)  # one call, nothing to give back
