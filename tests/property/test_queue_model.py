"""A queue does what a `collections.deque` would, whatever the order of calls, handles and sizes."""

from __future__ import annotations

import os
import pickle
import warnings
from collections import deque
from itertools import islice

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

import isthmus

sizes = st.one_of(
    st.integers(0, 200),
    st.sampled_from([limit + step for limit in (2048, 4096, 8192) for step in range(-34, 35, 1)]),
    st.integers(0, 40_000),
)
capacities = st.sampled_from([64 << 10, 100_000, 256 << 10, 1 << 20])


class QueueModel(RuleBasedStateMachine):
    """Any number of handles of one queue, and the deque that says what has to come out."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.expected: deque[bytes] = deque()
        self.number = 0
        self.ended = False
        self.name: str | None = None
        self.largest = 0
        self.open: list[isthmus.Queue[bytes]] = []

    @initialize(target=handles, capacity=capacities, named=st.booleans())
    def create(self, capacity: int, named: bool) -> isthmus.Queue[bytes]:
        self.name = "model" if named else None
        handle = isthmus.Queue(self.name, type=bytes, capacity=capacity)
        with pytest.raises(isthmus.TooLarge) as caught:
            handle.put(bytes(capacity + 1), timeout=0)
        self.largest = caught.value.limit
        self.open.append(handle)
        return handle

    def message(self, size: int) -> bytes:
        self.number += 1
        mark = self.number.to_bytes(8, "little")
        return (mark * (size // 8 + 1))[: min(size, self.largest)]

    @rule(target=handles, handle=handles, how=st.sampled_from(["open", "pickle"]))
    def another_handle(self, handle: isthmus.Queue[bytes], how: str) -> isthmus.Queue[bytes]:
        if how == "open" and self.name is not None:
            new = isthmus.Queue.open(self.name, type=bytes)
        else:
            new = pickle.loads(pickle.dumps(handle))
        self.open.append(new)
        return new

    @precondition(lambda self: len(self.open) > 1)
    @rule(handle=consumes(handles))
    def close(self, handle: isthmus.Queue[bytes]) -> None:
        if len(self.open) > 1:
            handle.close()
            self.open.remove(handle)

    @precondition(lambda self: len(self.open) == 1)
    @rule(target=handles, handle=consumes(handles))
    def keep_the_last(
        self, handle: isthmus.Queue[bytes]
    ) -> isthmus.Queue[bytes] | MultipleResults[isthmus.Queue[bytes]]:
        return handle if not handle.closed else multiple()

    @rule(handle=handles, size=sizes)
    def put(self, handle: isthmus.Queue[bytes], size: int) -> None:
        message = self.message(size)
        if handle.closed:
            return
        try:
            handle.put(message, timeout=0)
        except isthmus.ShutDown:
            assert self.ended
        except isthmus.Full:
            assert self.expected, "full although empty"
        else:
            assert not self.ended
            self.expected.append(message)

    @rule(handle=handles, many=st.lists(sizes, max_size=30))
    def put_many(self, handle: isthmus.Queue[bytes], many: list[int]) -> None:
        messages = [self.message(size) for size in many]
        if handle.closed:
            return
        try:
            sent = handle.put_many(messages, timeout=0)
        except isthmus.ShutDown:
            assert self.ended
            return
        except isthmus.Full as full:
            sent = full.sent
            assert sent < len(messages)
            assert self.expected or sent, "full although empty"
        else:
            assert sent == len(messages)
            assert not (self.ended and messages)
        self.expected.extend(messages[:sent])

    @rule(handle=handles)
    def get(self, handle: isthmus.Queue[bytes]) -> None:
        if handle.closed:
            return
        try:
            message = handle.get(timeout=0)
        except isthmus.Empty:
            assert not self.expected
            assert not self.ended
        except isthmus.ShutDown:
            assert not self.expected
            assert self.ended
        else:
            assert message == self.expected.popleft()

    @rule(handle=handles, limit=st.integers(1, 50))
    def get_many(self, handle: isthmus.Queue[bytes], limit: int) -> None:
        if handle.closed:
            return
        try:
            messages = handle.get_many(limit, timeout=0)
        except isthmus.Empty:
            assert not self.expected
            assert not self.ended
        except isthmus.ShutDown:
            assert not self.expected
            assert self.ended
        else:
            assert messages == list(islice(self.expected, limit))
            for _ in messages:
                self.expected.popleft()

    @rule(handle=handles)
    def drain(self, handle: isthmus.Queue[bytes]) -> None:
        if handle.closed:
            return
        while self.expected:
            assert handle.get(timeout=0) == self.expected.popleft()
        assert handle.stats().bytes_in_use == 0
        if not self.ended:
            # Whatever has gone on: an empty queue takes the largest message.
            handle.put(bytes(self.largest), timeout=0)
            assert handle.get(timeout=0) == bytes(self.largest)

    @rule(handle=handles, chance=st.integers(0, 9))
    def shutdown(self, handle: isthmus.Queue[bytes], chance: int) -> None:
        if not handle.closed and chance == 0:
            handle.shutdown()
            self.ended = True

    @invariant()
    def every_handle_sees_the_same_depth(self) -> None:
        for handle in self.open:
            assert handle.qsize() == len(self.expected)
            assert handle.empty() == (not self.expected)

    def teardown(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for handle in self.open:
                handle.close()


@pytest.mark.parametrize("steps", [30, 120])
def test_a_queue_does_what_a_deque_does(steps: int) -> None:
    examples = int(os.environ.get("ISTHMUS_TEST_EXAMPLES", "60"))
    run_state_machine_as_test(
        QueueModel,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
        ),
    )
