"""A print spooler: several clients, priorities, and a printer that is killed in the middle of a job.

Clients put documents into a queue with three priorities: the most urgent document is printed next, whenever
it came. The printer takes each document on lease, and leaving `with job:` says that it is done. When the
printer is killed before that, the document goes to the next printer, before all others, and `delivery_count`
says that it was handed out before. No document is lost.

The printer tells page by page what it does, with `until="received"`: it goes on only when the spooler has
heard it. That is how the spooler can kill it in the middle of a job, and not a little later.

    python examples/print_spooler.py
"""

import multiprocessing
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

import isthmus

URGENCY = ["draft", "normal", "urgent"]
PATIENCE = 30.0
"""Seconds of silence after which the spooler gives up, should a printer break down."""


@dataclass
class Document:
    """What is to be printed."""

    title: str
    client: str
    pages: int


@dataclass
class Event:
    """What a printer says it has done."""

    text: str
    title: str
    page: int
    """0 when it begins, -1 when it is done."""


CLIENTS = {
    "anna": [("recipe", 1, "draft"), ("thesis", 4, "normal")],
    "ben": [("poster", 2, "draft"), ("invoice", 1, "normal")],
    "the boss": [("contract", 3, "urgent")],
}
LATE = Document("fire alarm plan", "the porter", 1)


def client(name: str, jobs: isthmus.Queue[Document]) -> None:
    """Send documents and go: nobody waits for a printer."""
    for title, pages, urgency in CLIENTS[name]:
        jobs.put(Document(title, name, pages), priority=URGENCY.index(urgency))


def printer(number: int, jobs: isthmus.Queue[Document], events: isthmus.Queue[Event]) -> None:
    """Print documents until there are no more."""

    def tell(text: str, page: int) -> None:
        events.put(Event(f"printer {number} {text}", document.title, page), until="received")

    for job in jobs.leases():
        with job:
            document = job.message
            again = "" if job.delivery_count == 1 else f", delivery {job.delivery_count}"
            tell(f"takes '{document.title}' of {document.client}, {URGENCY[job.priority]}{again}", 0)
            for page in range(1, document.pages + 1):
                time.sleep(0.02)  # the paper moves
                tell(f"prints '{document.title}', page {page} of {document.pages}", page)
            tell(f"is done with '{document.title}'", -1)
    events.shutdown()


def main() -> int:
    """Be the spooler: start clients and printers, and write down what happens."""
    jobs = isthmus.Queue(type=Document, priorities=len(URGENCY))
    events = isthmus.Queue(type=Event)
    clients = [multiprocessing.Process(target=client, args=(name, jobs)) for name in CLIENTS]
    for process in clients:
        process.start()
    for process in clients:
        process.join()
    sent = [title for documents in CLIENTS.values() for title, *_ in documents]
    print(f"{len(CLIENTS)} clients have sent {len(sent)} documents: {', '.join(sent)}", flush=True)

    number = 1
    process = multiprocessing.Process(target=printer, args=(number, jobs, events))
    process.start()
    done = []
    while True:
        try:
            event = events.get(timeout=PATIENCE)
        except isthmus.ShutDown:
            break
        print(event.text, flush=True)
        if event.page == -1:
            done.append(event.title)
        elif (event.title, event.page) == ("contract", 1):
            print(f"{LATE.client} sends '{LATE.title}', urgent", flush=True)
            jobs.put(LATE, priority=URGENCY.index("urgent"))
            jobs.shutdown()  # no more documents after this one
        elif (event.title, event.page, number) == ("thesis", 2, 1):
            process.kill()
            process.join()
            cause = signal.Signals(-(process.exitcode or 0)).name
            with suppress(isthmus.Empty):
                print(events.get(timeout=0).text, flush=True)  # said, but not heard when it died
            back = jobs.stats().depth  # the document that was on lease is inside again
            print(
                f"*** printer {number} was killed by {cause} with '{event.title}' in hand, {back} wait",
                flush=True,
            )
            number += 1
            process = multiprocessing.Process(target=printer, args=(number, jobs, events))
            process.start()
    process.join()

    lost = {*sent, LATE.title} - set(done)
    print(f"{len(sent) + 1} documents sent, {len(done)} printed, {len(lost)} lost")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
