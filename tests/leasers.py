"""Programs for a siege of leases: producers and consumers that note each step before and after they take it.

A consumer's journal has two words for each delivery: who sent the message and as which, and how far the
consumer came with it (`LEASED` … `RETURNED`), with the number of the delivery above.
"""

from __future__ import annotations

import contextlib
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


def check_deliveries(siege: Any, levels: int) -> str:
    """Nothing is lost or done twice; nothing is handed out twice but after its holder's death or will."""
    everyone = siege.workers + siege.dead
    consumers = [worker for worker in everyone if worker.program == "leasers.work"]
    of_message: dict[int, list[tuple[int, int, bool]]] = {}
    for consumer in consumers:
        last: dict[tuple[int, int], int] = {}
        for entry, count, state in deliveries(consumer.journal.words, consumer.done):
            of_message.setdefault(entry, []).append((count, state, consumer.killed))
            producer, sequence = entry >> 40, entry & ((1 << 40) - 1)
            stream = producer, sequence % levels
            if count == 1:
                before = last.get(stream, -1)
                assert sequence > before, f"FIFO: {sequence} of producer {producer} after {before}"
                last[stream] = sequence
    unseen = again = 0
    for entry, found in of_message.items():
        what = f"message {entry & ((1 << 40) - 1)} of producer {entry >> 40}: {sorted(found)}"
        *earlier, (count, state, killed) = sorted(found)
        assert state == ENDED or (killed and state == ENDING), f"lost, {what}"
        numbers = [number for number, _, _ in found]
        assert len(set(numbers)) == len(numbers), f"one delivery to two, {what}"
        for _, before, holder_killed in earlier:
            assert before == RETURNED or (holder_killed and before != ENDED), f"handed out again, {what}"
        again += len(earlier)
        unseen += count - len(found)
    # A consumer may be killed after a message is its own and before it could say so.
    assert unseen <= siege.kills, f"{unseen} deliveries that nobody knows of, {siege.kills} kills"

    for supplier in (worker for worker in everyone if worker.program == "leasers.supply"):
        number = supplier.arguments["number"]
        assert supplier.started - supplier.done <= 1
        missing = [n for n in range(supplier.done) if number << 40 | n not in of_message]
        assert not missing, f"lost: {missing[:20]} of producer {number}"
        assert number << 40 | supplier.started not in of_message, "out of nothing"
    return f"{len(of_message)} messages, {siege.kills} kills, {again} handed out again, {unseen} unseen"


def check_leases(handle: isthmus.Queue[bytes], expected: int) -> None:
    """Every record of a lease can be used."""
    handle.put_many([b"x"] * (expected + 1))
    jobs = []
    with contextlib.suppress(isthmus.Empty):
        while True:
            jobs.append(handle.lease(timeout=0))
    assert len(jobs) == expected, f"{len(jobs)} of {expected} leases can be taken"
    for job in jobs:
        job.ack()
    handle.get(timeout=0)


__all__ = [
    "ENDED", "ENDING", "LEASED", "POISON", "RETURNED", "RETURNING", "check_deliveries", "check_leases",
    "deliveries", "supply", "work",
]  # fmt: skip
