"""Emergency calls through a queue of the kernel: the most urgent goes first.

The callers write into a POSIX message queue, which a program in C could read as well. While the dispatcher
is away, calls wait in the kernel, whatever becomes of the processes. The queue is small: the fifth caller
finds no room, waits, and goes on when the dispatcher is back. What is no call is reported and does not hold
up the rest.

    python examples/posix_mq.py
"""

import multiprocessing
import os
import sys
import threading
from dataclasses import dataclass
from multiprocessing.synchronize import Event

import isthmus

NAME = f"posix-mq:///isthmus-calls-{os.getpid()}"
URGENCY = {"cat on a tree": 1, "noise": 0, "fire": 9, "accident": 7, "lost key": 0, "heart attack": 9}


@dataclass
class Call:
    """What a caller says."""

    caller: int
    what: str


def caller(number: int, what: str, name: str, holds: Event) -> None:
    """Call, and wait for a free line if there is none."""
    with isthmus.Queue.open(name, type=Call) as calls:
        try:
            calls.put(Call(number, what), timeout=0, priority=URGENCY[what])
        except isthmus.Full:
            print(f"caller {number}: all lines are busy, I hold", flush=True)
            holds.set()
            calls.put(Call(number, what), timeout=30, priority=URGENCY[what])


def main() -> int:
    """Be the dispatcher."""
    calls = isthmus.PosixQueue.create(NAME, type=Call, maxsize=4, message_max=256)
    holds = multiprocessing.Event()
    try:
        people = [
            multiprocessing.Process(target=caller, args=(number, what, NAME, holds))
            for number, what in enumerate(URGENCY, 1)
        ]
        for person in people[:4]:
            person.start()
            person.join()
        print(f"{calls.qsize()} calls wait, and their callers have hung up")
        people[4].start()
        holds.wait(30)
        print("the dispatcher is back", flush=True)
        rings = threading.Event()
        order = [answer(calls) for _ in range(5)]
        people[4].join()
        calls.notify(rings.set)  # the kernel tells when a call comes into the empty queue
        people[5].start()
        rings.wait(30)
        order.append(answer(calls))
        people[5].join()
        with isthmus.PosixQueue.open(NAME) as prankster:  # any program may write anything
            prankster.put(b"hee hee")
        try:
            calls.get(timeout=0)
        except isthmus.InvalidMessage as error:
            print(f"no call: {error.data!r}")
        print(f"{len(order)} of {len(URGENCY)} calls answered")
        return 0 if sorted(order) == sorted(URGENCY) else 1
    finally:
        calls.unlink()
        calls.close()


def answer(calls: isthmus.PosixQueue[Call]) -> str:
    """Answer the most urgent call."""
    call, urgency = calls.get_with_priority(timeout=30)
    print(f"urgency {urgency}: {call.what}, says caller {call.caller}", flush=True)
    return call.what


if __name__ == "__main__":
    sys.exit(main())
