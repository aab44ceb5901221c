"""Fixtures of the unit tests."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import _descriptors as descriptors
from kernel_peers import QUEUE, SEMAPHORE, fresh_name
from programs import Program, compiled


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    """An anonymous queue; what a test leaves in it is thrown away without a warning."""
    handle = isthmus.Queue(type=bytes)
    yield handle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        handle.close()


@pytest.fixture
def messages() -> Iterator[isthmus.Pipe[bytes]]:
    """A pipe for messages of bytes."""
    with isthmus.Pipe(type=bytes) as pipe:
        yield pipe


@pytest.fixture
def stream() -> Iterator[isthmus.Pipe[Any]]:
    """A pipe for bytes."""
    with isthmus.Pipe() as pipe:
        yield pipe


@pytest.fixture(params=["nowait", "careful", "nonblocking"])
def way(request: pytest.FixtureRequest) -> Callable[[isthmus.Pipe[Any]], None]:
    """Makes the ends of a pipe work in one of the three ways there are, whatever this kernel has."""

    def change(pipe: isthmus.Pipe[Any]) -> None:
        for end in (pipe.reader, pipe.writer):
            if request.param == "nonblocking":
                os.set_blocking(end._fd, False)
            calls = descriptors.calls_for(end._fd, careful=request.param == "careful")
            end._take_back()
            end._read_now, end._write_now = calls
            end._hand_out()

    return change


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[isthmus.Fifo[bytes]]:
    """A FIFO for messages of bytes."""
    with isthmus.Fifo(tmp_path / "fifo", type=bytes) as handle:
        yield handle


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[isthmus.Fifo[Any]]:
    """A FIFO for bytes."""
    with isthmus.Fifo(tmp_path / "lines") as handle:
        yield handle


@pytest.fixture
def mq_name() -> Iterator[str]:
    """A name for a queue of the kernel, which is removed afterwards, as is one with "-back" at its end."""
    from isthmus import posix_mq

    name = fresh_name()
    yield name
    for each in (name, f"{name}-back"):
        with contextlib.suppress(FileNotFoundError):
            posix_mq.unlink(each)


@pytest.fixture
def mq(mq_name: str) -> Iterator[isthmus.PosixQueue[bytes]]:
    """A queue of the kernel for 4 messages of 512 bytes."""
    with isthmus.PosixQueue.create(mq_name, type=bytes, maxsize=4, message_max=512) as handle:
        yield handle


def _programs(source: str) -> Iterator[Callable[[], Program]]:
    started: list[Program] = []

    def start() -> Program:
        started.append(Program(compiled(source)))
        return started[-1]

    yield start
    for program in started:
        program.reap()


@pytest.fixture
def mq_program() -> Iterator[Callable[[], Program]]:
    """Starts a C program that works with kernel queues (`kernel_peers.QUEUE`), ended after the test."""
    yield from _programs(QUEUE)


@pytest.fixture
def semaphore_program() -> Iterator[Callable[[], Program]]:
    """Starts a C program that works with a named semaphore (`kernel_peers.SEMAPHORE`), ended afterwards."""
    yield from _programs(SEMAPHORE)
