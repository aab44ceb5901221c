"""Connections over Unix sockets and TCP: ours, bare sockets, and what others make of them."""

from __future__ import annotations

import asyncio
import functools
import importlib
import socket
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

from .base import Place
from .links import PATIENCE, Ends, Link, LinkPeer, persist

HOST = "127.0.0.1"


class Addressed(Link):
    """Both sides know one address: a path, or a port that was free a moment ago."""

    def __init__(self, place: Place, size: int, *, tcp: bool = False) -> None:
        self.size, self.tcp = size, tcp
        self.path = str(place.directory / f"{place.name}.sock")
        self.port = free_port() if tcp else 0

    @property
    def url(self) -> str:
        return f"tcp://{HOST}:{self.port}" if self.tcp else f"unix://{self.path}"

    @property
    def place(self) -> Any:
        return (HOST, self.port) if self.tcp else self.path

    @property
    def zmq_url(self) -> str:
        return self.url if self.tcp else f"ipc://{self.path}"

    def close(self) -> None:
        Path(self.path).unlink(missing_ok=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


class OurLink(Addressed):
    """Messages of bytes. `kept`: sent with `flush=False`, so that small ones go together."""

    def __init__(self, place: Place, size: int, *, tcp: bool = False, kept: bool = False) -> None:
        super().__init__(place, size, tcp=tcp)
        self.kept = kept

    def ends(self, answers: bool) -> Ends:
        isthmus = importlib.import_module("isthmus")
        if answers:
            listener = isthmus.Listener(self.url, type=bytes)
            stream = listener.accept(PATIENCE)
            keep = (listener, stream)
        else:
            stream = keep = persist(lambda: isthmus.Stream(self.url, type=bytes))
        if self.kept:
            return Ends(functools.partial(stream.send, flush=False), stream.recv, keep, stream.flush)
        return Ends(stream.send, stream.recv, keep)


class RawLink(Addressed):
    """`sendall`, and `recv` of one known size."""

    def ends(self, answers: bool) -> Ends:
        family = socket.AF_INET if self.tcp else socket.AF_UNIX
        if answers:
            with socket.socket(family) as listening:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(self.place)
                listening.listen()
                sock, _ = listening.accept()
        else:
            sock = persist(self.dial)
        if self.tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        recv = functools.partial(sock.recv, self.size, socket.MSG_WAITALL)
        return Ends(sock.sendall, recv, keep=sock)

    def dial(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET if self.tcp else socket.AF_UNIX)
        try:
            sock.connect(self.place)
        except OSError:
            sock.close()
            raise
        return sock


class ConnectionLink(Addressed):
    """multiprocessing.connection, bytes to bytes."""

    def ends(self, answers: bool) -> Ends:
        if answers:
            with Listener(self.place) as listener:
                connection = listener.accept()
        else:
            connection = persist(lambda: Client(self.place))
        return Ends(connection.send_bytes, connection.recv_bytes, keep=connection)


class StreamsLink(Addressed):
    """asyncio's streams: `write` and `drain`, `readexactly` of one known size."""

    async def ends(self, answers: bool) -> Ends:
        if answers:
            reader, writer, server = await self.accepted()
        else:
            reader, writer = await self.dialled()
            server = None
        size = self.size

        async def send(message: bytes) -> None:
            writer.write(message)
            await writer.drain()

        async def finish() -> None:  # what is left in the transport goes only while the loop runs
            while writer.transport.get_write_buffer_size():  # noqa: ASYNC110  it has no event for this
                await asyncio.sleep(0)

        recv = functools.partial(reader.readexactly, size)
        return Ends(send, recv, keep=(reader, writer, server), finish=finish)

    async def accepted(self) -> Any:
        met: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            met.set_result((reader, writer))

        if self.tcp:
            server = await asyncio.start_server(came, HOST, self.port, limit=4 << 20)
        else:
            server = await asyncio.start_unix_server(came, self.path, limit=4 << 20)
        return (*await met, server)

    async def dialled(self) -> Any:
        for _ in range(1000):
            try:
                if self.tcp:
                    return await asyncio.open_connection(HOST, self.port, limit=4 << 20)
                return await asyncio.open_unix_connection(self.path, limit=4 << 20)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.005)
        raise TimeoutError("nobody listens")


class ZmqLink(Addressed):
    def ends(self, answers: bool) -> Ends:
        zmq: Any = importlib.import_module("zmq")
        context = zmq.Context()
        context.setsockopt(zmq.LINGER, 0)
        end = context.socket(zmq.PAIR)
        (end.bind if answers else end.connect)(self.zmq_url)
        if self.size < 64 << 10:
            return Ends(end.send, end.recv, keep=(context, end))
        return Ends(functools.partial(end.send, copy=False), end.recv, keep=(context, end))


class NngLink(Addressed):
    def ends(self, answers: bool) -> Ends:
        pynng: Any = importlib.import_module("pynng")
        end = pynng.Pair0()
        end.recv_max_size = 0
        end.send_buffer_size = end.recv_buffer_size = 128 if self.size < 64 << 10 else 4
        if answers:
            end.listen(self.zmq_url)
        else:
            end.dial(self.zmq_url, block=False)
        return Ends(end.send, end.recv, keep=end)


def peers(*, tcp: bool) -> dict[str, LinkPeer]:
    """By key; over one transport."""
    over = functools.partial
    listed = (
        LinkPeer(
            "isthmus", "Isthmus Stream", over(OurLink, tcp=tcp), module="isthmus", distribution="isthmus"
        ),
        LinkPeer(
            "isthmus-kept",
            "Isthmus Stream, flush=False",
            over(OurLink, tcp=tcp, kept=True),
            module="isthmus",
            distribution="isthmus",
            note="small messages go together, 64 KiB at a time",
        ),
        LinkPeer(
            "raw-socket", "socket, blocking", over(RawLink, tcp=tcp), note="`sendall`, `recv` of a known size"
        ),
        LinkPeer("mp-connection", "multiprocessing.connection", over(ConnectionLink, tcp=tcp)),
        LinkPeer("asyncio-streams", "asyncio streams", over(StreamsLink, tcp=tcp), loop="asyncio"),
        LinkPeer("pyzmq", "pyzmq PAIR", over(ZmqLink, tcp=tcp), module="zmq", distribution="pyzmq"),
        LinkPeer("pynng", "pynng Pair0", over(NngLink, tcp=tcp), module="pynng", distribution="pynng"),
    )
    return {peer.key: peer for peer in listed}
