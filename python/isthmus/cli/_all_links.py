"""The links that ``isthmus demo --all`` shows: each joins two processes, which send messages over it."""

from __future__ import annotations

import os
import signal
import struct
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import isthmus
from isthmus import signals

PATIENCE = 20.0
"""Seconds after which a link that does not answer is given up."""


class Link:
    """Sends bytes to the other side and receives its answers; one in each process."""

    size = 64
    """Bytes of the messages that are timed one by one."""

    def __init__(self, name: str, first: bool) -> None:
        self.name = name
        self.first = first
        self.stack = ExitStack()

    def mine(self, what: str, other: str) -> tuple[str, str]:
        """Two names, in the order of this side."""
        return (
            (f"{self.name}-{what}", f"{self.name}-{other}")
            if self.first
            else (
                f"{self.name}-{other}",
                f"{self.name}-{what}",
            )
        )

    def last(self) -> bytes:
        """The message that ends it."""
        return b"end" if self.size != 4 else struct.pack("i", -1)

    def send(self, message: bytes) -> None:
        """Sends a message."""
        raise NotImplementedError

    def recv(self) -> bytes:
        """Receives one."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends this side."""
        self.stack.close()


class Queues(Link):
    """Two queues in shared memory."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        there, back = self.mine("there", "back")
        self.out = self.stack.enter_context(isthmus.Queue(there, type=bytes))
        self.back = self.stack.enter_context(isthmus.Queue(back, type=bytes))

    def send(self, message: bytes) -> None:
        self.out.put(message, PATIENCE)

    def recv(self) -> bytes:
        return self.back.get(PATIENCE)


class PosixQueues(Link):
    """Two queues of the kernel."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        there, back = self.mine("there", "back")
        self.queues: list[Any] = []
        for each in (there, back):
            queue = isthmus.PosixQueue(f"/{each}", maxsize=8, message_max=1024)
            self.stack.callback(queue.close)
            if first:
                self.stack.callback(queue.unlink)
            self.queues.append(queue)

    def send(self, message: bytes) -> None:
        self.queues[0].put(message, PATIENCE)

    def recv(self) -> bytes:
        return bytes(self.queues[1].get(PATIENCE))


class Pipes(Link):
    """Pipes, as standard input and output of the other process."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        self.reader: Any = None
        self.writer: Any = None
        if not first:
            self.reader = isthmus.PipeReader(0, type=bytes)
            self.writer = isthmus.PipeWriter(1, type=bytes)

    def send(self, message: bytes) -> None:
        self.writer.send(message)
        self.writer.flush()

    def recv(self) -> bytes:
        return bytes(self.reader.recv(PATIENCE))


class Fifos(Link):
    """Two named pipes."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        folder = Path(tempfile.gettempdir())
        there, back = self.mine("there", "back")
        out, back_ = (isthmus.Fifo(folder / each, type=bytes) for each in (there, back))
        if first:
            self.stack.callback(out.unlink)
            self.stack.callback(back_.unlink)
            self.writer = self.stack.enter_context(out.writer(PATIENCE))
            self.reader = self.stack.enter_context(back_.reader(PATIENCE))
        else:
            self.reader = self.stack.enter_context(back_.reader(PATIENCE))
            self.writer = self.stack.enter_context(out.writer(PATIENCE))

    def send(self, message: bytes) -> None:
        self.writer.send(message, PATIENCE)

    def recv(self) -> bytes:
        return bytes(self.reader.recv(PATIENCE))


class Shared(Link):
    """A shared memory, and semaphores that say whose turn it is."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        self.shared = self.stack.enter_context(self.memory())
        self.view = self.stack.enter_context(self.shared.view())
        self.turns = [isthmus.Semaphore(each, 0) for each in self.mine("there", "back")]
        for turn in self.turns:
            self.stack.callback(turn.close)

    def memory(self) -> Any:
        """What both of them see."""
        return isthmus.SharedMemory(f"{self.name}-memory", 4096)

    def send(self, message: bytes) -> None:
        self.view[: 4 + len(message)] = struct.pack("I", len(message)) + message
        self.turns[0].release()

    def recv(self) -> bytes:
        if not self.turns[1].acquire(PATIENCE):
            raise isthmus.Timeout("the other side does not answer")
        (length,) = struct.unpack_from("I", self.view)
        return bytes(self.view[4 : 4 + length])


class PosixShared(Shared):
    """A memory as any program opens it, and semaphores."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        if first:
            self.stack.callback(self.shared.unlink)

    def memory(self) -> Any:
        return isthmus.SharedMemory(f"posix-shm:///{self.name}", 4096)


class Arrays(Shared):
    """An array, and semaphores."""

    def memory(self) -> Any:
        return isthmus.SharedArray(f"{self.name}-array", 4096, "B")


