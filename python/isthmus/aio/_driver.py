"""What is under every asynchronous wait: one driver a loop, one bell (a FIFO) a loop and namespace.

A call that cannot go on says what it waits for (`_core.Wait`). Its task joins the *group* of those who wait
for the same, and the group has the object ring the loop's bell. Nobody else is woken, no thread runs, nothing
is polled. When the bell rings, the first of the group tries again, and only when it has its message (or finds
none) the next one does: as with threads asleep on a futex, a wake-up that was not used is handed on, so
cancelling a task at any moment loses neither a message nor a wake-up: what is taken is taken in the task
itself, after its last `await`.

Wake-ups that were lost with a killed process, and what the dead hold, are looked after by one timer a loop,
every 200 ms (80 ms where deaths matter), as long as anybody waits.
"""

import asyncio
import os
import threading
import time
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from isthmus import _core
from isthmus._core import ASK, LAST
from isthmus._errors import WouldBlock

__all__ = ["TURN", "Driver", "End", "check", "checkpoint", "settle", "until"]

R = TypeVar("R")

# As for threads (wait.rs): waits up to this long are spun through, without a system call on either side. Here
# each look is an iteration of the loop, in which other tasks run.
_SPIN_MAX_NS = 100_000
_SPIN_MIN_NS = 2_000
_ONE_CPU = os.cpu_count() == 1

# As in claim.rs, in seconds.
_PATIENCE = 0.005
# How often a waiter that was asked to looks whether it is in a deadlock, in seconds.
_LOOK_EVERY = 0.1

TURN = 64
"""What never has to wait would never let the loop run. So every so many calls of an object do so, once."""


def check(timeout: float | None) -> None:
    """Refuses what is no timeout."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is {timeout}: it takes seconds from 0 (tries) upwards, or None (waits)")


@types.coroutine
def checkpoint() -> Generator[None, None, None]:
    """Lets others run; may be cancelled here."""
    yield


class Waiter:
    """A task that waits, and whether it was woken in its group's name."""

    __slots__ = ("claimed", "future", "group", "rung", "wait")

    def __init__(self, wait: _core.Wait) -> None:
        self.wait = wait
        self.future: asyncio.Future[bool] | None = None
        self.group: _Group | None = None
        self.rung = False
        # It is to be next, before those who came earlier.
        self.claimed = False


class _Group:
    """Those who wait at one point of one object for the same."""

    __slots__ = ("armed", "busy", "claimants", "key", "rope", "token", "waiters")

    def __init__(self, rope: "_Rope", token: int, key: int) -> None:
        self.rope = rope
        self.token = token
        self.key = key
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        # Those of them who may go on where the first may not.
        self.claimants: set[Waiter] = set()
        self.armed = False
        # One that was woken has not tried again yet.
        self.busy = False

    def advance(self, *, ready: bool = False) -> None:
        """Wakes the first where it may go on, has the bell rung where it may not."""
        while self.waiters and not self.busy:
            first = next(iter(self.waiters))
            if not ready and not first.wait.ready():
                self.armed = True
                # SYNC(wait): armed, then looked at again.
                if not first.wait.arm(self.rope.bell):
                    claimant = next((each for each in self.claimants if each.wait.ready()), None)
                    if claimant is None:
                        return
                    first = claimant
            ready = False
            del self.waiters[first]
            self.claimants.discard(first)
            self._wake(first)
            if not self.waiters and not self.busy:
                self.rope.drop(self, first.wait)
                # It was cancelled, or its time was up, at this very moment.
                first.wait.pass_on()

    def _wake(self, waiter: Waiter) -> None:
        waiter.group = None
        future = waiter.future
        if future is None or future.done():
            return
        if waiter.wait.exclusive:
            self.busy = waiter.rung = True
            waiter.group = self
        else:
            # It takes nothing: others may.
            waiter.wait.pass_on()
        future.set_result(True)

    def leave(self, waiter: Waiter) -> None:
        """One that was not woken goes away."""
        self.claimants.discard(waiter)
        if self.waiters.pop(waiter, waiter) is None and not self.waiters and not self.busy:
            self.rope.drop(self, waiter.wait)
            # The bell may have rung for it, unheard so far.
            waiter.wait.pass_on()

    def tried(self, waiter: Waiter) -> None:
        """One that was woken has tried again, or goes away."""
        self.busy = waiter.rung = False
        waiter.group = None
        if self.waiters:
            self.advance()
        else:
            waiter.wait.pass_on()
            self.rope.drop(self, waiter.wait)


