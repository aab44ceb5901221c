"""Whoever takes part in a case: started once, asked for one slice after another, stopped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from benches.compare.peers import Channel, Peer, Place
from benches.compare.peers.base import Library
from benches.compare.team import Team

FIRST_COUNT = 64
LONGEST_FACTOR = 50  # a slice that takes this many times its length is a hang
SHORTEST_WAIT = 5.0


@dataclass
class Sample:
    """One slice: nanoseconds an operation, and what else was seen."""

    value: float
    p99: float | None = None
    alone: float | None = None  # median of operations timed one by one
    count: int = 0
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What a contender needs to know of this run."""

    place: Place
    cpus: tuple[int, int]
    seconds: float  # of a slice
    keep_memory: bool = True  # glibc keeps what was freed


class Contender(ABC):
    """`key` is unique in its case; `peer` says whose it is (key of a peer, or "control")."""

    def __init__(self, key: str, title: str, peer: str) -> None:
        self.key, self.title, self.peer = key, title, peer
        self.chosen = ""  # a setting found by trying
        self.nanoseconds = 0.0  # the last slice's cost of one operation: how many make a slice

    def absent(self) -> str | None:
        return None

    @abstractmethod
    def start(self, setting: Setting) -> None: ...

    @abstractmethod
    def slice(self, seconds: float) -> Sample: ...

    @abstractmethod
    def stop(self) -> None: ...


class Counted(Contender):
    """A team that does a number of operations; the number that makes a slice follows from the last one."""

    quantum = 1
    least = 1

    def __init__(self, key: str, title: str, peer: Library) -> None:
        super().__init__(key, title, peer.key)
        self.of: Any = peer
        self.team = Team()
        self.channels: list[Channel] = []

    def absent(self) -> str | None:
        why: str | None = self.of.absent()
        return why

    @abstractmethod
    def assemble(self, setting: Setting) -> None:
        """Make channels and workers."""

    @abstractmethod
    def measure(self, count: int, limit: float) -> Sample: ...

    def start(self, setting: Setting) -> None:
        self.setting = setting
        self.team.keep_memory = setting.keep_memory
        self.assemble(setting)
        count = self.round(FIRST_COUNT)
        target = setting.seconds * 1e9
        for _ in range(12):  # warm up and find out how many make a slice
            self.nanoseconds = self.measure(count, SHORTEST_WAIT).value
            took = self.nanoseconds * count
            if took > target / 2:
                break
            count = self.round(count * min(8.0, 1.2 * target / max(took, 1.0)))

    def round(self, count: float) -> int:
        return max(self.least, round(count / self.quantum)) * self.quantum

    def slice(self, seconds: float) -> Sample:
        count = self.round(seconds * 1e9 / self.nanoseconds)
        sample = self.measure(count, max(SHORTEST_WAIT, seconds * LONGEST_FACTOR))
        self.nanoseconds = sample.value
        return sample

    def stop(self) -> None:
        self.team.stop()
        for channel in self.channels:
            channel.close()
        self.channels.clear()

    def channel(self, peer: Peer, place: Place, size: int, suffix: str = "") -> Channel:
        channel = peer.connect(Place(place.directory, f"{place.name}-{self.key}{suffix}"), size)
        self.channels.append(channel)
        return channel
