"""What the tests of sockets run in children of multiprocessing."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import isthmus
from isthmus import aio
from support import PATIENCE


def echo_messages(stream: isthmus.Stream[Any]) -> None:
    """Sends back what comes, and says that it has finished."""
    with stream:
        for message in stream:
            stream.send([os.getpid(), message])
        stream.finish(PATIENCE)


def echo_in_a_loop(stream: aio.Stream[Any]) -> None:
    """The same with asyncio."""

    async def main() -> None:
        async with stream:
            async for message in stream:
                await stream.send([os.getpid(), message])
            await stream.finish(PATIENCE)

    asyncio.run(main())


def answer_some(listener: isthmus.Listener[Any], count: int) -> None:
    """Tells `count` clients who this is."""
    with listener:
        for _ in range(count):
            with listener.accept(PATIENCE) as stream:
                stream.send(os.getpid())
                stream.recv(PATIENCE)


def answer_datagram(datagram: isthmus.Datagram[Any]) -> None:
    """Answers one datagram."""
    with datagram:
        received = datagram.recv_from(PATIENCE)
        datagram.send([os.getpid(), received.message], received.sender)


def send_numbers(datagram: isthmus.Datagram[Any], numbers: list[int]) -> None:
    """Sends them where the socket is connected to."""
    with datagram:
        for number in numbers:
            datagram.send(number)
