"""A picture that several processes compute: an array in shared memory, and a worker that is killed.

Each worker takes the next line that nobody has (a `Value` counts them) and writes it into the picture,
which is a `SharedArray`: what is in it is in it for everybody, and nobody sends anything. One worker is
killed in the middle. The lines it got done stay; the one it had taken is empty, and is computed again.

NumPy is not needed: the array is a memoryview of its shape then.

    python examples/shared_array.py
"""

import multiprocessing
import signal
import time
from typing import Any

import isthmus

WIDTH, HEIGHT = 72, 28
DEPTH = 60
INK = " .:-=+*#%@"
VICTIM_LINES = 3
"""So many lines the worker gets done that is killed."""


def shade(column: int, line: int) -> int:
    """How long the point stays near: 1 to DEPTH."""
    point = complex(-2.2 + 3.2 * column / WIDTH, -1.25 + 2.5 * line / (HEIGHT - 1))
    z = 0j
    for step in range(1, DEPTH):
        z = z * z + point
        if abs(z) > 2:
            return step
    return DEPTH


def work(picture: isthmus.SharedArray, taken: isthmus.Value, lines_to_live: int | None) -> None:
    """Computes lines until all are taken; hangs in the middle of one when told to."""
    view = picture.view()
    done = 0
    while (line := taken.add(1) - 1) < HEIGHT:
        if done == lines_to_live:
            time.sleep(600)  # it has taken a line, and is killed here
        for column in range(WIDTH):
            view[line, column] = shade(column, line)
        done += 1


def main() -> None:
    """Starts the workers, kills one, repairs what it left, and prints the picture."""
    with isthmus.SharedArray(None, (HEIGHT, WIDTH), "B") as picture, isthmus.Value() as taken:
        context = multiprocessing.get_context("spawn")
        victim = context.Process(target=work, args=(picture, taken, VICTIM_LINES))
        victim.start()
        while taken.get() <= VICTIM_LINES:
            time.sleep(0.01)
        victim.kill()
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
        print(f"a worker was killed by SIGKILL, {VICTIM_LINES} lines done")

        workers = [context.Process(target=work, args=(picture, taken, None)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        view: Any = picture.view()
        missing = [line for line in range(HEIGHT) if not view[line, WIDTH - 1]]
        print(f"lines taken and not done: {missing}")
        for line in missing:
            for column in range(WIDTH):
                view[line, column] = shade(column, line)
        for row in view.tolist():
            print("".join(INK[level * len(INK) // (DEPTH + 1)] for level in row).rstrip())
        print(f"{HEIGHT} lines of {WIDTH} points, each computed")


if __name__ == "__main__":
    main()