class _Rope:
    """The bell of one loop in one namespace, and who waits for it to ring."""

    __slots__ = ("__weakref__", "bell", "groups", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, namespace: str) -> None:
        self.loop = weakref.ref(loop)
        self.bell = _core.Bell(namespace)
        # By token of the object, then by what they wait for.
        self.groups: dict[int, dict[int, _Group]] = {}

    def group(self, wait: _core.Wait) -> _Group:
        token = wait.token(self.bell)
        groups = self.groups.get(token)
        if groups is None:
            groups = self.groups[token] = {}
        key = wait.key
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(self, token, key)
        return group

    def drop(self, group: _Group, wait: _core.Wait) -> None:
        groups = self.groups.get(group.token)
        if groups is None or groups.get(group.key) is not group:
            return
        del groups[group.key]
        if not groups:
            del self.groups[group.token]
        # A bit left behind would swallow a wake-up of others. Those of this loop who wait at the same point
        # arm again.
        if group.armed and not self.bell.closed:
            wait.disarm(self.bell)
            for other in list(groups.values()):
                other.advance()

    def rung(self) -> None:
        """The bell has rung: those who wait for what rang look again."""
        tokens = self.bell.read()
        for token in list(self.groups) if tokens is None else dict.fromkeys(tokens):
            for group in list(self.groups.get(token, {}).values()):
                group.armed = False
                group.advance()

    def look(self) -> float | None:
        """Looks after what the dead hold; after how many seconds to do so again, None where nobody waits."""
        slices = []
        for groups in list(self.groups.values()):
            for group in list(groups.values()):
                first = next(iter(group.waiters), None)
                if first is None:
                    continue
                slices.append(first.wait.slice)
                if not group.busy and first.wait.look():
                    group.advance(ready=True)
        return min(slices, default=None)


