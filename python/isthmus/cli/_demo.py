"""``isthmus demo``: count the words of real files with a reader, workers and a collector joined by queues."""

from __future__ import annotations

import itertools
import json
import os
import stat
import sys
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.cli._demo_collect import Collector
from isthmus.cli._demo_ends import create, new_name, stop
from isthmus.cli._demo_kill import Killer
from isthmus.cli._demo_report import Outcome, as_dictionary, changed_since, differences, report
from isthmus.cli._processes import Children
from isthmus.cli._progress import View, view
from isthmus.cli._show import CommandError, say
from isthmus.cli._signals import Signals
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
        hint = "; the other demo is `isthmus demo frames`, options last" if path == "frames" else ""
        raise CommandError(f"cannot read {path!r}: {error.strerror}{hint}", 2) from None
    return path, NOT_THE_LIBRARY if given is None else frozenset()


def _count_together(
    path: str, skip: frozenset[str], options: argparse.Namespace, show: View, signals: Signals
) -> Outcome:
    capacity: int | None = options.capacity
    piece = min(PIECE, max(1024, capacity // 16)) if capacity else PIECE
    name = new_name()
    ends = [f"{name}-tasks", f"{name}-results", options.namespace or "", str(os.getpid())]
    common = {"type": bytes, "capacity": capacity, "namespace": options.namespace}
    with ExitStack() as stack:
        # However many workers are killed with the same piece in hand, it is not given up.
        tasks = create(stack, ends[0], max_deliveries=options.kill + 20, **common)
        results = create(stack, ends[1], **common)
        children = stack.enter_context(Children())
        stack.callback(stop, tasks, results)  # before the children are waited for
        stack.callback(signals.ignore)  # what ends us has begun; a second Ctrl+C must not leave it half done
        numbers = itertools.count(1)

        def start_worker() -> None:
            children.start(f"worker {next(numbers)}", ["worker", *ends])

        for _ in range(_workers(options)):
            start_worker()
        children.start("the reader", ["reader", *ends, path, "/".join(sorted(skip)), str(piece)])
        killer = Killer(options.kill, children, start_worker)
        return Collector(tasks, results, children, killer, show).run()


def _workers(options: argparse.Namespace) -> int:
    chosen: int | None = options.workers
    return chosen or max(2, min(8, len(os.sched_getaffinity(0))))


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
