"""iceoryx2: zero-copy publish and subscribe; here bytes to bytes, as the others, and polled."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from .base import Channel, Peer, Place, Receiver, Sender


def usual_depths(size: int) -> tuple[int, ...]:
    """Messages a subscriber may have waiting; few large ones stay in the cache."""
    return (256, 64, 1024) if size <= 4096 else (8, 4, 2)


def buffers(size: int) -> list[int]:
    return [depth * size for depth in usual_depths(size)]


class IceoryxChannel(Channel):
    """One publisher, one subscriber, nothing discarded. It cannot block for data: its caller polls."""

    def __init__(self, place: Place, size: int, buffer: int = 0) -> None:
        self.name = place.name
        self.size = size
        self.depth = buffer // size if buffer else usual_depths(size)[0]

    def service(self) -> tuple[Any, Any, Any]:
        iox: Any = importlib.import_module("iceoryx2")
        iox.set_log_level(iox.LogLevel.Error)
        node = iox.NodeBuilder.new().create(iox.ServiceType.Ipc)
        builder = node.service_builder(iox.ServiceName.new(self.name))
        service = (
            builder.publish_subscribe(iox.Slice[ctypes.c_uint8])
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(self.depth)
            .open_or_create()
        )
        return iox, node, service

    def sender(self) -> Sender:
        iox, node, service = self.service()
        publisher = (
            service.publisher_builder()
            .initial_max_slice_len(self.size)
            .backpressure_strategy(iox.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        loan, move, size = publisher.loan_slice_uninit, ctypes.memmove, self.size

        def send(message: bytes) -> None:
            sample = loan(size)
            move(sample.payload_ptr, message, size)
            sample.assume_init().send()

        return Sender(send, keep=(node, service, publisher))

    def receiver(self) -> Receiver:
        _, node, service = self.service()
        subscriber = service.subscriber_builder().create()
        poll, copy, size = subscriber.receive, ctypes.string_at, self.size

        def recv() -> bytes:
            while (sample := poll()) is None:
                pass
            message = copy(sample.payload_ptr, size)
            sample.delete()
            return message

        return Receiver(recv, keep=(node, service, subscriber))


PUBLISH = Peer(
    "iceoryx2",
    "iceoryx2, busy poll",
    IceoryxChannel,
    module="iceoryx2",
    distribution="iceoryx2",
    buffers=buffers,
    note="a slice of bytes, loaned and filled, polled for and copied out",
)
