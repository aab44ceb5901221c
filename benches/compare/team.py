"""Pinned processes that do one piece of work when told and otherwise sleep in a blocking read."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

FORK = multiprocessing.get_context("fork")
SETUP_SECONDS = 30.0
STOP_SECONDS = 2.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc takes no more


class TeamError(Exception):
    """A worker failed, died or did not answer in time; the text says which."""


def keep_freed_memory(libc: ctypes.CDLL) -> None:
    """Makes glibc keep what was freed, for everyone alike.

    At its defaults it gives large blocks back to the kernel and faults them in again with the next
    message: up to ten times the cost of the copy, and as luck has it for one peer and not for another.
    """
    mallopt = getattr(libc, "mallopt", None)  # other libraries do not have it
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def serve(connection: Connection, cpus: Sequence[int], setup: Callable[[], Any], keep_memory: bool) -> None:
    """The life of a worker: set up, then a method of the role for each request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, cpus)
    if keep_memory:
        keep_freed_memory(libc)
    role = None
    try:
        role = setup()
        gc.collect()
        gc.freeze()
        gc.disable()  # the same for everyone; a collection would hit one slice and not its pair
        connection.send((True, None))
        while (request := connection.recv()) is not None:
            method, arguments = request
            connection.send((True, getattr(role, method)(**arguments)))
    except BaseException:
        connection.send((False, traceback.format_exc()))
    finally:
        role = None  # ends close and remove their names
        gc.unfreeze()
        gc.collect()
        os._exit(0)  # no atexit handlers of libraries that the parent shares


class Worker:
    def __init__(self, name: str, cpus: Sequence[int], setup: Callable[[], Any], keep_memory: bool) -> None:
        self.name = name
        self.connection, theirs = FORK.Pipe()
        self.process = FORK.Process(
            target=serve, args=(theirs, cpus, setup, keep_memory), name=name, daemon=True
        )
        self.process.start()
        theirs.close()

    def ask(self, method: str, **arguments: Any) -> None:
        self.connection.send((method, arguments))

    def answer(self, deadline: float) -> Any:
        if not self.connection.poll(max(0.0, deadline - time.monotonic())):
            raise TeamError(f"{self.name} did not answer in time")
        try:
            good, result = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise TeamError(f"{self.name} died") from None
        if not good:
            raise TeamError(f"{self.name} failed:\n{result}")
        return result

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # gone already
            self.connection.send(None)  # closing would not do: younger workers inherited our end
        self.process.join(STOP_SECONDS)
        self.connection.close()
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


class Team:
    """The workers of one contender; they live through all of its slices."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.keep_memory = True

    def add(self, name: str, cpus: Sequence[int], setup: Callable[[], Any]) -> None:
        """Start a worker and wait until it is ready, so that ends open in a known order."""
        worker = Worker(name, cpus, setup, self.keep_memory)
        self.workers[name] = worker
        worker.answer(time.monotonic() + SETUP_SECONDS)

    def run(self, seconds: float, **requests: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        """Ask each named worker (in the order given) and gather their answers."""
        deadline = time.monotonic() + seconds
        for name, (method, arguments) in requests.items():
            self.workers[name].ask(method, **arguments)
        return {name: self.workers[name].answer(deadline) for name in requests}

    def stop(self) -> None:
        for worker in reversed(self.workers.values()):  # receivers last
            worker.stop()
        self.workers.clear()
