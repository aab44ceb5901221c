"""``isthmus get``: messages of a queue to standard output.

Each message is taken on lease, written, and acknowledged when the system has all of it. Signals wait from
the last byte to the acknowledgement, so Ctrl+C neither loses a message nor writes one twice. Where writing
fails, or the command is killed, the message goes back; killed right between the two, it comes again.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import isthmus
from isthmus.cli._lines import Output
from isthmus.cli._queues import closing, existing
from isthmus.cli._show import CommandError, counted, is_terminal, printable, say
from isthmus.cli._signals import Deferring

if TYPE_CHECKING:
    import argparse

    from isthmus.cli._content import Content

FAILED = 1
TIMED_OUT = 3
_SLICE = 1.0
"""Seconds after which one who waits for messages looks whether its reader is still there."""


def run(options: argparse.Namespace) -> int:
    """Take messages until there are none, or as long as the options say."""
    end = b"\0" if options.null else b"" if options.whole else b"\n"
    with Deferring() as signals:
        output = Output(1, end, signals)
        queue, content = existing(options, unpickle=options.unpickle)
        with closing(queue):
            return _Taking(queue, content, output, options).run()


class _Taking:
    """One run of the command."""

    def __init__(
        self, queue: isthmus.Queue[Any], content: Content, output: Output, options: argparse.Namespace
    ) -> None:
        self._queue = queue
        self._render = content.render
        self._output = output
        self._wanted: int | None = options.count
        self._timeout = options.timeout if options.follow or options.timeout is not None else 0.0
        # On a terminal a message must not move the cursor; elsewhere it is what it is.
        self._for_people = is_terminal(sys.stdout) and not (options.raw or options.null or options.whole)
        self._taken = 0
        self._bad = 0

    def run(self) -> int:
        """Take as many as asked for, or all."""
        while self._wanted is None or self._taken < self._wanted:
            try:
                lease = self._next()
            except isthmus.InvalidMessage as problem:
                self._bad += 1
                say(f"message {problem.number} is damaged and kept among the dead: {problem.reason}")
                continue
            if lease is None:
                break
            with lease:
                self._output.write(self._text(lease), lease.ack)
            del lease
            self._taken += 1
        if self._wanted is not None and self._taken < self._wanted:
            say(f"{self._taken} of {counted(self._wanted, 'message')} came")
            return FAILED if self._bad else TIMED_OUT
        return FAILED if self._bad else 0

    def _next(self) -> isthmus.Lease | None:
        """Lease a message; None where none came in time, or none will."""
        end = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            self._output.wait_writable()
            left = None if end is None else max(0.0, end - time.monotonic())
            if self._output.may_break:
                left = _SLICE if left is None else min(left, _SLICE)
            try:
                return self._queue.lease(left)
            except isthmus.ShutDown:
                return None
            except isthmus.Empty as problem:
                if end is None or time.monotonic() < end:
                    continue
                if self._queue.qsize():
                    say(str(problem))  # there are messages, and something else is in the way
                return None

    def _text(self, lease: isthmus.Lease) -> bytes:
        try:
            data: bytes = lease.message if self._render is None else self._render(lease.message)
        except ValueError as problem:
            raise CommandError(f"message {lease.number} stays in the queue: {problem}") from None
        return printable(data.decode(errors="backslashreplace")).encode() if self._for_people else data
