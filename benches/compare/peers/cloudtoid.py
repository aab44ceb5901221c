"""cloudtoid-interprocess: a shared-memory ring; fastest when its caller polls.

Its subscriber zeroes what it has read, so a ring that fits in the cache is its best setting.
There is no blocking send: both modes poll when the ring is full. `receive` sleeps on a named
semaphore at once, without spinning, and looks again every 5 ms.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from .base import Channel, Peer, Place, Receiver, Sender

SMALL_RING = 256 << 10
IN_FLIGHT = 3


def ring_size(size: int) -> int:
    return max(SMALL_RING, IN_FLIGHT * (size + 64) & ~7)


class CloudtoidChannel(Channel):
    def __init__(self, place: Place, size: int, *, polled: bool) -> None:
        self.arguments = (place.name, ring_size(size), str(place.directory))
        self.polled = polled

    def library(self) -> Any:
        return importlib.import_module("cloudtoid_interprocess")

    def sender(self) -> Sender:
        publisher = self.library().Publisher(*self.arguments)
        return Sender(publisher.try_send, publisher.try_send_batch, polled=True, keep=publisher)

    def receiver(self) -> Receiver:
        subscriber = self.library().Subscriber(*self.arguments)
        if self.polled:
            return Receiver(subscriber.try_receive, polled=True, keep=subscriber)
        return Receiver(subscriber.receive, keep=subscriber)


POLLED = Peer(
    "cloudtoid-poll",
    "cloudtoid, busy poll",
    functools.partial(CloudtoidChannel, polled=True),
    module="cloudtoid_interprocess",
    distribution="cloudtoid-interprocess",
    batches=True,
    note="`try_send` and `try_receive` called in a loop until they succeed: a whole core on each side",
)

BLOCKING = Peer(
    "cloudtoid-block",
    "cloudtoid, blocking",
    functools.partial(CloudtoidChannel, polled=False),
    module="cloudtoid_interprocess",
    distribution="cloudtoid-interprocess",
    note="`receive` blocks; there is no blocking send, so the sender polls `try_send` when the ring is full",
)
