"""The kernel's own mechanisms: ours, and the bare system calls in a loop of Python."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .base import Channel, LockPeer, Opened, Peer, Place, Receiver, Sender
from .posix import limit
from .standard import FORK, PipeChannel

ROOM = 1 << 20  # of a pipe for large messages: the most an unprivileged user may ask for
LARGE = 64 << 10


class BarePipe(PipeChannel):
    """os.write and os.read, one of each a message."""

    def sender(self) -> Sender:
        return Sender(functools.partial(os.write, self.writer))

    def receiver(self) -> Receiver:
        read, reader, size = os.read, self.reader, self.size
        if size <= LARGE:
            return Receiver(functools.partial(read, reader, size))

        def recv() -> bytes:
            parts, left = [], size
            while left:
                part = read(reader, left)
                parts.append(part)
                left -= len(part)
            return b"".join(parts)

        return Receiver(recv)


class PlainConnection(Channel):
    """multiprocessing.Pipe as everybody has it: with the kernel's 64 KiB."""

    def __init__(self, place: Place, size: int) -> None:
        self.reader, self.writer = FORK.Pipe(duplex=False)

    def sender(self) -> Sender:
        return Sender(self.writer.send_bytes)

    def receiver(self) -> Receiver:
        return Receiver(self.reader.recv_bytes)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class OurPipe(Channel):
    def __init__(self, place: Place, size: int) -> None:
        options = {"capacity": ROOM} if size > LARGE else {}
        self.pipe = importlib.import_module("isthmus").Pipe(type=bytes, **options)

    def sender(self) -> Sender:
        return Sender(self.pipe.writer.send, keep=self.pipe)

    def receiver(self) -> Receiver:
        return Receiver(self.pipe.reader.recv, keep=self.pipe)

    def close(self) -> None:
        self.pipe.close()


class BareFifo(Channel):
    """os.mkfifo, os.open, and one os.write or os.read a message."""

    def __init__(self, place: Place, size: int) -> None:
        self.path, self.size = str(place.directory / f"{place.name}.fifo"), size
        os.mkfifo(self.path, 0o600)

    def sender(self) -> Sender:
        return Sender(functools.partial(os.write, os.open(self.path, os.O_RDWR)))

    def receiver(self) -> Receiver:
        return Receiver(functools.partial(os.read, os.open(self.path, os.O_RDWR), self.size))

    def close(self) -> None:
        Path(self.path).unlink()


class BarePackets(BareFifo):
    """The same with O_DIRECT: each write is a packet, which one read brings. Room as in ours."""

    def sender(self) -> Sender:
        fd = os.open(self.path, os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, ROOM)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR | os.O_DIRECT)
        return Sender(functools.partial(os.write, fd))


class OurFifo(Channel):
    def __init__(self, place: Place, size: int) -> None:
        self.path = place.directory / f"{place.name}.fifo"
        self.open().close()

    def open(self) -> Any:
        return importlib.import_module("isthmus").Fifo(self.path, type=bytes)

    def sender(self) -> Sender:
        fifo = self.open()
        there = os.open(self.path, os.O_RDWR)  # a writer waits for a reader, who comes later here
        writer = fifo.writer(timeout=5.0)
        return Sender(writer.send, keep=(fifo, writer, there))

    def receiver(self) -> Receiver:
        fifo = self.open()
        reader = fifo.reader(timeout=5.0)
        return Receiver(reader.recv, keep=(fifo, reader))

    def close(self) -> None:
        self.path.unlink()


