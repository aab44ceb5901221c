"""cloudtoid-interprocess: a shared-memory ring; fastest when its caller polls.

Its subscriber zeroes what it has read, so a ring that fits in a cache is good; a larger one rides out
interruptions. Which is best depends on the machine: streams try several.
There is no blocking send: both modes poll when the ring is full. `receive` sleeps on a named
semaphore at once, without spinning, and looks again every 5 ms.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from .base import Channel, Peer, Place, Receiver, Sender

RINGS = (256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
USUAL = 4 << 20


def rings(size: int) -> list[int]:
    """Those that hold four messages, and the smallest that holds two."""
    record = (size + 64) & ~7
    return sorted({max(RINGS[0], 2 * record), *(ring for ring in RINGS if ring >= 4 * record)})


class CloudtoidChannel(Channel):
    def __init__(self, place: Place, size: int, buffer: int = 0, *, polled: bool) -> None:
        ring = buffer or max(USUAL, 4 * (size + 64) & ~7)
        self.arguments = (place.name, ring, str(place.directory))
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
    buffers=rings,
    batches=True,
    note="`try_send` and `try_receive` called in a loop until they succeed: a whole core on each side",
)

BLOCKING = Peer(
    "cloudtoid-block",
    "cloudtoid, blocking",
    functools.partial(CloudtoidChannel, polled=False),
    module="cloudtoid_interprocess",
    distribution="cloudtoid-interprocess",
    buffers=rings,
    note="`receive` blocks; there is no blocking send, so the sender polls `try_send` when the ring is full",
)
