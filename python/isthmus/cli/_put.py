"""``isthmus put``: messages from standard input into a queue.

The count of what was put is exact whatever ends the command, Ctrl+C included. Signal handlers run between
steps of the interpreter, so the steps are left to C: `deque` pulls on `zip`, which puts one message (`map`)
and then counts it, without a step of ours in between. A signal comes through inside of `put`, before the
message is in the queue, or where the next line is read.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import isthmus
from isthmus.cli._lines import Input, NullInput, WholeInput
from isthmus.cli._queues import closing, existing_or_new
from isthmus.cli._show import CommandError, counted, is_terminal, say
from isthmus.cli._signals import Signals

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from isthmus.cli._content import Content

USAGE = 2
TIMED_OUT = 3


def run(options: argparse.Namespace) -> int:
    """Put all of the input; where it ends early, say how many messages were put."""
    if sys.stdin is None:
        raise CommandError("standard input is closed", USAGE)
    with Signals() as signals:
        queue, content = existing_or_new(options)
        with closing(queue):
            if options.priority >= (levels := queue.priorities):
                has = counted(levels, "level of priority", "levels of priority")
                raise CommandError(f"--priority {options.priority}: the queue has {has}, from 0", USAGE)
            _put_all(queue, content, options, signals)
    return 0


def _put_all(
    queue: isthmus.Queue[Any], content: Content, options: argparse.Namespace, signals: Signals
) -> None:
    kind = NullInput if options.null else WholeInput if options.whole else Input
    # How long a message is that JSON makes, nothing says but the JSON.
    pieces = kind(sys.stdin.buffer, None if content.lines_of_json else queue.message_max)
    if is_terminal(sys.stdin):
        say("reading messages from the terminal; Ctrl+D ends")
    put = partial(queue.put, timeout=options.timeout, priority=options.priority)
    count = itertools.count()
    try:
        deque(zip(map(put, _messages(pieces, content)), count, strict=False), maxlen=0)
    except BaseException as problem:
        signals.ignore()  # pressed again, it must not cost us the count
        done = next(count)
        _report(problem, done, pieces, options)
        raise


def _messages(pieces: Input, content: Content) -> Iterator[Any]:
    parse = content.parse
    for piece in pieces:
        if content.lines_of_json and not piece.strip():
            continue
        yield piece if parse is None else parse(piece)


def _report(problem: BaseException, done: int, pieces: Input, options: argparse.Namespace) -> None:
    """Raise what ended it with the number of messages put."""
    were = f"{counted(done, 'message was', 'messages were')} put"
    where = f"{pieces.what} {pieces.number}" if pieces.what != "input" else "the input"
    if isinstance(problem, isthmus.Full):
        raise CommandError(f"no room in the queue for {options.timeout:g} s; {were}", TIMED_OUT) from None
    if isinstance(problem, isthmus.TooLarge):
        raise CommandError(f"{where} is too large: {problem}; {were}") from None
    if isinstance(problem, isthmus.ShutDown):
        raise CommandError(f"the queue takes no more messages, it was shut down; {were}") from None
    if isinstance(problem, isthmus.IsthmusError):
        say(were)
    elif isinstance(problem, (ValueError, TypeError)):
        raise CommandError(f"{where}: {problem}; {were}") from None
    else:
        say(were)
