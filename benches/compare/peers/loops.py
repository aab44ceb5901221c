"""Messages between event loops: what is awaited on both sides."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from .base import Place
from .isthmus_peer import namespace
from .links import Ends, Link, LinkPeer


class AioLink(Link):
    """Two queues of Isthmus, one a direction."""

    def __init__(self, place: Place, size: int) -> None:
        self.place = place

    async def ends(self, answers: bool) -> Ends:
        aio = importlib.import_module("isthmus.aio")
        there, back = (
            aio.Queue(f"{self.place.name}-{way}", type=bytes, namespace=namespace(self.place))
            for way in ("there", "back")
        )
        out, in_ = (back, there) if answers else (there, back)
        return Ends(out.put, in_.get, keep=(out, in_))


class ZmqAioLink(Link):
    """One PAIR socket on each side, over ipc."""

    def __init__(self, place: Place, size: int) -> None:
        self.address = f"ipc://{place.directory}/{place.name}.zmq"

    async def ends(self, answers: bool) -> Ends:
        zmq: Any = importlib.import_module("zmq")
        context = importlib.import_module("zmq.asyncio").Context()
        context.setsockopt(zmq.LINGER, 0)
        socket = context.socket(zmq.PAIR)
        (socket.bind if answers else socket.connect)(self.address)
        return Ends(socket.send, socket.recv, keep=(context, socket))


class AioprocessingLink(Link):
    """Two AioQueues: multiprocessing queues whose calls run in threads."""

    def __init__(self, place: Place, size: int) -> None:
        library: Any = importlib.import_module("aioprocessing")
        self.there, self.back = library.AioQueue(), library.AioQueue()

    async def ends(self, answers: bool) -> Ends:
        out, in_ = (self.back, self.there) if answers else (self.there, self.back)
        return Ends(out.coro_put, in_.coro_get, keep=(out, in_))

    def close(self) -> None:
        self.there.close()
        self.back.close()


ISTHMUS = LinkPeer(
    "isthmus",
    "isthmus.aio.Queue on asyncio",
    AioLink,
    module="isthmus",
    distribution="isthmus",
    loop="asyncio",
    note="`put` and `get`",
)
ZMQ = LinkPeer(
    "zmq-asyncio",
    "zmq.asyncio PAIR ipc on asyncio",
    ZmqAioLink,
    module="zmq",
    distribution="pyzmq",
    loop="asyncio",
)
AIOPROCESSING = LinkPeer(
    "aioprocessing",
    "aioprocessing.AioQueue on asyncio",
    AioprocessingLink,
    module="aioprocessing",
    distribution="aioprocessing",
    loop="asyncio",
    note="a thread for each call",
)


def on_uvloop(peer: LinkPeer) -> LinkPeer:
    title = peer.title.replace("on asyncio", "on uvloop")
    return replace(peer, key=f"{peer.key}-uvloop", title=title, loop="uvloop")


LOOPS = tuple(q for peer in (ISTHMUS, ZMQ, AIOPROCESSING) for q in (peer, on_uvloop(peer)))
