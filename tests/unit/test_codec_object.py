"""`type=object`: pickle, with large buffers apart; what is damaged, and what cannot be pickled."""

from __future__ import annotations

import datetime as dt
import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from messages import (
    Colour,
    Job,
    Point,
    Thing,
    codec,
    message,
    sent,
)

LARGE = 16 << 10  # from here on a buffer in an object stands apart


@pytest.mark.parametrize(
    "value",
    [
        None, 7, "text", {"id": 17, "path": "a/b.png"}, [1, (2, {3})], b"x" * 100_000,
        bytearray(b"y" * 100_000), Job(1, "a"), Point(1, 2), Colour.RED, Thing,
        dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    ],
)  # fmt: skip
def test_an_object_without_large_buffers_is_its_pickle(value: Any) -> None:
    data = message(object, value)
    assert data == pickle.dumps(value, 5)
    assert data[0] == 0x80
    assert sent(object, value) == value
    assert codec(object).decode(data) == value
    assert codec(object).decode_view(data) == value


def frames(*sizes: int) -> dict[str, Any]:
    return {f"frame{i}": np.arange(size, dtype="u1") for i, size in enumerate(sizes)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    "sizes",
    [
        (0,),
        (1,),
        (LARGE - 1,),
        (LARGE,),
        (LARGE + 1,),
        (LARGE, LARGE + 63, LARGE + 64, 5, 0, 100_001),
        (1 << 23,),
    ],
)
def test_arrays_in_an_object_come_back_writable(sizes: tuple[int, ...]) -> None:
    value = frames(*sizes)
    arrived = sent(object, value)
    assert same(arrived, value)
    for array in arrived.values():
        assert array.flags.writeable
        array[:] = 7


def test_large_buffers_stand_at_multiples_of_64() -> None:
    value = frames(LARGE, 5, LARGE + 1, LARGE + 2)
    parts: Any = codec(object).encode(value)
    assert isinstance(parts, tuple)
    data = b"".join(parts)
    assert data[0] == 1
    for key in ("frame0", "frame2", "frame3"):
        assert data.index(value[key].tobytes()) % 64 == 0
    # Not copied on the way: the parts are the memory of the arrays.
    for key in ("frame0", "frame2", "frame3"):
        value[key][:] = 9
    assert b"".join(parts).count(b"\x09" * LARGE) == 3