class Driver:
    """Every wait of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._ropes: dict[str, _Rope] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._spins = not _ONE_CPU
        self._budget_ns = _SPIN_MAX_NS
        # Bells end with their loop, however it ends. What is kept for that must not keep the loop: no ropes,
        # whose waiters have futures, which know it.
        self._bells: list[_core.Bell] = []
        weakref.finalize(loop, _end, self._bells)

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "Driver":
        """The driver of a loop."""
        # The loop has it, and nobody else: what knows a loop that knows it is collected with it.
        driver: Driver | None = loop.__dict__.get(_DRIVER)
        if driver is None:
            driver = loop.__dict__[_DRIVER] = Driver(loop)
            with _lock:
                closed = [each for each in _drivers if each.is_over()]
                _drivers.add(driver)
            for each in closed:
                each.end()
        return driver

    def is_over(self) -> bool:
        """True where the loop will never run again."""
        loop = self._loop()
        return loop is None or loop.is_closed()

    def end(self) -> None:
        """Ends the bells."""
        _end(self._bells)
        self._ropes.clear()
        self._timer = None
        with _lock:
            _drivers.discard(self)

    def _rope(self, loop: asyncio.AbstractEventLoop, namespace: str) -> _Rope:
        rope = self._ropes.get(namespace)
        if rope is None:
            rope = _Rope(loop, namespace)
            loop.add_reader(rope.bell.fileno(), _rung, weakref.ref(rope))
            self._bells.append(rope.bell)
            self._ropes[namespace] = rope
        return rope

    async def wait(self, waiter: Waiter, deadline: float | None) -> bool:
        """Waits until trying again may go on; False if the deadline came first. `done` must follow."""
        wait = waiter.wait
        start = time.perf_counter_ns()
        in_turn = waiter.group is None and not self._is_behind(wait)
        if in_turn and (wait.ready_soon() or await self._spin(wait, start)):
            self._learn(start)
            return True
        if wait.point is None:
            return await self._doze(wait, deadline)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        waiter.future = future
        group, again = waiter.group, waiter.group is not None
        if group is not None:
            # Woken, and another was faster: it is still the first.
            group.busy = waiter.rung = False
        else:
            group = waiter.group = self._rope(loop, wait.namespace).group(wait)
        group.waiters[waiter] = None
        if again:
            group.waiters.move_to_end(waiter, last=False)
        if waiter.claimed:
            group.claimants.add(waiter)
        wait.count(True)
        timer = None if deadline is None else loop.call_at(deadline, _time_is_up, future)
        try:
            self._watch(loop, wait.slice)
            if again or waiter.claimed or len(group.waiters) == 1:
                group.advance()
            return await future
        finally:
            wait.count(False)
            if timer is not None:
                timer.cancel()
            if not waiter.rung:
                group.leave(waiter)
                waiter.group = None
            self._learn(start)

    def done(self, waiter: Waiter) -> None:
        """The task has tried again for the last time, or was cancelled: the next one's turn."""
        if waiter.rung and waiter.group is not None:
            waiter.group.tried(waiter)

    def moved(self, waiter: Waiter, wait: _core.Wait) -> None:
        """The task has tried again, and now waits for this."""
        group = waiter.group
        if group is not None and (wait.key != group.key or wait.point != waiter.wait.point):
            self.done(waiter)
        waiter.wait = wait

    def _is_behind(self, wait: _core.Wait) -> bool:
        """True where others of this loop wait for the same, to be served in turn."""
        if not wait.exclusive or not any(rope.groups for rope in self._ropes.values()):
            return False
        rope = self._ropes.get(wait.namespace)
        groups = None if rope is None else rope.groups.get(wait.token(rope.bell))
        group = None if groups is None else groups.get(wait.key)
        return group is not None and bool(group.waiters)

    async def _spin(self, wait: _core.Wait, start: int) -> bool:
        if not self._spins or self._budget_ns <= _SPIN_MIN_NS:
            return False
        self._spins = False  # one at a time
        try:
            while time.perf_counter_ns() - start < self._budget_ns:
                await checkpoint()
                if wait.ready():
                    return True
            return False
        finally:
            self._spins = True

    def _learn(self, start: int) -> None:
        waited = time.perf_counter_ns() - start
        if waited <= _SPIN_MAX_NS:
            self._budget_ns = min(max(self._budget_ns, 2 * waited), _SPIN_MAX_NS)
        else:
            self._budget_ns = max(self._budget_ns // 2, _SPIN_MIN_NS)

    async def _doze(self, wait: _core.Wait, deadline: float | None) -> bool:
        """Waits for a lock that is held for less than a microsecond, unless its holder was stopped."""
        loop = asyncio.get_running_loop()
        nap = 0.001
        end = None if deadline is None else max(deadline, loop.time() + 0.1)
        while not wait.look():
            if end is not None and loop.time() >= end:
                return False
            await asyncio.sleep(nap)
            nap = min(2 * nap, 0.08)
        return True

    def _watch(self, loop: asyncio.AbstractEventLoop, after: float) -> None:
        when = loop.time() + after
        if self._timer is not None:
            if self._timer.when() <= when and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = loop.call_at(when, _look, weakref.ref(self))

    def look(self) -> None:
        """Looks after what the dead hold."""
        self._timer = None
        slices = [rope.look() for rope in list(self._ropes.values())]
        loop, after = self._loop(), min((s for s in slices if s is not None), default=None)
        if loop is not None and after is not None:
            self._watch(loop, after)


_DRIVER = "_isthmus_driver"
_drivers: "weakref.WeakSet[Driver]" = weakref.WeakSet()
_lock = threading.Lock()


# Loops keep what they call, so what they call must not keep the loop.
def _rung(rope: weakref.ref[_Rope]) -> None:
    found = rope()
    if found is not None:
        found.rung()


def _look(driver: weakref.ref[Driver]) -> None:
    found = driver()
    if found is not None:
        found.look()


def _time_is_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


def _end(bells: list[_core.Bell]) -> None:
    for bell in bells:
        bell.close()
    bells.clear()


def _forked() -> None:
    # The loops are the parent's, and must not look alive when it is gone because a child has their bells.
    global _drivers, _lock
    drivers, _drivers, _lock = list(_drivers), weakref.WeakSet(), threading.Lock()
    for driver in drivers:
        driver.end()


os.register_at_fork(after_in_child=_forked)


async def settle(
    call: Callable[[Any], R], make: Callable[[int], _core.Wait], on: int, timeout: float | None
) -> R:
    """Waits until `call(ASK)`, which was blocked `on` this, goes through, or `call(LAST)` says why not."""
    check(timeout)
    if timeout == 0:
        return call(LAST)
    loop = asyncio.get_running_loop()
    driver = Driver.of(loop)
    deadline = None if timeout is None else loop.time() + timeout
    waiter = Waiter(make(on))
    since = loop.time()
    # Who waits for locks is on record, for those who look for deadlocks.
    first = waiter.wait
    record = first.record(timeout is not None)
    claimed = False
    detects = timeout is None and first.detects
    try:
        while True:
            if not await driver.wait(waiter, loop.time() + _LOOK_EVERY if detects else deadline):
                if not detects:
                    break
                waiter.wait.check()
                continue
            # Nothing is awaited from here on where it goes through: what was taken cannot be lost.
            try:
                return call(ASK)
            except WouldBlock as blocked:
                on = blocked.on
            driver.moved(waiter, make(on))
            if not claimed and loop.time() - since > _PATIENCE:
                # Others were faster again and again: they are not from now on.
                claimed = waiter.claimed = True
                waiter.wait.claim()
    finally:
        driver.done(waiter)
        if claimed:
            waiter.wait.give_up()
        if record is not None:
            first.unrecord(record)
    return call(LAST)


async def until(wait: _core.Wait, timeout: float | None) -> bool:
    """Waits for what one waiter does not take from another; False where it was not so in time."""
    if wait.ready():
        return True
    if timeout == 0:
        return wait.look()
    loop = asyncio.get_running_loop()
    driver = Driver.of(loop)
    deadline = None if timeout is None else loop.time() + timeout
    waiter = Waiter(wait)
    try:
        while await driver.wait(waiter, deadline):
            if wait.ready():
                return True
    finally:
        driver.done(waiter)
    return wait.look()


class End:
    """When a call of several steps must have ended."""

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None) -> None:
        check(timeout)
        self._at = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Seconds left, None for any number."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())
