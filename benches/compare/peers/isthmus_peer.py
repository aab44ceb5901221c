"""Isthmus at its defaults: blocking calls; the capacity is the default unless a message needs more."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .base import Channel, LockPeer, Opened, Peer, Place, Receiver, Sender

DEFAULT_CAPACITY = 8 << 20
# Messages a queue should be able to hold. Two are enough to keep both sides copying; tried with four: 6 MiB
# messages then run through 24 MiB of blocks, out of this machine's cache, and lose a quarter of their speed.
IN_FLIGHT = 2


def namespace(place: Place) -> str:
    """A directory of its own, closed to others as a namespace must be."""
    directory = place.directory / "isthmus"
    directory.mkdir(mode=0o700, exist_ok=True)
    return str(directory)


class QueueChannel(Channel):
    def __init__(self, place: Place, size: int, capacity: int | None = None) -> None:
        self.place = place
        self.options: dict[str, Any] = {"namespace": namespace(place)}
        # Half of a capacity is for messages of this size.
        wanted = capacity or 2 * IN_FLIGHT * (size + 4096)
        if wanted > DEFAULT_CAPACITY:
            self.options["capacity"] = wanted

    def open(self) -> Any:
        return importlib.import_module("isthmus").Queue(self.place.name, type=bytes, **self.options)

    def sender(self) -> Sender:
        queue = self.open()
        return Sender(queue.put, queue.put_many, keep=queue)

    def receiver(self) -> Receiver:
        queue = self.open()
        return Receiver(queue.get, queue.get_many, keep=queue)


def prepare_mutex(place: Place) -> Opened:
    directory = namespace(place)

    def open_mutex() -> tuple[Callable[[], Any], Callable[[], Any]]:
        mutex = importlib.import_module("isthmus").Mutex(place.name, namespace=directory)
        return mutex.acquire, mutex.release

    return open_mutex


QUEUE = Peer(
    "isthmus",
    "Isthmus",
    QueueChannel,
    module="isthmus",
    distribution="isthmus",
    batches=True,
    note="`Queue.put` and `Queue.get`, blocking, default capacity (8 MiB; room for two messages if more)",
)

MUTEX = LockPeer("isthmus", "Isthmus Mutex", prepare_mutex, module="isthmus", distribution="isthmus")
