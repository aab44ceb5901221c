"""What a case is: contenders on the same work, and the targets their ratios must meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benches.compare.contenders import Contender
from benches.compare.peers import PEERS, Peer

BEST = "the best peer"  # as a target's base: whichever peer turns out fastest
FLAT = 1.25  # what "flat" may mean, with the machine's own noise in it


@dataclass(frozen=True)
class Target:
    """`subject` against `base`: their cost `at most` a factor, or their speed `at least` one."""

    subject: str
    base: str
    at_most: float | None = None
    at_least: float | None = None
    aim: str = ""

    def text(self) -> str:
        if self.at_most is not None:
            text = f"at most {factor_text(self.at_most)} its time"
        else:
            text = f"at least {self.at_least:g} × its speed"
        return f"{text} (aim: {self.aim})" if self.aim else text


def factor_text(factor: float) -> str:
    return f"1/{1 / factor:g} of" if factor < 0.1 else f"{factor:g} ×"


@dataclass
class Case:
    key: str
    title: str
    unit: str  # of the tables: "ns", "us", "ms", "M/s", "GB/s"; samples are always nanoseconds an operation
    contenders: list[Contender]
    targets: list[Target]
    meaning: str
    limits: str
    size: int = 0  # bytes a message, where the unit is GB/s
    subject: str = "isthmus"
    rounds: int | None = None  # pairs, where it is not the run's own number
    latency: bool = False  # has a median and p99 of single operations
    keep: set[str] = field(default_factory=set)  # beside the targets' own, measured in every round


@dataclass(frozen=True)
class Choice:
    """What of all there is takes part in this run."""

    peers: tuple[str, ...] = tuple(peer.key for peer in PEERS)

    def some(self, size: int) -> list[Peer]:
        """The chosen peers that can move a message of this size."""
        return [p for p in PEERS if p.key in self.peers and (p.largest is None or size <= p.largest)]


Builder = Callable[[Choice], Case]
BUILDERS: dict[str, Builder] = {}  # filled by the modules, ordered by the package


def case(key: str) -> Callable[[Builder], Builder]:
    """Registers a function that makes a fresh case."""

    def register(builder: Builder) -> Builder:
        BUILDERS[key] = builder
        return builder

    return register
