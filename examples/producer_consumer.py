"""Producers and consumers around a bounded buffer.

Two producers make items faster than two consumers use them. The queue between them has room for a few items
only. When it is full, `put` waits: the fast side runs no faster than the slow one, and memory stays bounded.
That is all the coordination there is. No process knows another; each has a handle of the same queue.

`shutdown()` says that no more items come. The consumers' loops end when what is inside has been taken.

    python examples/producer_consumer.py
"""

import multiprocessing
import sys
import time
from collections import Counter

import isthmus

PRODUCERS, CONSUMERS, ITEMS = 2, 2, 40
SIZE = 4000
"""Bytes of an item. The smallest queue there is has room for eight of them."""


def say(text: str) -> None:
    """Print a line in one piece: several processes print at the same time."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def produce(number: int, buffer: isthmus.Queue[bytes]) -> None:
    """Make items as fast as possible."""
    waited = 0
    for n in range(ITEMS):
        item = f"{number} {n}".encode().ljust(SIZE)
        try:
            buffer.put(item, timeout=0)
        except isthmus.Full:
            if not waited:
                say(f"producer {number}: no room for item {n}, {buffer.qsize()} are inside; I wait")
            waited += 1
            buffer.put(item)  # waits for as long as it takes
    say(f"producer {number}: {ITEMS} items made, waited for room {waited} times")


def consume(number: int, buffer: isthmus.Queue[bytes], used: isthmus.Queue[tuple[int, int, int]]) -> None:
    """Use items until there are no more, and keep a record of them."""
    count = 0
    for item in buffer:
        time.sleep(0.005)  # what consumers do with it
        producer, n = item.split()
        used.put((number, int(producer), int(n)))
        count += 1
    say(f"consumer {number}: {count} items used")


def main() -> int:
    """Start everybody, wait for their end, and look whether each item was used once and in order."""
    buffer = isthmus.Queue(type=bytes, capacity=1)  # rounded up to the smallest one
    used = isthmus.Queue(type=tuple[int, int, int])
    producers = [
        multiprocessing.Process(target=produce, args=(number, buffer)) for number in range(1, PRODUCERS + 1)
    ]
    consumers = [
        multiprocessing.Process(target=consume, args=(number, buffer, used))
        for number in range(1, CONSUMERS + 1)
    ]
    for process in producers + consumers:
        process.start()
    for process in producers:
        process.join()
    buffer.shutdown()
    for process in consumers:
        process.join()
    used.shutdown()

    records = list(used)
    times = Counter((producer, n) for _, producer, n in records)
    in_order = all(
        items == sorted(items)
        for consumer in range(1, CONSUMERS + 1)
        for producer in range(1, PRODUCERS + 1)
        if (items := [n for c, p, n in records if (c, p) == (consumer, producer)])
    )
    right = len(times) == PRODUCERS * ITEMS and set(times.values()) == {1} and in_order
    verdict = "each once, and those of one producer in order" if right else "which is WRONG"
    say(f"{PRODUCERS * ITEMS} items made, {len(records)} used, {verdict}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
