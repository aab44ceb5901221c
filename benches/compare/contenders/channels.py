"""Contenders that move messages."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import Any

from benches.compare.peers import Channel, Peer, Place
from benches.compare.roles import TRIPS, Answerer, Asker, Attached, Both, Sink, Source, clock
from benches.compare.stats import median

from .base import LONGEST_FACTOR, SHORTEST_WAIT, Counted, Sample, Setting

TRIALS, TRIAL_PART = 5, 4  # slices, of a quarter of the usual length, with each buffer


class Trips(Counted):
    """Somebody asks, somebody answers; with a pause, the asker sleeps before each trip."""

    pause = 0.0

    def paused(self, pause: float) -> None:
        self.pause = pause
        self.quantum = 1 if pause else TRIPS * 8

    def measure(self, count: int, limit: float) -> Sample:
        if self.pause:
            request = ("ask_paused", {"count": count, "pause": self.pause})
        else:  # a quarter of the trips are timed one by one
            singles = min(count // 4, 4000)
            samples = (count - singles) // TRIPS
            singles = count - samples * TRIPS
            request = ("ask", {"samples": samples, "singles": singles})
        means, alone = self.team.run(limit, answerer=("echo", {"count": count}), asker=request)["asker"]
        means.sort()
        alone.sort()
        return Sample(means[len(means) // 2], alone[len(alone) * 99 // 100], alone[len(alone) // 2], count)

    def slice(self, seconds: float) -> Sample:
        if not self.pause:
            return super().slice(seconds)
        count = self.round(seconds / (self.pause + self.nanoseconds * 1e-9))
        sample = self.measure(count, max(SHORTEST_WAIT, seconds * LONGEST_FACTOR))
        self.nanoseconds = sample.value
        return sample

    def start(self, setting: Setting) -> None:
        if self.pause:
            self.setting = setting
            self.team.keep_memory = setting.keep_memory
            self.assemble(setting)
            self.nanoseconds = self.measure(20, SHORTEST_WAIT).value
        else:
            super().start(setting)


class RoundTrip(Trips):
    """Two channels between two processes."""

    def __init__(self, peer: Peer, message: bytes, pause: float = 0.0) -> None:
        super().__init__(peer.key, peer.title, peer)
        self.queue, self.message = peer, message
        self.paused(pause)

    def assemble(self, setting: Setting) -> None:
        there = self.channel(self.queue, setting.place, len(self.message), "-there")
        back = self.channel(self.queue, setting.place, len(self.message), "-back")
        first, second = setting.cpus
        self.team.add("answerer", [second], lambda: Answerer(there, back))
        self.team.add("asker", [first], lambda: Asker(there, back, self.message))
        self.team.run(SHORTEST_WAIT, answerer=("echo", {"count": 1}), asker=("verify", {}))


class Stream(Counted):
    """One process sends, the other receives; the time runs from the first send to the last receipt."""

    def __init__(self, peer: Peer, message: bytes, batch: int = 0) -> None:
        key, title = (
            (peer.key, peer.title) if not batch else (f"{peer.key}-batch", f"{peer.title}, in batches")
        )
        super().__init__(key, title, peer)
        self.queue, self.message, self.batch = peer, message, batch
        self.quantum = batch or 1
        self.least = 1 if batch else 4

    def start(self, setting: Setting) -> None:
        if self.queue.buffers is not None:
            self.queue = self.best_buffer(setting)
        super().start(setting)

    @property
    def size(self) -> int:
        return len(self.message)

    def trial(self, peer: Peer) -> Stream:
        """The same work for another peer."""
        return Stream(peer, self.message, self.batch)

    def best_buffer(self, setting: Setting) -> Peer:
        """The peer with whichever of its buffers is fastest here and now."""
        assert self.queue.buffers is not None
        trials: dict[int, Stream] = {}
        connect: Any = self.queue.connect
        for size in self.queue.buffers(self.size):
            connected = functools.partial(connect, buffer=size)
            peer = replace(self.queue, key=f"{self.key}-{size}", connect=connected, buffers=None)
            trials[size] = self.trial(peer)
        try:
            short = replace(setting, seconds=setting.seconds / TRIAL_PART)
            for trial in trials.values():
                trial.start(short)
            costs = {size: [trial.slice(short.seconds).value] for size, trial in trials.items()}
            for _ in range(TRIALS - 1):
                for size, trial in trials.items():
                    costs[size].append(trial.slice(short.seconds).value)
        finally:
            for trial in trials.values():
                trial.stop()
        best = min(costs, key=lambda size: median(costs[size]))
        self.chosen = f"buffer of {best / 2**20:.3g} MiB, the best of {len(costs)}"
        return replace(self.queue, connect=functools.partial(connect, buffer=best), buffers=None)

    def assemble(self, setting: Setting) -> None:
        channel = self.channel(self.queue, setting.place, len(self.message))
        first, second = setting.cpus
        self.team.add("sink", [second], lambda: Sink(channel, self.message, self.batch))
        self.team.add("source", [first], lambda: Source(channel, self.message, self.batch))
        self.team.run(SHORTEST_WAIT, sink=("verify", {}), source=("burst", {"count": 1}))

    def measure(self, count: int, limit: float) -> Sample:
        drain, burst = ("drain_batches", "batches") if self.batch else ("drain", "burst")
        times = self.team.run(limit, sink=(drain, {"count": count}), source=(burst, {"count": count}))
        return Sample((times["sink"] - times["source"]) / count, count=count)


class Crowd(Counted):
    """Several producers and consumers on one channel: CPU nanoseconds a message, of all of them."""

    def __init__(self, peer: Peer, message: bytes, producers: int, consumers: int) -> None:
        super().__init__(
            f"{peer.key}-{producers}x{consumers}", f"{peer.title} {producers} × {consumers}", peer
        )
        self.queue, self.message = peer, message
        self.producers = [f"producer{i}" for i in range(producers)]
        self.consumers = [f"consumer{i}" for i in range(consumers)]
        self.quantum = producers

    def assemble(self, setting: Setting) -> None:
        channel = self.channel(self.queue, setting.place, len(self.message))
        first, second = setting.cpus
        for name in self.consumers:
            self.team.add(name, [second], lambda: Sink(channel, self.message))
        for name in self.producers:
            self.team.add(name, [first], lambda: Source(channel, self.message))

    def measure(self, count: int, limit: float) -> Sample:
        start = clock()
        workers = self.team.workers
        for name in self.consumers:
            workers[name].ask("drain_cpu")
        share = {"count": count // len(self.producers)}
        cpu = sum(self.team.run(limit, **dict.fromkeys(self.producers, ("burst_cpu", share))).values())
        self.team.run(limit, **{self.producers[0]: ("stops", {"count": len(self.consumers)})})
        deadline = time.monotonic() + limit
        got, last = 0, start
        for name in self.consumers:
            received, seconds, end = workers[name].answer(deadline)
            got, cpu, last = got + received, cpu + seconds, max(last, end)
        if got < count:  # across producers not everybody is first in, first out
            rest = {self.consumers[0]: ("drain_rest", {"count": count - got})}
            seconds, last = self.team.run(limit, **rest)[self.consumers[0]]
            cpu += seconds
        return Sample(cpu * 1e9 / count, count=count, extra={"elapsed": (last - start) / count})


class Alone(Counted):
    """Put and get in one process, with messages waiting and other processes attached."""

    def __init__(
        self, peer: Peer, message: bytes, *, depth: int = 0, attached: int = 1, capacity: int = 0
    ) -> None:
        what = f"depth {depth:,}" if depth else f"{attached} attached"
        super().__init__(f"{peer.key}-{depth or attached}", f"{peer.title}, {what}", peer)
        self.queue, self.message, self.depth, self.attached = peer, message, depth, attached
        self.capacity = capacity

    def assemble(self, setting: Setting) -> None:
        place = Place(setting.place.directory, f"{setting.place.name}-{self.key}")
        connect: Any = self.queue.connect
        options = {"capacity": self.capacity} if self.capacity else {}
        channel: Channel = connect(place, len(self.message), **options)
        self.channels.append(channel)
        first, second = setting.cpus
        self.team.add("both", [first], lambda: Both(channel, self.message, max(0, self.depth - 1)))
        for i in range(self.attached - 1):
            self.team.add(f"attached{i}", [second], lambda: Attached(channel))

    def measure(self, count: int, limit: float) -> Sample:
        return Sample(self.team.run(limit, both=("turn", {"count": count}))["both"] / count, count=count)


class InOneProcess(Alone):
    """Put and get in one process, nothing else waiting."""

    def __init__(self, peer: Peer, message: bytes) -> None:
        super().__init__(peer, message)
        self.key, self.title = peer.key, peer.title
