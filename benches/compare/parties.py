"""What the two ends of a link do, without a loop and in one. The loops are the measurement."""

from __future__ import annotations

import asyncio
import importlib
import time
from itertools import repeat
from typing import Any

from .peers.links import Ends, Link
from .roles import TRIPS, blocking_trips, clock


class Party:
    """One of the two processes; the one that `answers` also is the one that receives a stream."""

    def __init__(self, link: Link, message: bytes, answers: bool) -> None:
        self.link, self.message, self.answers = link, message, answers

    def meet(self) -> None:
        """Both are asked at the same time; each then knows that the other has what was sent."""
        self.ends: Ends = self.link.ends(self.answers)
        if self.answers:
            self.echo(1)
        else:
            self.ends.send(self.message)
            self.flush()
            compare(self.ends.unwrap(self.ends.recv()), self.message)

    def flush(self) -> None:
        if self.ends.finish is not None:
            self.ends.finish()

    def echo(self, count: int) -> None:
        send, recv, unwrap = self.ends.send, self.ends.recv, self.ends.unwrap
        for _ in repeat(None, count):
            send(unwrap(recv()))
        self.flush()

    def ask(self, samples: int, singles: int) -> tuple[list[float], list[float]]:
        """Nanoseconds a trip: means of TRIPS at a time, then trips timed one by one."""
        send, recv, message = self.ends.send, self.ends.recv, self.message
        means, alone = [], []
        for _ in repeat(None, samples):
            start = clock()
            blocking_trips(send, recv, message, TRIPS)
            means.append((clock() - start) / TRIPS)
        for _ in repeat(None, singles):
            start = clock()
            send(message)
            recv()
            alone.append(float(clock() - start))
        return means, alone

    def ask_paused(self, count: int, pause: float) -> tuple[list[float], list[float]]:
        send, recv, message = self.ends.send, self.ends.recv, self.message
        sleep, alone = time.sleep, []
        for _ in repeat(None, count):
            sleep(pause)
            start = clock()
            send(message)
            recv()
            alone.append(float(clock() - start))
        return alone, alone

    def burst(self, count: int) -> int:
        send, message = self.ends.send, self.message
        start = clock()
        for _ in repeat(None, count):
            send(message)
        self.flush()
        return start

    def drain(self, count: int) -> int:
        recv = self.ends.recv
        for _ in repeat(None, count):
            recv()
        return clock()


class LoopParty:
    """The same, awaited, in a loop that lives as long as the process and runs while there is work."""

    def __init__(self, link: Link, message: bytes, answers: bool, loop: str) -> None:
        self.link, self.message, self.answers = link, message, answers
        maker: Any = importlib.import_module(loop)
        self.loop: asyncio.AbstractEventLoop = maker.new_event_loop()
        asyncio.set_event_loop(self.loop)

    def meet(self) -> None:
        self.loop.run_until_complete(self._meet())

    async def _meet(self) -> None:
        self.ends: Ends = await self.link.ends(self.answers)
        if self.answers:
            await self._echo(1)
        else:
            await self.ends.send(self.message)
            await self._flush()
            compare(self.ends.unwrap(await self.ends.recv()), self.message)

    def echo(self, count: int) -> None:
        self.loop.run_until_complete(self._echo(count))

    async def _echo(self, count: int) -> None:
        send, recv = self.ends.send, self.ends.recv
        for _ in repeat(None, count):
            await send(await recv())
        await self._flush()

    async def _flush(self) -> None:
        if self.ends.finish is not None:
            await self.ends.finish()

    def ask(self, samples: int, singles: int) -> tuple[list[float], list[float]]:
        return self.loop.run_until_complete(self._ask(samples, singles))

    async def _ask(self, samples: int, singles: int) -> tuple[list[float], list[float]]:
        send, recv, message = self.ends.send, self.ends.recv, self.message
        means, alone = [], []
        for _ in repeat(None, samples):
            start = clock()
            for _ in repeat(None, TRIPS):
                await send(message)
                await recv()
            means.append((clock() - start) / TRIPS)
        for _ in repeat(None, singles):
            start = clock()
            await send(message)
            await recv()
            alone.append(float(clock() - start))
        return means, alone

    def ask_paused(self, count: int, pause: float) -> tuple[list[float], list[float]]:
        return self.loop.run_until_complete(self._ask_paused(count, pause))

    async def _ask_paused(self, count: int, pause: float) -> tuple[list[float], list[float]]:
        send, recv, message = self.ends.send, self.ends.recv, self.message
        sleep, alone = asyncio.sleep, []
        for _ in repeat(None, count):
            await sleep(pause)
            start = clock()
            await send(message)
            await recv()
            alone.append(float(clock() - start))
        return alone, alone

    def burst(self, count: int) -> int:
        return self.loop.run_until_complete(self._burst(count))

    async def _burst(self, count: int) -> int:
        send, message = self.ends.send, self.message
        start = clock()
        for _ in repeat(None, count):
            await send(message)
        await self._flush()
        return start

    def drain(self, count: int) -> int:
        return self.loop.run_until_complete(self._drain(count))

    async def _drain(self, count: int) -> int:
        recv = self.ends.recv
        for _ in repeat(None, count):
            await recv()
        return clock()


def compare(received: bytes, sent: bytes) -> None:
    if received != sent:
        raise ValueError("received something else than was sent")
