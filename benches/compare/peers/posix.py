"""posix_ipc: the kernel's message queue and semaphore."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .base import Channel, LockPeer, Opened, Peer, Place, Receiver, Sender


def limit(which: str, otherwise: int) -> int:
    try:
        return int(Path("/proc/sys/fs/mqueue", which).read_text())
    except (OSError, ValueError):
        return otherwise


class MessageQueueChannel(Channel):
    def __init__(self, place: Place, size: int) -> None:
        self.name = f"/{place.name}"
        self.size = size

    def open(self) -> Any:
        library: Any = importlib.import_module("posix_ipc")
        return library.MessageQueue(
            self.name, library.O_CREAT, max_messages=limit("msg_max", 10), max_message_size=self.size
        )

    def sender(self) -> Sender:
        queue = self.open()
        return Sender(queue.send, keep=queue)

    def receiver(self) -> Receiver:
        queue = self.open()
        return Receiver(queue.receive, keep=queue, unwrap=lambda answer: bytes(answer[0]))

    def close(self) -> None:
        library: Any = importlib.import_module("posix_ipc")
        with contextlib.suppress(library.ExistentialError):
            library.unlink_message_queue(self.name)


def prepare_semaphore(place: Place) -> Opened:
    def open_semaphore() -> tuple[Callable[[], Any], Callable[[], Any]]:
        library: Any = importlib.import_module("posix_ipc")
        semaphore = library.Semaphore(f"/{place.name}", library.O_CREAT, initial_value=1)
        return semaphore.acquire, semaphore.release

    return open_semaphore


def unlink_semaphore(place: Place) -> None:
    library: Any = importlib.import_module("posix_ipc")
    with contextlib.suppress(library.ExistentialError):
        library.unlink_semaphore(f"/{place.name}")


QUEUE = Peer(
    "posix-mq",
    "posix_ipc.MessageQueue",
    MessageQueueChannel,
    module="posix_ipc",
    distribution="posix-ipc",
    largest=limit("msgsize_max", 8192),
    note="as many messages as the system allows (usually 10)",
)

SEMAPHORE = LockPeer(
    "posix-sem",
    "posix_ipc.Semaphore",
    prepare_semaphore,
    clean=unlink_semaphore,
    module="posix_ipc",
    distribution="posix-ipc",
    note="a token, not a lock",
)
