"""Numbers of tasks: owner words say who inside a process holds something, a thread or a task."""

import asyncio
import itertools
import weakref
from typing import Any

__all__ = ["context"]

# They begin where thread ids end (PID_MAX_LIMIT) and have 24 bits. One is given out again after twelve
# million tasks, which could then be taken for each other if both still lived.
_FIRST, _LAST = (1 << 22) + 1, (1 << 24) - 1
_numbers = itertools.cycle(range(_FIRST, _LAST + 1))
_contexts: "weakref.WeakKeyDictionary[asyncio.Task[Any], int]" = weakref.WeakKeyDictionary()


def context() -> int:
    """The number of the current task."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("locks of isthmus.aio are held by tasks: call this in a task")
    number = _contexts.get(task)
    if number is None:
        number = _contexts[task] = next(_numbers)
    return number
