"""Contenders with one connection for both directions, without a loop or in one."""

from __future__ import annotations

from typing import Any

from benches.compare.parties import LoopParty, Party
from benches.compare.peers.base import Library, Place
from benches.compare.peers.links import Link, LinkPeer

from .base import SHORTEST_WAIT, Counted, Sample, Setting
from .channels import Trips


class Linked(Counted):
    """Two parties that have met."""

    of: Any
    message: bytes
    link: Link | None = None

    def absent(self) -> str | None:
        why = super().absent()
        if why is None and self.of.loop == "uvloop":
            return Library("uvloop", "uvloop", module="uvloop").absent()
        return why

    def party(self, answers: bool) -> Any:
        assert self.link is not None
        if self.of.loop:
            return LoopParty(self.link, self.message, answers, self.of.loop)
        return Party(self.link, self.message, answers)

    def assemble(self, setting: Setting) -> None:
        place = Place(setting.place.directory, f"{setting.place.name}-{self.key}")
        self.link = self.of.connect(place, len(self.message))
        first, second = setting.cpus
        self.team.add("answerer", [second], lambda: self.party(answers=True))
        self.team.add("asker", [first], lambda: self.party(answers=False))
        self.team.run(2 * SHORTEST_WAIT, answerer=("meet", {}), asker=("meet", {}))

    def stop(self) -> None:
        super().stop()
        if self.link is not None:
            self.link.close()
            self.link = None


class LinkTrip(Linked, Trips):
    """A message there and back; with a pause, the asker sleeps before each trip."""

    def __init__(self, peer: LinkPeer, message: bytes, pause: float = 0.0) -> None:
        super().__init__(peer.key, peer.title, peer)
        self.message = message
        self.paused(pause)


class LinkStream(Linked):
    """One sends as fast as it can, the other receives; from the first send to the last receipt."""

    least = 4

    def __init__(self, peer: LinkPeer, message: bytes) -> None:
        super().__init__(peer.key, peer.title, peer)
        self.message = message

    def measure(self, count: int, limit: float) -> Sample:
        times = self.team.run(limit, answerer=("drain", {"count": count}), asker=("burst", {"count": count}))
        return Sample((times["answerer"] - times["asker"]) / count, count=count)
