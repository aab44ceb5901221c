"""Workers that wait for many things at once: asyncio in several processes, one of which is killed.

Each worker fetches ten pages at a time, in ten tasks of one event loop. A task takes a page on lease, so what
a worker had in hand when it was killed goes to another, and `delivery_count` says so. Nobody polls, and no
thread waits on behalf of a loop: a queue wakes the loop when something has come.

The program that hands out the pages is asyncio too, and shares the queues with a plain function that knows
nothing of it: `aio.Queue(queue)` wraps a handle, which goes on working. Half of the pages answer only after a
worker was killed, so that it has some in hand, however slow the others are.

    python examples/asyncio_workers.py
"""

import asyncio
import multiprocessing
import sys

import isthmus
from isthmus import aio

PAGES, WORKERS, TASKS = 80, 2, 10
PATIENCE = 30.0
"""Seconds without a result after which the program gives up, should the workers break down."""

Result = tuple[int, int, int]
"""Who has fetched which page, and how often it was handed out."""


async def fetch(page: int, awake: isthmus.Event) -> None:
    """Wait for the network, so to speak: other tasks run meanwhile."""
    await asyncio.sleep(0.02 + page % 3 * 0.01)
    if page >= PAGES // 2:
        await aio.Event(awake).wait()


async def work(
    number: int, pages: isthmus.Queue[int], results: isthmus.Queue[Result], awake: isthmus.Event
) -> None:
    """Fetch pages, several at a time, until there are no more."""

    async def fetcher() -> None:
        async for job in aio.Queue(pages).leases():
            with job:  # acknowledged at the end of the block; cancelled or failed, it goes back
                await fetch(job.message, awake)
                await aio.Queue(results).put((number, job.message, job.delivery_count))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(TASKS):
            tasks.create_task(fetcher())


def worker(
    number: int, pages: isthmus.Queue[int], results: isthmus.Queue[Result], awake: isthmus.Event
) -> None:
    """Be a worker process."""
    asyncio.run(work(number, pages, results, awake))


def order(pages: isthmus.Queue[int]) -> None:
    """Say what is wanted. Nothing here is asynchronous."""
    pages.put_many(list(range(PAGES)))


async def collect(
    workers: list[multiprocessing.Process],
    pages: isthmus.Queue[int],
    results: isthmus.Queue[Result],
    awake: isthmus.Event,
) -> dict[int, int]:
    """Take the results, and kill a worker on the way; how often each page was handed out."""
    incoming = aio.Queue(results)
    fetched: dict[int, int] = {}
    killed = False
    while len(fetched) < PAGES:
        number, page, deliveries = await incoming.get(timeout=PATIENCE)
        fetched[page] = deliveries  # the same page twice would be the same page
        if len(fetched) == PAGES // 4 and not killed:
            killed = True
            workers[number - 1].kill()
            await asyncio.to_thread(workers[number - 1].join)
            print(f"*** worker {number} was killed with {len(fetched)} pages done", flush=True)
            awake.set()
    await aio.Queue(pages).shutdown()
    return fetched


def main() -> int:
    """Start the workers, order the pages, and look whether each was fetched."""
    pages = isthmus.Queue(type=int)
    results = isthmus.Queue(type=Result)
    awake = isthmus.Event()
    workers = [
        multiprocessing.Process(target=worker, args=(number, pages, results, awake))
        for number in range(1, WORKERS + 1)
    ]
    for process in workers:
        process.start()
    order(pages)
    fetched = asyncio.run(collect(workers, pages, results, awake))
    for process in workers:
        process.join()
    again = sum(deliveries > 1 for deliveries in fetched.values())
    lost = PAGES - len(fetched)
    print(f"{PAGES} pages ordered, {len(fetched)} fetched, {again} of them by another worker, {lost} lost")
    while not results.empty():
        results.get(timeout=0)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
