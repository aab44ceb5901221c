"""Readers and writers: many read a table at a time, one writes it, and neither side starves.

A writer moves money between two accounts in two steps; the sum is wrong in between. Readers hold
`lock.read`, so they never see it, and do not keep each other out.

    python examples/readers_writers.py
"""

import multiprocessing

import isthmus

TURNS = 200
MONEY = 1000


def read(lock: isthmus.RWLock, accounts: isthmus.SharedArray, wrong: isthmus.Value) -> None:
    """Adds up, again and again."""
    cells = accounts.view()
    for _ in range(TURNS):
        with lock.read:
            if cells[0] + cells[1] != MONEY:
                wrong.add(1)


def write(lock: isthmus.RWLock, accounts: isthmus.SharedArray) -> None:
    """Moves a coin, again and again."""
    cells = accounts.view()
    for _ in range(TURNS):
        with lock.write:
            cells[0] -= 1
            cells[1] += 1


def main() -> None:
    """Starts three readers and two writers, and looks at what is left."""
    lock = isthmus.RWLock()
    with isthmus.SharedArray(None, (2,), "q") as accounts, isthmus.Value() as wrong:
        cells = accounts.view()
        cells[0] = MONEY
        context = multiprocessing.get_context("spawn")
        work = [context.Process(target=read, args=(lock, accounts, wrong)) for _ in range(3)]
        work += [context.Process(target=write, args=(lock, accounts)) for _ in range(2)]
        for process in work:
            process.start()
        for process in work:
            process.join()
        print(f"{cells[1]} coins moved by 2 writers, {3 * TURNS} sums by 3 readers, {wrong.get()} wrong")
        cells.release()
    lock.close()


if __name__ == "__main__":
    main()
