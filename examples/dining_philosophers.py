"""Dining philosophers: each needs two forks, and neighbours share one.

With `LockSet` all processes take their locks in one order, whatever the order they name them in, so nobody
waits in a circle. With `--deadlock` each takes the left fork, waits until all have one, and wants the right
one: they sit there for ever, and `isthmus doctor` in another terminal says who waits for whom. Ctrl+C ends
them.

    python examples/dining_philosophers.py
    python examples/dining_philosophers.py --deadlock
"""

import multiprocessing
import sys

import isthmus

PHILOSOPHERS = 3
MEALS = 100


def dine(number: int, meals: isthmus.Value, all_have_one: isthmus.Barrier | None) -> None:
    """Eats, and ends; or not."""
    left = isthmus.Mutex.open(f"fork-{number}")
    right = isthmus.Mutex.open(f"fork-{(number + 1) % PHILOSOPHERS}")
    if all_have_one is not None:
        with left:
            all_have_one.wait()
            with right:  # never: the neighbour has it, and waits
                meals.add(1)
        return
    for _ in range(MEALS):
        with isthmus.LockSet(left, right):
            meals.add(1)


def main() -> None:
    """Lays the table and waits for all of them."""
    forks = [isthmus.Mutex(f"fork-{number}") for number in range(PHILOSOPHERS)]
    meals = isthmus.Value()
    all_have_one = isthmus.Barrier(parties=PHILOSOPHERS) if "--deadlock" in sys.argv[1:] else None
    context = multiprocessing.get_context("spawn")
    philosophers = [
        context.Process(target=dine, args=(number, meals, all_have_one), daemon=True)
        for number in range(PHILOSOPHERS)
    ]
    for philosopher in philosophers:
        philosopher.start()
    if all_have_one is not None:
        print("each takes the left fork and waits for the right one: try `isthmus doctor`", flush=True)
    for philosopher in philosophers:
        philosopher.join()
    print(f"{PHILOSOPHERS} philosophers, {meals.get()} meals, no deadlock")
    for fork in forks:
        fork.close()
    meals.close()


if __name__ == "__main__":
    main()
