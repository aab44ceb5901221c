"""pyzmq and pynng: sockets with message boundaries over ipc."""

from __future__ import annotations

import importlib
from typing import Any

from .base import Channel, Peer, Place, Receiver, Sender

COPY_BELOW = 64 << 10  # zmq hands larger messages to its I/O thread without a copy


class ZmqChannel(Channel):
    """PAIR over ipc://, the receiver binds."""

    def __init__(self, place: Place, size: int) -> None:
        self.address = f"ipc://{place.directory}/{place.name}.zmq"
        self.copy = size < COPY_BELOW

    def end(self) -> tuple[Any, Any]:
        zmq: Any = importlib.import_module("zmq")
        context = zmq.Context()
        context.setsockopt(zmq.LINGER, 0)
        return context, context.socket(zmq.PAIR)

    def sender(self) -> Sender:
        context, socket = self.end()
        socket.connect(self.address)
        if self.copy:
            return Sender(socket.send, keep=(context, socket))
        return Sender(lambda message: socket.send(message, copy=False), keep=(context, socket))

    def receiver(self) -> Receiver:
        context, socket = self.end()
        socket.bind(self.address)
        return Receiver(socket.recv, keep=(context, socket))


class NngChannel(Channel):
    """Pair0 over ipc://, the receiver listens."""

    def __init__(self, place: Place, size: int) -> None:
        self.address = f"ipc://{place.directory}/{place.name}.nng"
        self.size = size

    def end(self) -> Any:
        pynng: Any = importlib.import_module("pynng")
        socket = pynng.Pair0()
        socket.recv_max_size = 0
        socket.send_buffer_size = socket.recv_buffer_size = 128 if self.size < COPY_BELOW else 4
        return socket

    def sender(self) -> Sender:
        socket = self.end()
        socket.dial(self.address, block=False)
        return Sender(socket.send, keep=socket)

    def receiver(self) -> Receiver:
        socket = self.end()
        socket.listen(self.address)
        return Receiver(socket.recv, keep=socket)


ZMQ = Peer(
    "pyzmq",
    "pyzmq PAIR ipc",
    ZmqChannel,
    module="zmq",
    distribution="pyzmq",
    note="no copy on sending from 64 KiB",
)
NNG = Peer(
    "pynng",
    "pynng Pair0 ipc",
    NngChannel,
    module="pynng",
    distribution="pynng",
    note="128 messages of buffer (4 when large)",
)
