"""Event loops that a test steps itself, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import select
from collections.abc import Iterator
from pathlib import Path

import isthmus
from forms import LOOPS
from isthmus import aio
from isthmus.aio import _driver


def bells(namespace: Path) -> set[str]:
    return {path.name for path in namespace.glob(".bell-*")}


def descriptors() -> int:
    gc.collect()  # what tests before have left
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def step(loop: asyncio.AbstractEventLoop) -> None:
    """One turn of a loop that does not run otherwise."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def rings(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a bell of this loop has rung and was not heard yet."""
    heard = [bell.fileno() for bell in _driver.Driver.of(loop)._bells]
    return bool(select.select(heard, [], [], 0)[0])


@contextlib.contextmanager
def loops(kind: str, count: int) -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Loops that this thread steps."""
    opened = [LOOPS[kind]() for _ in range(count)]
    yield opened
    for loop in opened:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        step(loop)
        step(loop)
        loop.close()


def waiting_in(loop: asyncio.AbstractEventLoop, q: isthmus.Queue[bytes]) -> asyncio.Task[bytes]:
    """A task of a loop that is stepped, waiting for a message."""
    before = q.stats().consumers_waiting
    task = loop.create_task(aio.Queue(q).get())
    while q.stats().consumers_waiting == before:
        step(loop)
    return task
