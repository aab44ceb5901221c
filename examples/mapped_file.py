"""Counters in a file that several processes change: a mapped file and locks on ranges of it.

Each page of a site has a record of 16 bytes in the file: visits and seconds. The servers add to both
under a lock on that record only, so those who count another page do not wait. One server is killed; the
kernel drops its lock, the others go on, and what was counted is in the file: a process that maps it
later finds it there.

    python examples/mapped_file.py
"""

import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import isthmus

PAGES = ["start", "news", "weather", "sports"]
RECORD = 16
VISITS = 300


def serve(file: isthmus.MappedFile, number: int, forever: bool) -> None:
    """Counts visits; each lasts a second, so both numbers of a page have to be equal."""
    choose = random.Random(number)  # noqa: S311 - no secrets are made of it
    records = file.view("q", (len(PAGES), 2))
    count = 0
    while forever or count < VISITS:
        page = choose.randrange(len(PAGES))
        with file.lock(page * RECORD, RECORD):
            records[page, 0] += 1
            records[page, 1] += 1
        count += 1


def main() -> None:
    """Runs four servers, kills one more, and reads the result."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "visits"
        with isthmus.MappedFile.create(path, len(PAGES) * RECORD) as file:
            context = multiprocessing.get_context("spawn")
            victim = context.Process(target=serve, args=(file, 0, True))
            victim.start()
            while not any(file.view("q")):
                time.sleep(0.01)
            servers = [context.Process(target=serve, args=(file, n, False)) for n in range(1, 5)]
            for server in servers:
                server.start()
            victim.kill()
            victim.join()
            for server in servers:
                server.join()
            file.flush()  # and now a power failure harms it no more

        with isthmus.MappedFile(path, access="read") as file:
            view: Any = file.view("q", (len(PAGES), 2))
            records: list[list[int]] = view.tolist()
        for page, (visits, seconds) in zip(PAGES, records, strict=True):
            note = "" if visits == seconds else "  (the killed server was between the two)"
            print(f"{page:10} {visits:6} visits {seconds:6} s{note}")
        visits = sum(visits for visits, _ in records)
        behind = sum(visits - seconds for visits, seconds in records)
        print(f"{visits - 4 * VISITS} visits of the killed server and {4 * VISITS} of the others")
        assert behind in (0, 1)


if __name__ == "__main__":
    main()
