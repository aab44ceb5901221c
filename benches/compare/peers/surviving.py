"""Two more locks that outlive a killed holder: a System V semaphore with undo, a lock on a file."""

from __future__ import annotations

import contextlib
import importlib
import zlib
from collections.abc import Callable
from typing import Any

from .base import LockPeer, Opened, Place


def key_of(place: Place) -> int:
    return zlib.crc32(place.name.encode()) & 0x7FFFFFFF


def prepare_semaphore(place: Place) -> Opened:
    def open_semaphore() -> tuple[Callable[[], Any], Callable[[], Any]]:
        library: Any = importlib.import_module("sysv_ipc")
        semaphore = library.Semaphore(key_of(place), library.IPC_CREAT, initial_value=1)
        semaphore.undo = True
        return semaphore.acquire, semaphore.release

    return open_semaphore


def remove_semaphore(place: Place) -> None:
    library: Any = importlib.import_module("sysv_ipc")
    with contextlib.suppress(library.ExistentialError):
        library.Semaphore(key_of(place)).remove()


def prepare_file(place: Place) -> Opened:
    def open_file() -> tuple[Callable[[], Any], Callable[[], Any]]:
        library: Any = importlib.import_module("filelock")
        # It waits by trying again and again; the shortest pause is its best setting.
        lock = library.FileLock(place.directory / f"{place.name}.lock", poll_interval=0.0001)
        return lock.acquire, lock.release

    return open_file


SEMAPHORE = LockPeer(
    "sysv-sem",
    "sysv_ipc.Semaphore with undo",
    prepare_semaphore,
    clean=remove_semaphore,
    module="sysv_ipc",
    distribution="sysv-ipc",
    note="survives a killed holder",
)

FILE = LockPeer(
    "filelock",
    "filelock.FileLock",
    prepare_file,
    module="filelock",
    distribution="filelock",
    note="survives a killed holder; its waiters poll",
)
