"""Records that are sent through a queue, and kept where they arrive."""

from __future__ import annotations

import contextlib
import logging
import logging.config
from collections.abc import Iterator

import pytest

import isthmus
import isthmus.logging
from isthmus.logging import QueueHandler, QueueListener

__all__ = ["Keeping", "empty", "fill", "handler", "logger", "queue", "received"]


class Keeping(logging.Handler):
    """Keeps the records it gets."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def queue() -> Iterator[isthmus.Queue[bytes]]:
    """A queue of bytes, emptied in the end."""
    with isthmus.Queue("logs", type=bytes, capacity=1 << 20) as handle:
        yield handle
        while not handle.empty():
            handle.get(timeout=0)


@pytest.fixture
def handler(queue: isthmus.Queue[bytes]) -> Iterator[QueueHandler]:
    """Sends to the queue."""
    made = QueueHandler(queue)
    yield made
    made.close()


@pytest.fixture
def logger(handler: QueueHandler) -> logging.Logger:
    """A logger whose records go to the queue, all of them and nowhere else."""
    made = logging.Logger("test.isthmus", 1)  # noqa: LOG001 - unknown to pytest, which adds a handler to others
    made.addHandler(handler)
    return made


def received(queue: isthmus.Queue[bytes]) -> list[logging.LogRecord]:
    """What a listener hands on of all that is in the queue."""
    keeping = Keeping()
    with QueueListener(queue, keeping):
        pass
    return keeping.records


def fill(queue: isthmus.Queue[bytes]) -> None:
    """Leaves no room for a record."""
    for size in (200, 8):
        with contextlib.suppress(isthmus.Full):
            while True:
                queue.put(bytes(size), timeout=0)


def empty(queue: isthmus.Queue[bytes]) -> None:
    while not queue.empty():
        queue.get(timeout=0)
