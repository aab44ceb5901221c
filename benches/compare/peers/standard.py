"""What the standard library has: multiprocessing's Pipe, Queue and Lock, and bare descriptors."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import socket
from typing import Any

from .base import Channel, LockPeer, Opened, Peer, Place, Receiver, Sender

FORK = multiprocessing.get_context("fork")
PIPE_BYTES = 1 << 20  # the most an unprivileged user may ask for
SOCKET_BYTES = 4 << 20  # the kernel cuts it to net.core.wmem_max
READ_AHEAD = 256 << 10


class ConnectionChannel(Channel):
    """multiprocessing.Pipe, bytes to bytes (no pickling)."""

    def __init__(self, place: Place, size: int) -> None:
        self.reader, self.writer = FORK.Pipe(duplex=False)
        fcntl.fcntl(self.writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def sender(self) -> Sender:
        return Sender(self.writer.send_bytes, keep=self.writer)

    def receiver(self) -> Receiver:
        return Receiver(self.reader.recv_bytes, keep=self.reader)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class MpQueueChannel(Channel):
    """multiprocessing.Queue as everybody uses it: a feeder thread, a pipe, two locks."""

    def __init__(self, place: Place, size: int) -> None:
        # Unbounded, the feeder thread falls behind and the queue grows: bounded in messages is its best.
        self.queue: Any = FORK.Queue(maxsize=max(16, min(4096, (64 << 20) // size)))

    def sender(self) -> Sender:
        return Sender(self.queue.put, keep=self.queue)

    def receiver(self) -> Receiver:
        return Receiver(self.queue.get, keep=self.queue)

    def close(self) -> None:
        self.queue.close()


class PipeChannel(Channel):
    """os.pipe carrying messages of one known size: read ahead in one buffer, so many for one call."""

    def __init__(self, place: Place, size: int) -> None:
        self.size = size
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def sender(self) -> Sender:
        # Unbuffered and blocking: for a pipe the kernel takes all of it in one call.
        file = open(self.writer, "wb", buffering=0, closefd=False)  # noqa: SIM115  lives as long as the process
        return Sender(file.write, keep=file)

    def receiver(self) -> Receiver:
        file = open(self.reader, "rb", buffering=READ_AHEAD, closefd=False)  # noqa: SIM115
        read, size = file.read, self.size
        return Receiver(lambda: read(size), keep=file)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class SocketChannel(Channel):
    """A stream socketpair carrying messages of one known size, read ahead like the pipe."""

    def __init__(self, place: Place, size: int) -> None:
        self.size = size
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)

    def sender(self) -> Sender:
        return Sender(self.writer.sendall, keep=self.writer)

    def receiver(self) -> Receiver:
        file = self.reader.makefile("rb", buffering=READ_AHEAD)
        read, size = file.read, self.size
        return Receiver(lambda: read(size), keep=file)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


def prepare_lock(place: Place) -> Opened:
    lock = FORK.Lock()
    return lambda: (lock.acquire, lock.release)


PIPE = Peer("mp-pipe", "multiprocessing.Pipe", ConnectionChannel, note="`send_bytes`, 1 MiB of pipe buffer")
QUEUE = Peer("mp-queue", "multiprocessing.Queue", MpQueueChannel, note="bounded, pickling bytes")
RAW_PIPE = Peer(
    "os-pipe", "os.pipe", PipeChannel, note="messages of one known size, 1 MiB of pipe, read ahead"
)
SOCKETPAIR = Peer("socketpair", "socketpair", SocketChannel, note="stream, one known size, read ahead")
LOCK = LockPeer(
    "mp-lock", "multiprocessing.Lock", prepare_lock, note="dies with its holder: nobody gets it again"
)
