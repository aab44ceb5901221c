"""``isthmus demo``: count the words of real files with a reader, workers and a collector joined by queues."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import sysconfig
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import isthmus
from isthmus.cli import _demo_messages as messages
from isthmus.cli._demo_report import Outcome, as_dictionary, changed_since, differences, report
from isthmus.cli._processes import Children
from isthmus.cli._progress import View, view
from isthmus.cli._show import CommandError, counted, say
from isthmus.cli._wordcount import PIECE, NotText, count_file, files_under

if TYPE_CHECKING:
    import argparse

NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__"})
"""Folders below the standard library's that hold something else."""


def run(options: argparse.Namespace) -> int:
    """Run the command; 0 only if both counts agree."""
    path, skip = _input(options.path)
    started = time.time_ns()
    with Signals() as signals, view(sys.stderr) as show:
        together = _count_together(path, skip, options, show, signals)
        signals.heed()
        alone = _count_alone(path, skip, show, together.bytes)
    agree = together.same_as(alone)
    if options.json:
        print(json.dumps(as_dictionary(path, _workers(options), together, alone)))
    else:
        print("\n".join(report(path, _workers(options), together, alone)))
    if not agree:
        for line in differences(together, alone, changed_since(started, path, skip)):
            say(line)
    elif not together.files:
        say(f"there is no text file under {path}")
    return 0 if agree else 1


def _input(given: str | None) -> tuple[str, frozenset[str]]:
    path = sysconfig.get_path("stdlib") if given is None else given
    try:
        mode = Path(path).stat().st_mode if path else os.stat("").st_mode  # noqa: PTH116  # Path("") is "."
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise CommandError(f"{path} is neither a file nor a folder", 2)
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise CommandError(f"cannot read {path!r}: {error.strerror}", 2) from None
    return path, NOT_THE_LIBRARY if given is None else frozenset()


def _count_together(
    path: str, skip: frozenset[str], options: argparse.Namespace, show: View, signals: Signals
) -> Outcome:
    capacity: int | None = options.capacity
    piece = min(PIECE, max(1024, capacity // 16)) if capacity else PIECE
    name = f"demo-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    ends = [f"{name}-tasks", f"{name}-results", options.namespace or "", str(os.getpid())]
    with ExitStack() as stack:
        tasks, results = (_queue(stack, end, options) for end in ends[:2])
        children = stack.enter_context(Children())
        stack.callback(_stop, tasks, results)  # before the children are waited for
        stack.callback(signals.ignore)  # what ends us has begun; a second Ctrl+C must not leave it half done
        for number in range(1, _workers(options) + 1):
            children.start(f"worker {number}", ["worker", *ends])
        children.start("the reader", ["reader", *ends, path, "/".join(sorted(skip)), str(piece)])
        outcome = _collect(tasks, results, children, show)
        if not children.wait(5.0):
            raise CommandError("everything is counted, but a process of the demo does not end")
        if failure := children.failure():
            raise CommandError(failure)
        return outcome


def _workers(options: argparse.Namespace) -> int:
    chosen: int | None = options.workers
    return chosen or max(2, min(8, len(os.sched_getaffinity(0))))


class Signals:
    """The signals that end the command, so that leaving `with` blocks cleans up."""

    def __init__(self) -> None:
        self._ended = False
        ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # What was ignored when we began stays so: nohup and background jobs of a script rely on it.
        self._before = {
            number: handler for number in ending if (handler := signal.getsignal(number)) != signal.SIG_IGN
        }

    def __enter__(self) -> Self:
        self.heed()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ended or kind is KeyboardInterrupt:
            self.ignore()  # all that is left is to say so
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def heed(self) -> None:
        """Make SIGTERM and SIGHUP end the command as Ctrl+C does."""
        for number in self._before:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else self._end)

    def ignore(self) -> None:
        """Let nothing disturb the cleaning up, which is short."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _end(self, number: int, _: object) -> None:
        self._ended = True
        raise CommandError(f"ended by {signal.Signals(number).name}", 128 + number)


def _queue(stack: ExitStack, name: str, options: argparse.Namespace) -> isthmus.Queue[bytes]:
    queue = isthmus.Queue.create(name, type=bytes, capacity=options.capacity, namespace=options.namespace)
    stack.callback(queue.close)
    stack.callback(_unlink, queue)
    return queue


def _unlink(queue: isthmus.Queue[bytes]) -> None:
    with suppress(FileNotFoundError):
        queue.unlink()


def _stop(*queues: isthmus.Queue[bytes]) -> None:
    """Let whoever waits at a queue go, whatever brought us here."""
    for queue in queues:
        with suppress(isthmus.IsthmusError):
            queue.shutdown()


def _collect(
    tasks: isthmus.Queue[bytes], results: isthmus.Queue[bytes], children: Children, show: View
) -> Outcome:
    """Be the collector: take results until every piece has come back, or a process has failed."""
    outcome = Outcome()
    seen: set[int] = set()
    pieces: int | None = None
    began = time.perf_counter()
    show.start("queues")
    while pieces is None or len(seen) < pieces:
        failure = children.failure()
        ended = not children.running()  # asked before taking: what they sent is in the queue by now
        if failure:
            _stop(results)  # nothing is added to what is in it; a process that gave up says why there
        try:
            batch = results.get_many(64, timeout=0 if failure or ended else 0.1)
        except (isthmus.Empty, isthmus.ShutDown):
            batch = []
        for message in batch:
            match messages.read(message):
                case messages.Result(number, length, counts):
                    if number in seen:
                        raise CommandError(f"piece {number} was counted twice")
                    seen.add(number)
                    outcome.bytes += length
                    for word, times in counts.items():
                        outcome.counts[word] += times
                case messages.Note("P", body):
                    began = time.perf_counter()
                    show.total(body["bytes"])
                case messages.Note("E", body):
                    pieces, outcome.files = body["pieces"], body["files"]
                    outcome.skipped, outcome.notes = body["skipped"], body["notes"]
                case messages.Note(_, body):
                    raise CommandError(body["text"])
        depth = tasks.qsize()
        outcome.deepest = max(outcome.deepest, depth)
        show.update(outcome.bytes, 2 * len(seen), depth)
        if not batch and failure:
            raise CommandError(f"{failure}; what it had in hand is lost, so the demo stops")
        if not batch and ended:
            missing = "the reader's report" if pieces is None else counted(pieces - len(seen), "piece")
            raise CommandError(f"every process has ended, but {missing} never came")
    outcome.seconds = time.perf_counter() - began
    outcome.messages = 2 * len(seen)
    show.done()
    return outcome


def _count_alone(path: str, skip: frozenset[str], show: View, expected: int) -> Outcome:
    """Count the same files once more in this process, without queues."""
    outcome = Outcome()
    show.start("alone")
    show.total(expected)

    def unreadable(_: OSError) -> None:
        outcome.skipped["unreadable"] += 1

    files = list(files_under(path, skip, unreadable))
    began = time.perf_counter()
    for name, _ in files:
        before = outcome.bytes

        def progress(read: int, before: int = before) -> None:
            show.update(before + read)

        try:
            counts, read = count_file(name, progress)
        except NotText as error:
            outcome.skipped[error.reason] += 1
        except OSError as error:
            unreadable(error)
        else:
            outcome.counts.update(counts)
            outcome.files += 1
            outcome.bytes += read
            show.update(outcome.bytes)
    outcome.seconds = time.perf_counter() - began
    show.done()
    return outcome
