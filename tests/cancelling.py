"""Cancelling a coroutine at its k-th await, for every k; and loops that advance only when told.

A task can be cancelled while it is suspended, or when what it waited for has come and it has not run since.
To the coroutine these are `CancelledError` at its k-th await before and after the awaited future was done;
`At` throws it exactly there.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Coroutine, Generator, Iterator
from typing import Any, Literal

import pytest

from forms import LOOPS
from isthmus.aio import _driver

When = Literal["asleep", "woken"]


class At:
    """Awaits a coroutine and cancels it at its k-th await; the result is (True, value), or (False, error)."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, when: When) -> None:
        self._coroutine = coroutine
        self._at = at
        self._when = when
        self.awaits = 0

    def __await__(self) -> Generator[Any, Any, tuple[bool, Any]]:
        steps = self._coroutine.__await__()
        error: BaseException | None = None
        while True:
            try:
                waits_for = next(steps) if error is None else steps.throw(error)
            except StopIteration as end:
                return True, end.value
            except asyncio.CancelledError as cancelled:
                return False, cancelled
            error = None
            self.awaits += 1
            here = self.awaits == self._at
            if here and self._when == "asleep":
                if waits_for is not None:
                    waits_for._asyncio_future_blocking = False
                    waits_for.cancel()
                error = asyncio.CancelledError()
                continue
            try:
                yield waits_for
            except BaseException as thrown:
                error = thrown
            if here:
                error = asyncio.CancelledError()


class World:
    """Two loops which this thread steps, and no slices: whoever is not rung is never woken."""

    def __init__(self, kind: str, *, spins: bool) -> None:
        self.loops = [LOOPS[kind]() for _ in range(2)]
        for loop in self.loops:
            driver = _driver.Driver.of(loop)
            driver._watch = lambda *_: None  # type: ignore[method-assign]
            self._spins(driver, spins)

    @staticmethod
    def _spins(driver: _driver.Driver, spins: bool) -> None:
        driver._budget_ns = 10**15 if spins else 0
        driver._learn = lambda *_: None  # type: ignore[method-assign]

    def no_spin(self) -> None:
        """From now on whoever waits is asleep."""
        for loop in self.loops:
            self._spins(_driver.Driver.of(loop), False)

    def start(self, number: int, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of a loop, run up to where it waits."""
        task = self.loops[number].create_task(coroutine)
        self.turn(number)
        return task

    def turn(self, number: int) -> None:
        """One turn of a loop."""
        loop = self.loops[number]
        loop.call_soon(loop.stop)
        loop.run_forever()

    def settle(self) -> None:
        """Turns until nothing rings any more: what is not done then never will be."""
        quiet = 0
        while quiet < 10:
            for number in range(len(self.loops)):
                self.turn(number)
            quiet = 0 if any(self._rings(loop) for loop in self.loops) else quiet + 1

    @staticmethod
    def _rings(loop: asyncio.AbstractEventLoop) -> bool:
        heard = [bell.fileno() for bell in _driver.Driver.of(loop)._bells]
        return bool(heard and select.select(heard, [], [], 0)[0])

    def close(self) -> None:
        """Cancels what is left."""
        for loop in self.loops:
            for task in asyncio.all_tasks(loop):
                task.cancel()
        self.settle()
        for loop in self.loops:
            assert not asyncio.all_tasks(loop)
            for rope in _driver.Driver.of(loop)._ropes.values():
                assert rope.groups == {}, "nobody waits any more"
            loop.close()


@contextlib.contextmanager
def world(kind: str, *, spins: bool = False) -> Iterator[World]:
    """A `World` for a `with` block."""
    made = World(kind, spins=spins)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=LOOPS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which loops."""
    return str(request.param)


__all__ = ["At", "When", "World", "world"]
