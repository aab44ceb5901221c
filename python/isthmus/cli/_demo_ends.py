"""What the processes of a demo have in common: making queues, taking them away, waiting at them."""

from __future__ import annotations

import os
import uuid
import warnings
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import isthmus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds between looks at whether the process that started this one is still there."""


class OrphanedError(Exception):
    """The process that started this one is gone: nobody will read what this one does."""


def new_name() -> str:
    """Return what the names of this run's queues begin with."""
    return f"demo-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def create(stack: ExitStack, name: str, **options: Any) -> isthmus.Queue[Any]:
    """Create a queue that is gone when `stack` is left."""
    queue: isthmus.Queue[Any] = isthmus.Queue.create(name, **options)
    stack.callback(_take_away, queue)
    return queue


def _take_away(queue: isthmus.Queue[Any]) -> None:
    with suppress(FileNotFoundError):
        queue.unlink()
    with warnings.catch_warnings():
        # A run that failed leaves messages behind, which the warning is about.
        warnings.simplefilter("ignore", ResourceWarning)
        queue.close()


def stop(*queues: isthmus.Queue[Any]) -> None:
    """Let whoever waits at a queue go, whatever brought us here."""
    for queue in queues:
        with suppress(isthmus.IsthmusError):
            queue.shutdown()


def patiently(parent: int, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Wait in `call` as long as it takes, but not longer than the process that started this one lives."""
    while True:
        try:
            return call(*arguments, timeout=PATIENCE, **options)
        except (isthmus.Empty, isthmus.Full):
            check_parent(parent)


def check_parent(parent: int) -> None:
    """Raise `OrphanedError` when the process that started this one is gone."""
    if os.getppid() != parent:
        raise OrphanedError


def each(parent: int, take: Callable[..., T]) -> Iterator[T]:
    """Yield what `take` takes until its queue ends."""
    while True:
        try:
            one = patiently(parent, take)
        except isthmus.ShutDown:
            return
        yield one
        del one  # what it holds of the queue is not to be held while waiting for the next
