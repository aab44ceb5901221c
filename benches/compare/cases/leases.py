"""What leases and priorities cost."""

from __future__ import annotations

from dataclasses import replace

from benches.compare.contenders import Alone, Control, Leasing
from benches.compare.peers import ISTHMUS
from benches.compare.peers.isthmus_peer import QueueChannel

from .base import FLAT, Case, Choice, Target, case

MESSAGE = bytes(range(64))


@case("lease")
def lease(choice: Choice) -> Case:
    return Case(
        "lease",
        "lease and acknowledge, 64 B",
        "ns",
        [
            *(Leasing(ISTHMUS, MESSAGE, way) for way in Leasing.WAYS),
            Control("swap", "C: two compare-and-swaps"),
        ],
        [Target("acked", "got", at_most=1.6)],
        "One process puts a thousand messages of 64 B and takes them again. The time of `lease()`, "
        "`.message` and `.ack()` for a message, without the put, beside that of `put` and `get` together: "
        "two calls each.",
        "`with` costs a third more: Python 3.11 makes two method objects for it.",
        subject="acked",
        keep={"scoped"},
    )


@case("priorities")
def priorities(choice: Choice) -> Case:
    four = replace(ISTHMUS, key="four", title="Isthmus, four priorities", connect=Four)
    return Case(
        "priorities",
        "put and get with and without priorities",
        "ns",
        [Alone(ISTHMUS, MESSAGE), Alone(four, MESSAGE), Control("swap", "C: two compare-and-swaps")],
        [Target("four-1", "isthmus-1", at_most=FLAT)],
        "One process puts 64 B and gets it back, on a queue of one level and on one of four.",
        "All messages are of the least urgent level, the last one that is looked at.",
        subject="four-1",
        keep={"isthmus-1"},
    )


class Four(QueueChannel):
    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.options["priorities"] = 4