class BareQueue(Channel):
    """mq_send and mq_receive by ctypes: Python has no call of its own."""

    def __init__(self, place: Place, size: int) -> None:
        self.name, self.size = f"/{place.name}".encode(), size

    def open(self) -> int:
        class Attributes(ctypes.Structure):
            _fields_ = [(name, ctypes.c_long) for name in ("flags", "most", "size", "now")] + [
                ("unused", ctypes.c_long * 4)
            ]

        wanted = Attributes(0, limit("msg_max", 10), self.size, 0)
        number: int = libc().mq_open(self.name, os.O_RDWR | os.O_CREAT, 0o600, ctypes.byref(wanted))
        if number < 0:
            raise OSError(ctypes.get_errno(), "mq_open")
        return number

    def sender(self) -> Sender:
        number, size, call = self.open(), self.size, libc().mq_send
        return Sender(lambda message: call(number, message, size, 0))

    def receiver(self) -> Receiver:
        number, size, call = self.open(), self.size, libc().mq_receive
        buffer = ctypes.create_string_buffer(size)

        def recv() -> bytes:
            call(number, buffer, size, None)
            return buffer.raw

        return Receiver(recv)

    def close(self) -> None:
        libc().mq_unlink(self.name)


class OurQueue(Channel):
    def __init__(self, place: Place, size: int) -> None:
        self.url = f"posix-mq:///{place.name}?maxsize={limit('msg_max', 10)}&message_max={size}"
        self.name = f"/{place.name}"

    def open(self) -> Any:
        return importlib.import_module("isthmus").Queue(self.url, type=bytes)

    def sender(self) -> Sender:
        queue = self.open()
        return Sender(queue.put, keep=queue)

    def receiver(self) -> Receiver:
        queue = self.open()
        return Receiver(queue.get, keep=queue)

    def close(self) -> None:
        libc().mq_unlink(self.name.encode())


@functools.cache
def libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.sem_open.restype = ctypes.c_void_p
    library.mq_receive.restype = ctypes.c_ssize_t
    return library


def prepare_named(place: Place) -> Opened:
    def open_semaphore() -> tuple[Callable[[], Any], Callable[[], Any]]:
        semaphore = importlib.import_module("isthmus").NamedSemaphore(f"/{place.name}", 1)
        return semaphore.acquire, semaphore.release

    return open_semaphore


def prepare_bare(place: Place) -> Opened:
    def open_semaphore() -> tuple[Callable[[], Any], Callable[[], Any]]:
        library = libc()
        semaphore = ctypes.c_void_p(library.sem_open(f"/{place.name}".encode(), os.O_CREAT, 0o600, 1))
        return functools.partial(library.sem_wait, semaphore), functools.partial(library.sem_post, semaphore)

    return open_semaphore


def unlink_named(place: Place) -> None:
    with contextlib.suppress(OSError):
        libc().sem_unlink(f"/{place.name}".encode())


BARE_PIPE = Peer("bare", "os.write and os.read", BarePipe, note="1 MiB of pipe")
OUR_PIPE = Peer("isthmus", "Isthmus Pipe", OurPipe, module="isthmus", distribution="isthmus")
PLAIN_CONNECTION = Peer(
    "mp-pipe-plain", "multiprocessing.Pipe, 64 KiB", PlainConnection, note="`send_bytes`, as it comes"
)
BARE_FIFO = Peer("bare", "os.open, os.write and os.read", BareFifo)
BARE_PACKETS = Peer(
    "bare-packets", "os.write and os.read, packet mode", BarePackets, note="pipe(2), O_DIRECT"
)
OUR_FIFO = Peer("isthmus", "Isthmus Fifo", OurFifo, module="isthmus", distribution="isthmus")
BARE_QUEUE = Peer("bare", "mq_send and mq_receive by ctypes", BareQueue)
OUR_QUEUE = Peer(
    "isthmus", 'Isthmus Queue("posix-mq:///…")', OurQueue, module="isthmus", distribution="isthmus"
)
OUR_SEMAPHORE = LockPeer(
    "isthmus",
    "Isthmus NamedSemaphore",
    prepare_named,
    clean=unlink_named,
    module="isthmus",
    distribution="isthmus",
)
BARE_SEMAPHORE = LockPeer("bare", "sem_wait and sem_post by ctypes", prepare_bare, clean=unlink_named)
