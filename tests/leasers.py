"""Programs for a siege of leases: producers and consumers that note each step before and after they take it.

A consumer's journal has two words for each delivery: who sent the message and as which, and how far the
consumer came with it (`LEASED` … `RETURNED`), with the number of the delivery above.
"""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import isthmus
from workers import _MIXTURES, Journal, identify, message

LEASED, ENDING, ENDED, RETURNING, RETURNED = 1, 2, 3, 4, 5
COUNT_SHIFT = 8

POISON = (1 << 20) - 1
"""The number of a producer whose messages kill whoever leases them."""


def supply(journal: str, queue: str, number: int, mixture: str, levels: int, reserve: bool) -> None:
    """Puts messages until told to stop, the n-th with priority n modulo `levels`; some filled in place."""
    words = Journal(journal).words
    sizes = _MIXTURES[mixture]
    choose = random.Random(number)
    handle = isthmus.Queue.open(queue, type=bytes)
    words[Journal.ATTACHED] = 1
    count = 0
    waiting = b""
    while not (words[Journal.STOP] and not waiting):
        waiting = waiting or message(number, count, choose.choice(sizes))
        words[Journal.STARTED] = count + 1
        try:
            if reserve and choose.random() < 0.5:
                with handle.reserve(len(waiting), timeout=0.2, priority=count % levels) as block:
                    block[:] = waiting
            else:
                handle.put(waiting, timeout=0.2, priority=count % levels)
        except isthmus.Full:
            if words[Journal.STOP]:
                words[Journal.STARTED] = count
                break
        else:
            waiting = b""
            count += 1
            words[Journal.DONE] = count
    handle.close()


def work(journal: str, queue: str, number: int, hold: int, view: bool) -> None:
    """Leases messages, holds up to `hold` of them, acknowledges most and gives some back, in any order.

    Ends when told to stop and nothing comes any more, or with the queue.
    """
    words = Journal(journal).words
    choose = random.Random(number)
    handle = isthmus.Queue.open(queue, type=bytes)
    words[Journal.ATTACHED] = 1
    held: list[tuple[int, isthmus.Lease]] = []
    count = 0

    def end() -> None:
        entry, job = held.pop(choose.randrange(len(held)))
        back = job.delivery_count < 4 and choose.random() < 0.05
        above = job.delivery_count << COUNT_SHIFT
        words[entry + 1] = above | (RETURNING if back else ENDING)
        if back:
            job.nack("once more")
        else:
            job.ack()
        words[entry + 1] = above | (RETURNED if back else ENDED)

    while True:
        stop = words[Journal.STOP]
        try:
            job = handle.lease(timeout=0.005 if held else 0.2, view=view)
        except isthmus.Empty:
            if held:
                end()
            elif stop:
                break
            continue
        except isthmus.ShutDown:
            break
        producer, sequence = identify(memoryview(job.message))
        entry = Journal.LOG + 2 * count
        if entry + 2 > len(words):
            raise AssertionError("the journal is too short for this test")
        words[entry] = producer << 40 | sequence
        words[entry + 1] = job.delivery_count << COUNT_SHIFT | LEASED
        count += 1
        words[Journal.DONE] = count
        if producer == POISON:
            words[Journal.STOP] = 1
            os.kill(os.getpid(), signal.SIGKILL)
        held.append((entry, job))
        del job
        for _ in range(choose.choice([0, 0, 100, 2000])):
            pass
        while len(held) >= hold:
            end()
    handle.close()


def deliveries(words: Any, count: int) -> list[tuple[int, int, int]]:
    """What `work` wrote into its journal: message, number of the delivery, how far it came."""
    log = words[Journal.LOG : Journal.LOG + 2 * count].tolist()
    below = (1 << COUNT_SHIFT) - 1
    return [
        (message, state >> COUNT_SHIFT, state & below)
        for message, state in zip(log[::2], log[1::2], strict=True)
    ]


__all__ = ["ENDED", "ENDING", "LEASED", "POISON", "RETURNED", "RETURNING", "deliveries", "supply", "work"]