def test_a_view_of_an_object_lies_in_the_buffer() -> None:
    memory = bytearray(message(object, frames(LARGE, LARGE)))
    view = codec(object).decode_view(memoryview(memory).toreadonly())
    assert not view["frame0"].flags.writeable
    before = int(view["frame1"][0])
    at = bytes(memory).index(view["frame1"].tobytes(), len(memory) // 2)
    memory[at] = before ^ 1
    assert view["frame1"][0] == before ^ 1
    with pytest.raises(BufferError):
        memory.extend(b"!")  # held as long as an array is
    del view
    gc.collect()
    memory.extend(b"!")


def test_a_view_of_an_object_is_writable_when_the_buffer_is() -> None:
    memory = bytearray(message(object, frames(LARGE)))
    view = codec(object).decode_view(memory)
    view["frame0"][:] = 9
    assert memory.count(b"\x09" * LARGE) == 1


class Carrier:
    """Pickles as a buffer that is writable or not."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Carrier, (pickle.PickleBuffer(self.data),)


@pytest.mark.parametrize("size", [10, LARGE, 5 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_buffer_arrives_writable_where_it_was(size: int, kind: Callable[[int], Any]) -> None:
    arrived = sent(object, Carrier(kind(size)))
    assert bytes(arrived.data) == bytes(size)
    assert memoryview(arrived.data).readonly is (kind is bytes)
    assert kind is bytearray or type(arrived.data) is bytes  # as in the pickle: it can be hashed
    memory = bytearray(message(object, Carrier(kind(size))))
    viewed = codec(object).decode_view(memory)
    assert bytes(viewed.data) == bytes(size)
    assert memoryview(viewed.data).readonly is (kind is bytes)


def test_a_buffer_that_is_not_contiguous_is_pickles_error() -> None:
    for expected in (False, True):
        if expected:
            message(object, frames(LARGE))
        with pytest.raises(pickle.PicklingError, match="non-contiguous"):
            codec(object).encode(Carrier(memoryview(bytes(4 * LARGE))[::2]))


def test_small_and_large_objects_in_turn() -> None:
    for _ in range(3):
        assert message(object, 5) == pickle.dumps(5, 5)
        assert same(sent(object, frames(LARGE)), frames(LARGE))
        assert same(sent(object, frames(LARGE, 3)), frames(LARGE, 3))


class Nested:
    """Encodes a message of its own while it is pickled."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return Nested, (message(object, self.data),)


def test_encoding_within_encoding() -> None:
    value = [np.ones(LARGE, "u1"), Nested(frames(LARGE)), np.zeros(LARGE, "u1"), Nested(5)]
    for _ in range(2):
        one, inner, two, small = sent(object, value)
        assert same({"a": one, "b": two}, {"a": value[0], "b": value[2]})
        assert same(codec(object).decode(inner.data), frames(LARGE))
        assert codec(object).decode(small.data) == 5


def test_many_threads_encode_and_decode_at_once() -> None:
    values: list[Any] = [5, frames(LARGE), {"a": 1}, frames(LARGE, LARGE)]
    wrong: list[Any] = []

    def work(value: Any) -> None:
        try:
            for _ in range(300):
                arrived = codec(object).decode(message(object, value))
                if not (same(arrived, value) if "frame0" in str(value) else arrived == value):
                    wrong.append(arrived)
                if sent(Job, Job(1, "x")) != Job(1, "x"):
                    wrong.append("job")
        except BaseException as problem:
            wrong.append(problem)

    threads = [threading.Thread(target=work, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("value", [lambda: 0, threading.Lock(), (number for number in range(0))])
def test_what_cannot_be_pickled_is_pickles_error_with_a_note(value: Any) -> None:
    with pytest.raises(Exception) as own:  # noqa: PT011 - of whatever class pickle raises
        pickle.dumps(value, 5)
    for before in (5, frames(LARGE)):  # after either kind of message
        message(object, before)
        with pytest.raises(own.type) as caught:
            codec(object).encode({"it": value})
        (note,) = (text for text in caught.value.__notes__ if "type=object" in text)
        assert "lambdas" in note


def test_plain_pickles_have_a_way_round_the_function() -> None:
    made = codec(object)
    data = message(object, {"a": 1})
    assert data[0] == made.plain
    assert made.decode_plain(data) == {"a": 1}
    assert message(object, frames(LARGE))[0] != made.plain


def damaged_objects() -> dict[str, bytes]:
    """Messages of type object that no codec makes."""
    whole = message(object, frames(LARGE, LARGE + 1))

    def with_number(at: int, size: int, number: int) -> bytes:
        return whole[:at] + number.to_bytes(size, "little") + whole[at + size :]

    return {
        "empty": b"",
        "other kind": b"\x02" + whole[1:],
        "protocol 0": b"I5\n.",
        "only the first byte": whole[:1],
        "short head": whole[:15],
        "short table": whole[:31],
        "short pickle": whole[:60],
        "short by one": whole[:-1],
        "long by one": whole + b"\0",
        "no buffers": with_number(4, 4, 0),
        "one buffer": with_number(4, 4, 1),
        "three buffers": with_number(4, 4, 3),
        "all the buffers there can be": with_number(4, 4, 2**32 - 1),
        "as many as could just fit": with_number(4, 4, len(whole) // 8),
        "pickle too long": with_number(8, 8, len(whole)),
        "pickle of 2**64 - 1": with_number(8, 8, 2**64 - 1),
        "buffer too long": with_number(24, 8, LARGE + 2),
        "buffer of 2**63 - 1": with_number(16, 8, 2**63 - 1),
        "read-only buffer of 2**63 - 1": with_number(24, 8, 2**64 - 1),
    }


@pytest.mark.parametrize("how", damaged_objects())
@pytest.mark.parametrize("view", [False, True])
def test_a_damaged_object_is_a_value_error(how: str, view: bool) -> None:
    decode = codec(object).decode_view if view else codec(object).decode
    for buffer in (damaged_objects()[how], memoryview(bytearray(damaged_objects()[how]))):
        with pytest.raises(ValueError, match="damaged message of type object"):
            decode(buffer)


def test_a_pickle_that_asks_for_more_buffers_than_there_are_is_pickles_error() -> None:
    data = pickle.dumps(frames(LARGE), 5, buffer_callback=lambda _: False)
    with pytest.raises(pickle.UnpicklingError, match="buffer"):
        codec(object).decode(data)
