"""The demo's collector: it takes the results, each of them once, until every process has done its part."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import isthmus
from isthmus.cli import _demo_messages as messages
from isthmus.cli._demo_ends import stop
from isthmus.cli._demo_report import Outcome
from isthmus.cli._show import CommandError, counted

if TYPE_CHECKING:
    from isthmus.cli._demo_kill import Killer
    from isthmus.cli._processes import Children
    from isthmus.cli._progress import View

TO_END = 10.0
"""Seconds that the processes have for ending when there is nothing to do any more."""


class Collector:
    """Collects until every piece has come back and every process has ended, or one has failed.

    Results carry the number of their piece. A worker that was killed behind its result and before its
    acknowledgement makes another one send that result again: what has come before is dropped.
    """

    def __init__(
        self,
        tasks: isthmus.Queue[bytes],
        results: isthmus.Queue[bytes],
        children: Children,
        killer: Killer,
        show: View,
    ) -> None:
        self.tasks = tasks
        self.results = results
        self.children = children
        self.killer = killer
        self.show = show
        self.outcome = Outcome(asked_to_kill=killer.wanted)
        self._seen: set[int] = set()
        self._again: set[int] = set()
        self._pieces: int | None = None
        self._way = 0
        self._whole_way = 0
        self._began = self._finished = time.perf_counter()

    def run(self) -> Outcome:
        """Collect everything."""
        self.show.start("queues")
        while not self._complete():
            if self._round():
                continue
            if failure := self.children.failure():
                raise CommandError(f"{failure}, which nobody asked for, so the demo stops")
            missing = "the reader's report"
            if self._pieces is not None:
                missing = counted(self._pieces - len(self._seen), "piece")
            raise CommandError(f"every process has ended, but {missing} never came")
        self._finished = time.perf_counter()
        while self._round():
            # Those whose last results were dropped have to end, too; they may have one more to be dropped.
            if time.perf_counter() - self._finished > TO_END:
                raise CommandError("everything is counted, but a process of the demo does not end")
        if failure := self.children.failure():
            raise CommandError(failure)
        self._check_nothing_left()
        self.outcome.seconds = self._finished - self._began
        self.outcome.messages = 2 * len(self._seen)
        self.outcome.redelivered = len(self._again)
        self.show.done()
        return self.outcome

    def _complete(self) -> bool:
        return len(self._seen) == self._pieces

    def _round(self) -> bool:
        """Take what has come; False if nothing has, and nothing will."""
        outcome = self.outcome
        failure = self.children.failure()
        ended = not self.children.running()  # asked before taking: what they sent is in the queue by now
        if failure:
            stop(self.results)  # nothing is added to what is in it; a process that gave up says why there
        try:
            timeout = 0 if failure or ended else 0.01 if self._complete() else 0.1
            batch = self.results.get_many(64, timeout)
        except (isthmus.Empty, isthmus.ShutDown):
            batch = []
        for message in batch:
            self._take(messages.read(message))
        if not self._complete():
            self.killer.strike(self._way / (self._whole_way or 1), len(self._seen))
        outcome.killed = self.killer.pids
        if outcome.repeats > len(outcome.killed):
            # Who is killed has one piece in hand.
            raise CommandError(f"{counted(outcome.repeats, 'piece')} counted twice: no kill explains that")
        depth = self.tasks.qsize()
        outcome.deepest = max(outcome.deepest, depth)
        killed = len(outcome.killed) if self.killer.wanted else None
        self.show.update(outcome.bytes, 2 * len(self._seen), depth, killed)
        return bool(batch) or not (failure or ended)

    def _take(self, message: messages.Result | messages.Note) -> None:
        outcome = self.outcome
        match message:
            case messages.Result(number=number):
                self.killer.saw(message.pid)
                if message.deliveries > 1:
                    self._again.add(number)
                if number in self._seen:
                    outcome.repeats += 1
                    return
                self._seen.add(number)
                self._way = max(self._way, message.end)
                outcome.bytes += message.length
                for word, times in message.counts.items():
                    outcome.counts[word] += times
            case messages.Note("P", body):
                self._began = time.perf_counter()
                self._whole_way = body["bytes"]
                self.show.total(body["bytes"])
            case messages.Note("E", body):
                self._pieces, self._whole_way = body["pieces"], body["end"]
                outcome.files, outcome.skipped, outcome.notes = body["files"], body["skipped"], body["notes"]
            case messages.Note(_, body):
                raise CommandError(body["text"])

    def _check_nothing_left(self) -> None:
        left = self.tasks.stats()
        if left.depth or left.leased or left.dead:
            raise CommandError(
                f"everything is counted, but of the tasks {left.depth} wait, {left.leased} are on lease and "
                f"{left.dead} were given up"
            )
