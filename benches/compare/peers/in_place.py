"""Messages read where they are, or filled and read where they are; and peers that copy, reading as much.

Everyone reads with the same NumPy call over the memory it has: one word of each cache line, or all of it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .base import Channel, Peer, Place, Receiver, Sender
from .iceoryx import PUBLISH, IceoryxChannel
from .isthmus_peer import QUEUE, QueueChannel

LINE_WORDS = 8  # words of 8 bytes in a cache line
Reader = Callable[[Any], int]


def lines_sum(buffer: Any) -> int:
    """Reads a word of every cache line."""
    np = importlib.import_module("numpy")
    return int(np.frombuffer(buffer, np.uint64)[::LINE_WORDS].sum())


def reader() -> Reader:
    """`lines_sum` without the look-ups of each call."""
    np = importlib.import_module("numpy")
    frombuffer, word = np.frombuffer, np.uint64
    add = np.add.reduce
    return lambda buffer: add(frombuffer(buffer, word)[::LINE_WORDS])


def at(pointer: int, size: int) -> Any:
    """An array on memory that is somebody else's."""
    np = importlib.import_module("numpy")
    ctypes = importlib.import_module("ctypes")
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), np.uint64)


class Copying(Channel):
    """A channel whose receiver gets bytes, and reads them."""

    def __init__(self, place: Place, size: int, *, connect: Any, **options: Any) -> None:
        self.inner: Channel = connect(place, size, **options)

    def sender(self) -> Sender:
        return self.inner.sender()

    def receiver(self) -> Receiver:
        end, read = self.inner.receiver(), reader()
        recv = end.recv
        if not end.polled:
            return replace(end, recv=lambda: read(recv()), unwrap=int)

        def poll() -> Any:
            message = recv()
            return None if message is None else read(message)

        return replace(end, recv=poll, unwrap=int)

    def close(self) -> None:
        self.inner.close()


class Viewing(QueueChannel):
    """Isthmus: copied in, read in place."""

    def receiver(self) -> Receiver:
        queue, read = self.open(), reader()
        view = queue.get_view
        return Receiver(lambda: read(view()), keep=queue, unwrap=int)


class Borrowing(IceoryxChannel):
    """iceoryx2: copied in, read in place."""

    def receiver(self) -> Receiver:
        _, node, service = self.service()
        subscriber = service.subscriber_builder().create()
        poll, size = subscriber.receive, self.size
        add = importlib.import_module("numpy").add.reduce

        def recv() -> Any:
            while (sample := poll()) is None:
                pass
            total = add(at(sample.payload_ptr, size)[::LINE_WORDS])
            sample.delete()
            return total

        return Receiver(recv, keep=(node, service, subscriber), unwrap=int)


def reading(peer: Peer) -> Peer:
    """The peer, with a receiver that reads what it gets."""
    if peer.key == PUBLISH.key:
        return replace(peer, connect=Borrowing, note="copied into a loan, read in the subscriber's sample")
    return replace(peer, connect=functools.partial(Copying, connect=peer.connect))


VIEWS = replace(QUEUE, connect=Viewing, note="`put` and `get_view`")


class Frames(QueueChannel):
    """Isthmus: arrays filled in a reservation, summed in a view. What is sent is the value to fill with."""

    def open(self) -> Any:
        np = importlib.import_module("numpy")
        queue = importlib.import_module("isthmus").Queue
        return queue(self.place.name, type=np.ndarray, **self.options)

    def __init__(self, place: Place, size: int) -> None:
        super().__init__(place, size)
        self.words = size // 8

    def sender(self) -> Sender:
        queue, words = self.open(), self.words

        def send(value: Any) -> None:
            with queue.reserve(words, "u8") as frame:
                frame.fill(value)

        return Sender(send, keep=queue)

    def receiver(self) -> Receiver:
        queue = self.open()
        view = queue.get_view
        return Receiver(lambda: view().sum(), keep=queue, unwrap=int)


class LoanedFrames(IceoryxChannel):
    """iceoryx2: a loan filled in place, the sample summed in place."""

    def sender(self) -> Sender:
        iox, node, service = self.service()
        publisher = (
            service.publisher_builder()
            .initial_max_slice_len(self.size)
            .backpressure_strategy(iox.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        loan, size = publisher.loan_slice_uninit, self.size

        def send(value: Any) -> None:
            sample = loan(size)
            at(sample.payload_ptr, size).fill(value)
            sample.assume_init().send()

        return Sender(send, keep=(node, service, publisher))

    def receiver(self) -> Receiver:
        _, node, service = self.service()
        subscriber = service.subscriber_builder().create()
        poll, size = subscriber.receive, self.size

        def recv() -> Any:
            while (sample := poll()) is None:
                pass
            total = at(sample.payload_ptr, size).sum()
            sample.delete()
            return total

        return Receiver(recv, keep=(node, service, subscriber), unwrap=int)


FRAMES = replace(QUEUE, connect=Frames, note="`reserve` and `get_view` of arrays")
LOANED_FRAMES = replace(PUBLISH, connect=LoanedFrames, note="loans filled and samples summed in place")
