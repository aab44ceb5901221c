"""A car park with three spaces: a semaphore that any program can use counts the free ones.

Each car is a process. It waits for a free space, parks, and leaves. One car is killed in its space: a
semaphore has no owners, so its space stays taken until the attendant, who sees that the car is a wreck,
raises the semaphore for it. A C program with sem_open would have to do the same. Where spaces are to come
back by themselves, take `isthmus.BoundedSemaphore`.

    python examples/named_semaphore.py
"""

import multiprocessing
import os
import sys
import time

import isthmus

NAME = f"/isthmus-car-park-{os.getpid()}"
SPACES = 3
CARS = 8


def car(number: int, parked: isthmus.Queue[int], breaks_down: bool) -> None:
    """Park for a while; or for ever."""
    free = isthmus.NamedSemaphore.open(NAME)
    if not free.acquire(timeout=0):
        print(f"car {number} waits: no space is free", flush=True)
        free.acquire(timeout=30)
    parked.put(number)
    time.sleep(60 if breaks_down else 0.05)
    parked.put(-number)
    free.release()


def main() -> int:
    """Be the attendant, who counts."""
    free = isthmus.NamedSemaphore.create(NAME, SPACES)
    parked = isthmus.Queue(type=int)
    try:
        cars = [
            multiprocessing.Process(target=car, args=(number, parked, number == 2))
            for number in range(1, CARS + 1)
        ]
        inside: set[int] = set()
        served = most = 0

        def count(seconds: float = 30) -> None:
            nonlocal served, most
            number = parked.get(timeout=seconds)
            if number > 0:
                inside.add(number)
                most = max(most, len(inside))
            else:
                inside.remove(-number)
                served += 1

        for each in cars[:SPACES]:
            each.start()
        while len(inside) + served < SPACES:
            count()
        cars[1].kill()
        cars[1].join()
        while inside != {2}:
            count()
        for each in (cars[0], cars[2]):
            each.join()
        print(f"car 2 is a wreck in its space: {free.value} of {SPACES} spaces are free", flush=True)
        for each in cars[SPACES:]:
            each.start()
        while served < CARS - 2:
            count()
        inside.remove(2)
        free.release()  # the wreck is towed away
        while served < CARS - 1:
            count()
        for each in cars:
            each.join()
        print(f"{served} cars have parked and left, never more than {most} at a time, 1 was towed away")
        print(f"{free.value} spaces are free")
        return 0 if most <= SPACES and free.value == SPACES else 1
    finally:
        free.unlink()


if __name__ == "__main__":
    sys.exit(main())
