"""The demo's reader and workers: programs of their own, which meet the collector at the queues' names."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import isthmus
from isthmus.cli import _demo_messages as messages
from isthmus.cli._demo_ends import OrphanedError, each, patiently
from isthmus.cli._wordcount import NotText, count_piece, files_under, pieces_of

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTES = 5
"""How many reasons for skipped files the reader reports in words."""


class Ends:
    """The two queues as one process of the demo sees them; no call outlasts the process that started it."""

    def __init__(self, tasks: str, results: str, namespace: str | None, parent: int) -> None:
        self.parent = parent
        self.tasks: isthmus.Queue[bytes] = isthmus.Queue.open(tasks, type=bytes, namespace=namespace)
        self.results: isthmus.Queue[bytes] = isthmus.Queue.open(results, type=bytes, namespace=namespace)

    def jobs(self) -> Iterator[isthmus.Lease]:
        """Yield each task on lease, until the reader has finished and every one is counted by somebody."""
        return each(self.parent, self.tasks.lease)

    def put(self, queue: isthmus.Queue[bytes], message: bytes) -> None:
        """Wait for room and put `message`."""
        patiently(self.parent, queue.put, message)

    def close(self) -> None:
        """Close both handles."""
        self.tasks.close()
        self.results.close()


def read_files(ends: Ends, path: str, skip: frozenset[str], piece: int) -> None:
    """Be the reader: walk, announce how much there is, hand out the pieces, shut the queue of tasks down."""
    skipped = {"binary": 0, "unbroken": 0, "unreadable": 0}
    notes: list[str] = []
    number = files = walked = end = 0

    def unreadable(error: OSError) -> None:
        skipped["unreadable"] += 1
        if len(notes) < NOTES:
            notes.append(f"{error.filename}: {error.strerror}")

    found = list(files_under(path, skip, unreadable))
    plan = {"files": len(found), "bytes": sum(length for _, length in found)}
    ends.put(ends.results, messages.note("P", plan))
    for name, size in found:
        before = number
        place = walked
        walked += size
        try:
            for text in pieces_of(name, piece):
                place += len(text)
                ends.put(ends.tasks, messages.task(number, place, text))
                number += 1
                end = place
        except NotText as error:
            skipped[error.reason] += 1
        except OSError as error:
            if number > before or isinstance(error, isthmus.IsthmusError):
                raise
            error.filename = name
            unreadable(error)
        else:
            files += 1
    body: dict[str, Any] = {"pieces": number, "files": files, "end": end, "skipped": skipped, "notes": notes}
    ends.put(ends.results, messages.note("E", body))
    ends.tasks.shutdown()


def count_pieces(ends: Ends) -> None:
    """Be a worker: count each piece that comes and send the counts on, until the tasks end.

    A piece is acknowledged when its counts are sent. A worker that is killed before leaves it to another one,
    which may send counts that were sent already: the collector drops these.
    """
    for job in ends.jobs():
        with job:
            task = messages.read_task(job.message)
            counts = count_piece(task.text)
            ends.put(ends.results, messages.result(task, os.getpid(), job.delivery_count, counts))


def main(arguments: list[str]) -> int:
    """Run one role: ``reader|worker tasks results namespace parent [path skip piece]``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    role, tasks, results, namespace, parent, *rest = arguments
    ends = Ends(tasks, results, namespace or None, int(parent))
    try:
        if role == "reader":
            path, skip, piece = rest
            read_files(ends, path, frozenset(skip.split("/")) if skip else frozenset(), int(piece))
        else:
            count_pieces(ends)
    except (isthmus.ShutDown, OrphanedError):
        pass  # the collector has given up, or is gone: so does this process
    except isthmus.TooLarge as error:
        return _give_up(ends, f"{error}; give the demo more with --capacity")
    except Exception as error:  # noqa: BLE001  # whatever it is, the collector must hear of it and say it
        return _give_up(ends, f"{type(error).__name__}: {error}")
    finally:
        ends.close()
    return 0


def _give_up(ends: Ends, text: str) -> int:
    with suppress(isthmus.IsthmusError, OrphanedError):
        ends.put(ends.results, messages.note("X", {"text": text}))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
