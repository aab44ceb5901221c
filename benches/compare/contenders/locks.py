"""Contenders that take a lock."""

from __future__ import annotations

from benches.compare.peers import LockPeer, Place
from benches.compare.roles import Locker, clock

from .base import Counted, Sample, Setting


class Lock(Counted):
    """A lock taken and given back, by one process or by two at once."""

    def __init__(self, peer: LockPeer, contending: int) -> None:
        super().__init__(peer.key, peer.title, peer)
        if peer.module == "isthmus":
            self.peer = "isthmus"
        self.lock = peer
        self.place: Place | None = None
        self.lockers = [f"locker{i}" for i in range(contending)]

    def assemble(self, setting: Setting) -> None:
        self.place = Place(setting.place.directory, f"{setting.place.name}-{self.key}")
        opened = self.lock.prepare(self.place)
        for name, cpu in zip(self.lockers, setting.cpus, strict=False):
            self.team.add(name, [cpu], lambda: Locker(opened))

    def stop(self) -> None:
        super().stop()
        if self.lock.clean is not None and self.place is not None:
            self.lock.clean(self.place)
            self.place = None

    def measure(self, count: int, limit: float) -> Sample:
        if len(self.lockers) == 1:
            work = "calls" if self.lock.single else "pairs"
            took = self.team.run(limit, locker0=(work, {"count": count}))["locker0"]
            return Sample(took / count, count=count)
        length = int(self.setting.seconds * 1e9)
        start = clock() + 2_000_000
        request = ("contend", {"start": start, "end": start + length})
        counts = self.team.run(limit, **dict.fromkeys(self.lockers, request)).values()
        return Sample(
            length / sum(counts), count=sum(counts), extra={"smallest_share": min(counts) / sum(counts)}
        )
