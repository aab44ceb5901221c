"""The bounded buffer: producers wait for room and consumers for items, with a condition between processes.

The buffer is a shared array, and the condition's lock keeps its numbers consistent. Who waits lets go of the
lock meanwhile and asks again after it was woken: `wait_for` does both.

    python examples/bounded_buffer.py
"""

import multiprocessing

import isthmus

ROOM = 4
ITEMS = 50
COUNT, PUT, GET, FIRST = 0, 1, 2, 3
"""What is in the array: how many items there are, where the next goes, where it comes from, the items."""


def produce(changed: isthmus.Condition, buffer: isthmus.SharedArray, number: int) -> None:
    """Puts its items, one by one."""
    cells = buffer.view()
    for item in range(ITEMS):
        with changed:
            changed.wait_for(lambda: cells[COUNT] < ROOM)
            cells[FIRST + cells[PUT]] = number * ITEMS + item
            cells[PUT] = (cells[PUT] + 1) % ROOM
            cells[COUNT] += 1
            changed.notify_all()


def main() -> None:
    """Starts two producers and consumes what they make."""
    changed = isthmus.Condition()
    with isthmus.SharedArray(None, (FIRST + ROOM,), "q") as buffer:
        context = multiprocessing.get_context("spawn")
        producers = [context.Process(target=produce, args=(changed, buffer, n)) for n in range(2)]
        for producer in producers:
            producer.start()
        cells = buffer.view()
        got: list[int] = []
        most = 0
        while len(got) < 2 * ITEMS:
            with changed:
                changed.wait_for(lambda: cells[COUNT])
                most = max(most, cells[COUNT])
                got.append(cells[FIRST + cells[GET]])
                cells[GET] = (cells[GET] + 1) % ROOM
                cells[COUNT] -= 1
                changed.notify_all()
        for producer in producers:
            producer.join()
        assert most <= ROOM
        assert sorted(got) == list(range(2 * ITEMS))
        cells.release()
    changed.close()
    print(f"{len(got)} items, each once; never more than {ROOM} in the buffer")


if __name__ == "__main__":
    main()
