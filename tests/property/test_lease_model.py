"""Leases, priorities, views, reservations and dead letters against lists that say what has to come out."""

from __future__ import annotations

import gc
import os
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import isthmus
from queues import limit_of

sizes = st.one_of(
    st.integers(0, 100),
    st.sampled_from([limit + step for limit in (2048, 4096, 8192) for step in range(-17, 18)]),
    st.integers(0, 30_000),
)
picks = st.integers(0, 1 << 16)
"""Which of several: taken modulo how many there are."""


@dataclass
class Message:
    """One message, wherever it is."""

    level: int
    number: int
    data: bytes
    deliveries: int = 0
    reason: str = ""


class LeaseModel(RuleBasedStateMachine):
    """A few handles of one queue, and where each of its messages is."""

    def __init__(self) -> None:
        super().__init__()
        self.handles: list[isthmus.Queue[bytes]] = []
        self.rings: list[deque[Message]] = []
        self.counts: list[int] = []
        self.returned: list[Message] = []
        self.leased: list[tuple[isthmus.Lease, Message]] = []
        self.dead: list[Message] = []
        self.views: list[tuple[Any, bytes]] = []
        self.reserved: list[tuple[Any, isthmus.Queue[bytes], int, int]] = []
        self.ended = False
        self.made = 0

    @initialize(
        capacity=st.sampled_from([64 << 10, 300_000]),
        levels=st.sampled_from([1, 1, 2, 4]),
        deliveries=st.integers(1, 3),
    )
    def create(self, capacity: int, levels: int, deliveries: int) -> None:
        first = isthmus.Queue(
            "leases", type=bytes, capacity=capacity, priorities=levels, max_deliveries=deliveries
        )
        self.handles = [first, isthmus.Queue.open("leases", type=bytes)]
        self.rings = [deque() for _ in range(levels)]
        self.counts = [0] * levels
        self.max_deliveries = deliveries
        self.records = max(16, capacity >> 16)
        self.largest = limit_of(first)

    def handle(self, pick: int) -> isthmus.Queue[bytes]:
        return self.handles[pick % len(self.handles)]

    def content(self, size: int) -> bytes:
        self.made += 1
        mark = self.made.to_bytes(4, "little")
        return (mark * (size // 4 + 1))[: min(size, self.largest)]

    def depth(self) -> int:
        return sum(map(len, self.rings)) + len(self.returned)

    def anything(self) -> bool:
        """Whether anything takes memory, so that a message may not fit."""
        return bool(self.depth() or self.leased or self.dead or self.views or self.reserved)

    def added(self, level: int, data: bytes) -> None:
        self.rings[level].append(Message(level, self.counts[level], data))
        self.counts[level] += 1

    def best_returned(self) -> Message | None:
        """What goes first of what came back: the most urgent, and of these the oldest."""
        return min(self.returned, key=lambda each: (-each.level, each.number), default=None)

    def front(self) -> Message | None:
        """What goes first: the most urgent, and of these what came back."""
        levels = [level for level, ring in enumerate(self.rings) if ring]
        best = self.best_returned()
        if best is not None and (not levels or best.level >= levels[-1]):
            return best
        return self.rings[levels[-1]][0] if levels else None

    def front_of_leases(self) -> Message | None:
        """The same for one who leases: without a free record what came back goes, which has one."""
        message = self.front()
        if message in self.returned or not self.is_full():
            return message
        return self.best_returned() or message

    def is_full(self) -> bool:
        """Whether all records are in use."""
        return len(self.leased) + len(self.returned) + len(self.dead) == self.records

    def take(self, message: Message) -> None:
        if message in self.returned:
            self.returned.remove(message)
        else:
            assert self.rings[message.level].popleft() is message

    def nothing(self, error: isthmus.IsthmusError) -> None:
        """Checks what a consumer was told who found nothing."""
        assert self.front() is None
        assert isinstance(error, isthmus.ShutDown) == (self.ended and not self.leased)

    # ------------------------------------------------------------------------------------------ putting

    @rule(pick=picks, level=picks, size=sizes)
    def put(self, pick: int, level: int, size: int) -> None:
        level %= len(self.rings)
        data = self.content(size)
        try:
            self.handle(pick).put(data, timeout=0, priority=level)
        except isthmus.ShutDown:
            assert self.ended
        except isthmus.Full:
            assert self.anything(), "full although empty"
        else:
            assert not self.ended
            self.added(level, data)

    @rule(pick=picks, level=picks, many=st.lists(sizes, max_size=12))
    def put_many(self, pick: int, level: int, many: list[int]) -> None:
        level %= len(self.rings)
        data = [self.content(size) for size in many]
        try:
            sent = self.handle(pick).put_many(data, timeout=0, priority=level)
        except isthmus.ShutDown:
            assert self.ended
            return
        except isthmus.Full as full:
            sent = full.sent
            assert self.anything() or sent, "full although empty"
        for each in data[:sent]:
            self.added(level, each)

    @precondition(lambda self: len(self.reserved) < 3)
    @rule(pick=picks, level=picks, size=sizes)
    def reserve(self, pick: int, level: int, size: int) -> None:
        level %= len(self.rings)
        size = min(size, self.largest)
        try:
            handle = self.handle(pick)
            reservation = handle.reserve(size, timeout=0, priority=level)
        except isthmus.ShutDown:
            assert self.ended
        except isthmus.Full:
            assert self.anything(), "full although empty"
        else:
            self.reserved.append((reservation, handle, size, level))

    @precondition(lambda self: self.reserved)
    @rule(pick=picks, how=st.sampled_from(["put", "shorten", "cancel", "drop"]), part=st.floats(0, 1))
    def settle(self, pick: int, how: str, part: float) -> None:
        reservation, handle, size, level = self.reserved.pop(pick % len(self.reserved))
        if how == "cancel":
            reservation.cancel()
        if how in {"cancel", "drop"}:
            return
        data = self.content(size)
        try:
            with reservation as block:
                block[:] = data
                if how == "shorten":
                    data = data[: int(size * part)]
                    reservation.shorten(len(data))
        except isthmus.ClosedError:
            assert handle.closed
        except isthmus.ShutDown:
            assert self.ended
        except isthmus.Full:
            assert self.depth(), "no place although empty"
        else:
            self.added(level, data)

    # ------------------------------------------------------------------------------------------ getting

    @rule(pick=picks)
    def get(self, pick: int) -> None:
        try:
            data = self.handle(pick).get(timeout=0)
        except (isthmus.Empty, isthmus.ShutDown) as error:
            self.nothing(error)
        else:
            message = self.front()
            assert message is not None
            assert data == message.data
            self.take(message)

    @rule(pick=picks, limit=st.integers(1, 20))
    def get_many(self, pick: int, limit: int) -> None:
        try:
            got = self.handle(pick).get_many(limit, timeout=0)
        except (isthmus.Empty, isthmus.ShutDown) as error:
            self.nothing(error)
            return
        assert len(got) == min(limit, self.depth())
        for data in got:
            message = self.front()
            assert message is not None
            assert data == message.data
            self.take(message)

    @precondition(lambda self: len(self.views) < 4)
    @rule(pick=picks)
    def get_view(self, pick: int) -> None:
        try:
            view = self.handle(pick).get_view(timeout=0)
        except (isthmus.Empty, isthmus.ShutDown) as error:
            self.nothing(error)
        else:
            message = self.front()
            assert message is not None
            self.take(message)
            self.views.append((view, message.data))

    @precondition(lambda self: self.views)
    @rule(pick=picks, how=st.sampled_from(["release", "drop"]))
    def end_view(self, pick: int, how: str) -> None:
        view, data = self.views.pop(pick % len(self.views))
        assert bytes(view) == data
        if how == "release":
            view.release()

    # ------------------------------------------------------------------------------------------ leases

    @rule(pick=picks, view=st.booleans())
    def lease(self, pick: int, view: bool) -> None:
        message = self.front_of_leases()
        try:
            job = self.handle(pick).lease(timeout=0, view=view)
        except (isthmus.Empty, isthmus.ShutDown) as error:
            if "leases" in str(error):
                assert message is not None
                assert not self.returned
                assert self.is_full()
            else:
                self.nothing(error)
            return
        assert message is not None
        self.take(message)
        message.deliveries += 1
        assert bytes(job.message) == message.data
        assert (job.delivery_count, job.number, job.priority, job.sender) == (
            message.deliveries,
            message.number,
            message.level,
            os.getpid(),
        )
        self.leased.append((job, message))

    @rule(pick=picks)
    def lease_all(self, pick: int) -> None:
        """Until there is no message, or no record for it."""
        before = -1
        while before != len(self.leased):
            before = len(self.leased)
            self.lease(pick, view=True)

    @precondition(lambda self: self.leased)
    @rule(pick=picks, how=st.sampled_from(["ack", "with", "nack", "reject", "drop", "raise"]))
    def end(self, pick: int, how: str) -> None:
        job, message = self.leased.pop(pick % len(self.leased))
        assert bytes(job.message) == message.data
        message.reason = {
            "drop": "the lease was dropped without an acknowledgement",
            "raise": "KeyError: 1",
        }.get(how, f"{how} of {message.number}")
        match how:
            case "ack":
                job.ack()
            case "with":
                with job:
                    pass
            case "nack":
                job.nack(message.reason)
            case "reject":
                job.reject(message.reason)
            case "drop":
                del job
                gc.collect()
            case _:
                job.__exit__(KeyError, KeyError(1), None)
        if how in {"ack", "with"}:
            return
        given_up = how == "reject" or message.deliveries >= self.max_deliveries
        (self.dead if given_up else self.returned).append(message)

    # ------------------------------------------------------------------------------------------ the dead

    @rule(pick=picks)
    def take_letter(self, pick: int) -> None:
        letter: Any
        try:
            letter = self.handle(pick).dead.get()
        except isthmus.Empty:
            assert not self.dead
            return
        (message,) = [
            each for each in self.dead if (each.level, each.number) == (letter.priority, letter.number)
        ]
        assert message.number == min(each.number for each in self.dead)
        assert (letter.data, letter.reason, letter.deliveries, letter.size) == (
            message.data,
            message.reason,
            message.deliveries,
            len(message.data),
        )
        self.dead.remove(message)

    @rule(pick=picks)
    def requeue(self, pick: int) -> None:
        assert self.handle(pick).dead.requeue() == len(self.dead)
        for message in self.dead:
            message.deliveries = 0
        self.returned += self.dead
        self.dead = []

    # ------------------------------------------------------------------------------------------ the whole

    @rule(pick=picks, chance=st.integers(0, 19))
    def shutdown(self, pick: int, chance: int) -> None:
        if chance == 0:
            self.handle(pick).shutdown()
            self.ended = True

    @rule(pick=picks)
    def reopen(self, pick: int) -> None:
        """A handle is closed; what was taken through it stays."""
        self.handles.append(isthmus.Queue("leases", type=bytes))
        self.handles.pop(pick % (len(self.handles) - 1)).close()

    @rule(pick=picks)
    def clear(self, pick: int) -> None:
        """Whatever has gone on: once all of it has ended, all memory is free."""
        handle = self.handle(pick)
        while self.reserved:
            self.settle(0, "cancel", 0.0)
        while self.views:
            self.end_view(0, "release")
        while self.leased:
            self.end(0, "ack")
        while self.dead:
            self.take_letter(pick)
        while self.depth():
            self.get(pick)
        assert handle.stats().bytes_in_use == 0
        if not self.ended:
            handle.put(bytes(self.largest), timeout=0)
            self.added(0, bytes(self.largest))
            self.get(pick)

    @invariant()
    def what_is_looked_at_stays_as_it_is(self) -> None:
        for view, data in self.views:
            assert bytes(view) == data

    @invariant()
    def every_handle_sees_the_same_numbers(self) -> None:
        for handle in self.handles:
            stats = handle.stats()
            assert (stats.depth, stats.leased, stats.dead) == (
                self.depth(),
                len(self.leased),
                len(self.dead),
            )
            assert stats.put == sum(self.counts)
            assert handle.empty() == (self.depth() == 0)
            assert sorted(letter.number for letter in handle.dead.peek()) == sorted(
                message.number for message in self.dead
            )

    def teardown(self) -> None:
        for job, _ in self.leased:
            job.ack()
        self.reserved.clear()
        self.views.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for handle in self.handles:
                handle.close()


@pytest.mark.parametrize("steps", [30, 150])
def test_leases_do_what_lists_do(steps: int) -> None:
    run_state_machine_as_test(
        LeaseModel,
        settings=settings(
            max_examples=int(os.environ.get("ISTHMUS_TEST_EXAMPLES", "60")),
            stateful_step_count=steps,
        ),
    )
