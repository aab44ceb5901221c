"""Contenders of the cases about memory that is not copied, and about leases."""

from __future__ import annotations

import importlib
from itertools import repeat
from typing import Any, ClassVar

from benches.compare.peers import Channel, LockPeer, Peer
from benches.compare.peers.in_place import lines_sum
from benches.compare.roles import Both, clock

from .base import SHORTEST_WAIT, Counted, Sample, Setting
from .channels import Stream

ALONE = LockPeer("control", "NumPy", lambda _place: lambda: (int, int))  # moves nothing


class ReadStream(Stream):
    """A stream whose receiver answers the sum over what it has read."""

    def verified(self) -> Any:
        return lines_sum(self.message)

    def assemble(self, setting: Setting) -> None:
        expected, message = self.verified(), self.message
        channel = self.channel(self.queue, setting.place, self.size)
        first, second = setting.cpus
        self.team.add("sink", [second], lambda: CheckedSink(channel, expected))
        self.team.add("source", [first], lambda: PlainSource(channel, message))
        self.team.run(SHORTEST_WAIT, sink=("verify", {}), source=("burst", {"count": 1}))

    def trial(self, peer: Peer) -> Stream:
        return ReadStream(peer, self.message)


class FrameStream(ReadStream):
    """Frames filled at one end and summed at the other."""

    def __init__(self, peer: Peer, size: int) -> None:
        super().__init__(peer, b"")
        self.frame_size = size
        self.message: Any = 3

    def verified(self) -> Any:
        return 3 * (self.frame_size // 8)

    @property
    def size(self) -> int:
        return self.frame_size

    def trial(self, peer: Peer) -> Stream:
        return FrameStream(peer, self.frame_size)


class ObjectStream(Stream):
    """Objects of any type."""

    def __init__(self, peer: Peer, message: Any, title: str = "") -> None:
        super().__init__(peer, message)
        self.title = title or self.title

    def assemble(self, setting: Setting) -> None:
        message = self.message
        channel = self.channel(self.queue, setting.place, 64)
        first, second = setting.cpus
        self.team.add("sink", [second], lambda: CheckedSink(channel, message))
        self.team.add("source", [first], lambda: PlainSource(channel, message))
        self.team.run(SHORTEST_WAIT, sink=("verify", {}), source=("burst", {"count": 1}))


class TwoPasses(Counted):
    """One process alone: fills an array, sums it, again and again."""

    def __init__(self, size: int) -> None:
        super().__init__("passes", "the same two passes in one process", ALONE)
        self.size = size

    def assemble(self, setting: Setting) -> None:
        size = self.size
        self.team.add("alone", [setting.cpus[0]], lambda: Passes(size))

    def measure(self, count: int, limit: float) -> Sample:
        return Sample(self.team.run(limit, alone=("turn", {"count": count}))["alone"] / count, count=count)


class Leasing(Counted):
    """One process: messages put, then taken in one of several ways. Nanoseconds a message."""

    WAYS: ClassVar[dict[str, str]] = {
        "got": "put + get",
        "acked": "lease + ack",
        "scoped": "lease + ack by `with`",
    }
    quantum = 1000  # messages that wait in the queue

    def __init__(self, peer: Peer, message: bytes, way: str) -> None:
        super().__init__(way, f"{peer.title}: {self.WAYS[way]}", peer)
        self.queue, self.message, self.way = peer, message, way

    def assemble(self, setting: Setting) -> None:
        channel = self.channel(self.queue, setting.place, len(self.message))
        self.team.add("both", [setting.cpus[0]], lambda: Leaser(channel, self.message))

    def measure(self, count: int, limit: float) -> Sample:
        request = {"rounds": count // self.quantum, "each": self.quantum, "way": self.way}
        return Sample(self.team.run(limit, both=("run", request))["both"] / count, count=count)


class CheckedSink:
    """Receives; knows what comes."""

    def __init__(self, channel: Channel, expected: Any) -> None:
        self.end = channel.receiver()
        self.expected = expected

    def verify(self) -> None:
        received = None
        while received is None:
            received = self.end.recv()
        if self.end.unwrap(received) != self.expected:
            raise ValueError(f"received {received!r} instead of {self.expected!r}")

    def drain(self, count: int) -> int:
        recv = self.end.recv
        if self.end.polled:
            for _ in repeat(None, count):
                while recv() is None:
                    pass
        else:
            for _ in repeat(None, count):
                recv()
        return clock()


class PlainSource:
    """Sends one and the same object."""

    def __init__(self, channel: Channel, message: Any) -> None:
        self.end = channel.sender()
        self.message = message

    def burst(self, count: int) -> int:
        send, message = self.end.send, self.message
        start = clock()
        if self.end.polled:
            for _ in repeat(None, count):
                while not send(message):
                    pass
        else:
            for _ in repeat(None, count):
                send(message)
        return start


class Passes:
    def __init__(self, size: int) -> None:
        np = importlib.import_module("numpy")
        self.array = np.empty(size // 8, "u8")

    def turn(self, count: int) -> int:
        array = self.array
        start = clock()
        for _ in repeat(None, count):
            array.fill(3)
            array.sum()
        return clock() - start


class Leaser(Both):
    def run(self, rounds: int, each: int, way: str) -> int:
        queue, message = self.receiver.keep, self.message
        put, total = queue.put, 0
        take = getattr(self, way)
        for _ in repeat(None, rounds):
            start = clock()
            for _ in repeat(None, each):
                put(message)
            middle = clock()
            take(queue, each)
            total += clock() - (start if way == "got" else middle)
        return total

    def got(self, queue: Any, count: int) -> None:
        get = queue.get
        for _ in repeat(None, count):
            get()

    def acked(self, queue: Any, count: int) -> None:
        lease = queue.lease
        for _ in repeat(None, count):
            job = lease()
            job.message  # noqa: B018
            job.ack()

    def scoped(self, queue: Any, count: int) -> None:
        lease = queue.lease
        for _ in repeat(None, count):
            with lease() as job:
                job.message  # noqa: B018