class Mapped(Link):
    """A file that both map, and semaphores of the C library."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        path = Path(tempfile.gettempdir()) / f"{name}-file"
        self.file = self.stack.enter_context(isthmus.MappedFile(path, 4096))
        self.turns = [isthmus.NamedSemaphore(f"/{each}", 0) for each in self.mine("there", "back")]
        for turn in self.turns:
            self.stack.callback(turn.close)
            if first:
                self.stack.callback(turn.unlink)
        if first:
            self.stack.callback(path.unlink)

    def send(self, message: bytes) -> None:
        self.file.write(0, struct.pack("I", len(message)) + message)
        self.turns[0].release()

    def recv(self) -> bytes:
        if not self.turns[1].acquire(PATIENCE):
            raise isthmus.Timeout("the other side does not answer")
        (length,) = struct.unpack("I", self.file.read(0, 4))
        return self.file.read(4, length)


class Streams(Link):
    """A Unix socket."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        address = self.address()
        if first:
            self.listener = self.stack.enter_context(isthmus.Listener(address, type=bytes))
            self.stream: Any = None
        else:
            self.stream = self.stack.enter_context(isthmus.Stream(self.told(), type=bytes, retry=True))

    def address(self) -> str:
        return f"unix://{tempfile.gettempdir()}/{self.name}.sock"

    def told(self) -> str:
        return self.address()

    def send(self, message: bytes) -> None:
        if self.stream is None:
            self.stream = self.stack.enter_context(self.listener.accept(PATIENCE))
        self.stream.send(message, PATIENCE)

    def recv(self) -> bytes:
        return bytes(self.stream.recv(PATIENCE))


class TcpStreams(Streams):
    """A TCP connection; the port is told by a queue."""

    def __init__(self, name: str, first: bool) -> None:
        port = isthmus.Queue(f"{name}-port", type=int)
        self._port = port
        super().__init__(name, first)
        self.stack.callback(port.close)
        if first:
            port.put(self.listener.port, PATIENCE)

    def address(self) -> str:
        return "tcp://127.0.0.1:0"

    def told(self) -> str:
        return f"tcp://127.0.0.1:{self._port.get(PATIENCE)}"


class Datagrams(Link):
    """Unix datagrams."""

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        folder = tempfile.gettempdir()
        there, back = (f"unix://{folder}/{each}" for each in self.mine("there", "back"))
        self.at = self.stack.enter_context(isthmus.Datagram(at=back))
        self.to = there

    def send(self, message: bytes) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.at.send(message, self.to, PATIENCE)
            except FileNotFoundError:  # the other side is not there yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
            else:
                return

    def recv(self) -> bytes:
        return bytes(self.at.recv(PATIENCE))


class Signals(Link):
    """Real-time signals that carry a number each."""

    size = 4

    def __init__(self, name: str, first: bool) -> None:
        super().__init__(name, first)
        self.receiver = self.stack.enter_context(signals.Receiver(signal.SIGRTMIN))
        self.out = self.stack.enter_context(isthmus.Queue(f"{name}-pids-{first}", type=int))
        self.back = self.stack.enter_context(isthmus.Queue(f"{name}-pids-{not first}", type=int))
        self.out.put(os.getpid(), PATIENCE)
        self.peer = 0

    def send(self, message: bytes) -> None:
        if not self.peer:
            self.peer = self.back.get(PATIENCE)
        (number,) = struct.unpack("i", message.ljust(4, b"\0")[:4])
        signals.sigqueue(self.peer, signal.SIGRTMIN, number, timeout=PATIENCE)

    def recv(self) -> bytes:
        return struct.pack("i", self.receiver.get(PATIENCE).value)


LINKS: dict[str, tuple[type[Link], str]] = {
    "Queue": (Queues, "shared memory"),
    "Queue posix-mq://": (PosixQueues, "the kernel's message queue"),
    "Pipe": (Pipes, "standard input and output"),
    "Fifo": (Fifos, "named pipes"),
    "SharedMemory": (Shared, "with Semaphore"),
    "posix-shm://": (PosixShared, "with Semaphore"),
    "SharedArray": (Arrays, "with Semaphore"),
    "MappedFile": (Mapped, "with NamedSemaphore"),
    "Stream unix://": (Streams, "Unix socket"),
    "Stream tcp://": (TcpStreams, "TCP on this machine"),
    "Datagram": (Datagrams, "Unix datagrams"),
    "signals": (Signals, "real-time signals with a number"),
}
"""By the name that is shown: the class, and what it runs on."""


def answer(mechanism: str, name: str) -> None:
    """The other process: sends back what comes, until the last one."""
    link = LINKS[mechanism][0](name, first=False)
    try:
        while True:
            message = link.recv()
            if message == link.last():
                return
            link.send(message)
    finally:
        link.close()


if __name__ == "__main__":
    answer(*sys.argv[1:])
