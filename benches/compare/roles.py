"""What the workers do. The loops are the measurement: nothing in them but the calls that are measured.

Every loop exists twice, for ends that block and for ends that the caller polls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

from .peers import Channel, Receiver, Sender

clock = time.perf_counter_ns  # CLOCK_MONOTONIC: one clock for all processes
TRIPS = 32  # round trips timed as one sample


class Source:
    """Sends."""

    def __init__(self, channel: Channel, message: bytes, batch: int = 0) -> None:
        self.end: Sender = channel.sender()
        self.message = message
        self.batch: Sequence[bytes] = [message] * batch

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

    def batches(self, count: int) -> int:
        send, batch = self.end.send_batch, self.batch
        assert send is not None
        start = clock()
        if self.end.polled:
            for _ in repeat(None, count // len(batch)):
                sent = send(batch)
                while sent < len(batch):
                    sent += send(batch[sent:])
        else:
            for _ in repeat(None, count // len(batch)):
                send(batch)
        return start

    def burst_cpu(self, count: int) -> float:
        """Like burst; answers the CPU seconds it took."""
        before = time.process_time()
        self.burst(count)
        return time.process_time() - before

    def stops(self, count: int) -> None:
        for _ in range(count):
            self.end.send(b"!")


class Sink:
    """Receives."""

    def __init__(self, channel: Channel, message: bytes, batch: int = 0) -> None:
        self.end: Receiver = channel.receiver()
        self.message = message
        self.batch = batch

    def verify(self) -> None:
        received = None
        while received is None:
            received = self.end.recv()
        if self.end.unwrap(received) != self.message:
            raise ValueError("received something else than was sent")

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

    def drain_batches(self, count: int) -> int:
        recv, most = self.end.recv_batch, self.batch
        if recv is None:  # sends in batches, receives one by one
            return self.drain(count)
        while count > 0:
            count -= len(recv(min(most, count)))
        return clock()

    def drain_cpu(self) -> tuple[int, float, int]:
        """Until a stop mark: how many messages, CPU seconds, when."""
        recv, count = self.end.recv, 0
        before = time.process_time()
        while len(recv()) > 1:
            count += 1
        return count, time.process_time() - before, clock()

    def drain_rest(self, count: int) -> tuple[float, int]:
        """Messages that a stop mark of another producer overtook."""
        before = time.process_time()
        end = self.drain(count)
        return time.process_time() - before, end


def blocking_trips(send: Callable[[bytes], Any], recv: Callable[[], Any], message: bytes, count: int) -> None:
    for _ in repeat(None, count):
        send(message)
        recv()


def polled_trips(send: Callable[[bytes], Any], recv: Callable[[], Any], message: bytes, count: int) -> None:
    for _ in repeat(None, count):
        while not send(message):
            pass
        while recv() is None:
            pass


class Asker:
    """The side of a round trip that asks."""

    def __init__(self, there: Channel, back: Channel, message: bytes) -> None:
        self.receiver = back.receiver()
        self.sender = there.sender()
        self.message = message

    @property
    def trips(self) -> Callable[..., None]:
        # With one message on its way there is always room: a sender that would poll need not.
        return polled_trips if self.receiver.polled else blocking_trips

    def verify(self) -> None:
        self.sender.send(self.message)
        received = None
        while received is None:
            received = self.receiver.recv()
        if self.receiver.unwrap(received) != self.message:
            raise ValueError("received something else than was sent")

    def ask(self, samples: int, singles: int) -> tuple[list[float], list[float]]:
        """Nanoseconds a trip: means of TRIPS at a time, then trips timed one by one."""
        trips, send, recv, message = self.trips, self.sender.send, self.receiver.recv, self.message
        means, alone = [], []
        for _ in repeat(None, samples):
            start = clock()
            trips(send, recv, message, TRIPS)
            means.append((clock() - start) / TRIPS)
        for _ in repeat(None, singles):
            start = clock()
            trips(send, recv, message, 1)
            alone.append(float(clock() - start))
        return means, alone

    def ask_paused(self, count: int, pause: float) -> tuple[list[float], list[float]]:
        """Sleeps before each trip; only the trip is timed."""
        trips, send, recv, message = self.trips, self.sender.send, self.receiver.recv, self.message
        sleep, alone = time.sleep, []
        for _ in repeat(None, count):
            sleep(pause)
            start = clock()
            trips(send, recv, message, 1)
            alone.append(float(clock() - start))
        return alone, alone


class Answerer:
    """The side of a round trip that sends back what it got."""

    def __init__(self, there: Channel, back: Channel) -> None:
        self.receiver = there.receiver()
        self.sender = back.sender()

    def echo(self, count: int) -> None:
        send, recv, unwrap = self.sender.send, self.receiver.recv, self.receiver.unwrap
        if self.receiver.polled:
            for _ in repeat(None, count):
                while (message := recv()) is None:
                    pass
                while not send(message):
                    pass
        elif unwrap is bytes:
            for _ in repeat(None, count):
                send(recv())
        else:
            for _ in repeat(None, count):
                send(unwrap(recv()))


class Both:
    """One process that puts and gets, with some messages already waiting."""

    def __init__(self, channel: Channel, message: bytes, depth: int = 0) -> None:
        self.receiver = channel.receiver()
        self.sender = channel.sender()
        self.message = message
        for _ in range(depth):
            self.sender.send(message)

    def turn(self, count: int) -> int:
        send, recv, message = self.sender.send, self.receiver.recv, self.message
        start = clock()
        for _ in repeat(None, count):
            send(message)
            recv()
        return clock() - start


class Attached:
    """Has the channel open (as a sender that has sent nothing) and sleeps."""

    def __init__(self, channel: Channel) -> None:
        self.end = channel.sender()


class Locker:
    """Takes and gives back a lock."""

    def __init__(self, opened: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]) -> None:
        self.acquire, self.release = opened()

    def pairs(self, count: int) -> int:
        acquire, release = self.acquire, self.release
        start = clock()
        for _ in repeat(None, count):
            acquire()
            release()
        return clock() - start

    def calls(self, count: int) -> int:
        call = self.acquire
        start = clock()
        for _ in repeat(None, count):
            call()
        return clock() - start

    def contend(self, start: int, end: int) -> int:
        """From one moment to another; answers how many times it had the lock."""
        acquire, release, count = self.acquire, self.release, 0
        while clock() < start:
            pass
        while clock() < end:
            for _ in repeat(None, 64):
                acquire()
                release()
            count += 64
        return count
