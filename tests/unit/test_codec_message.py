"""Types that msgspec knows: what arrives, and what is refused at which end."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest

from messages import (
    Box,
    Cancel,
    Colour,
    Job,
    Level,
    Options,
    Pair,
    Point,
    Row,
    Run,
    SpecialJob,
    Strict,
    Thing,
    Tree,
    codec,
    message,
    sent,
)


class Shouting(str):
    __slots__ = ()


TYPED: list[tuple[Any, Any]] = [
    (Job, Job(1, "a/b.png", 2.5)),
    (Row, Row(1, "x")),
    (Strict, Strict(1, "x")),
    (Point, Point(3, 4)),
    (Options, {"depth": 3}),
    (Options, {"depth": 3, "name": "x"}),
    (Pair, Pair(1, "x")),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (Box[int], Box(5)),
    (Tree, Tree(1, [Tree(2, []), Tree(3, [Tree(4, [])])])),
    (Run | Cancel, Cancel(3)),
    (Run | Cancel, Run(3)),
    (Job | None, None),
    (Job | None, Job(1, "")),
    (int | str, 5),
    (int | str, "5"),
    (int, -(2**63)),
    (int, 2**64 - 1),
    (float, 1.5),
    (float, 3),
    (bool, True),
    (str, "héé"),
    (bytearray, bytearray(b"abc")),
    (bytes | None, b"abc"),
    (memoryview, memoryview(b"abc")),
    (list, [1, "a", None, {"b": [2.5]}]),
    (list[int], [1, 2, 3]),
    (dict, {"a": 1, 2: [3]}),
    (dict[str, Job], {"a": Job(1, "x")}),
    (dict[str, Job], collections.defaultdict(None, a=Job(1, "x"))),
    (tuple, (1, "a")),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], tuple(range(100))),
    (tuple, Pair(1, "x")),
    (set, {1, 2}),
    (set[str], {"a"}),
    (frozenset[int], frozenset({1})),
    (Literal["a", "b"], "a"),
    (Literal[3, 4], 3),
    (int, Level.HIGH),
    (Annotated[int, msgspec.Meta(ge=0)], 5),
    (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)),
    (dt.date, dt.date(2026, 1, 2)),
    (dt.time, dt.time(1, 2, 3)),
    (dt.timedelta, dt.timedelta(seconds=1.5)),
    (uuid.UUID, uuid.UUID(int=7)),
    (decimal.Decimal, decimal.Decimal("1.50")),
    (Any, {"a": [1, None]}),
    (types_none := type(None), None),
]


@pytest.mark.parametrize(("type", "value"), TYPED)
def test_a_typed_value_arrives_as_it_was(type: Any, value: Any) -> None:
    data = message(type, value)
    assert data == msgspec.msgpack.encode(value)
    for decode in (codec(type).decode, codec(type).decode_view):
        assert decode(data) == value
        assert decode(memoryview(bytearray(data))) == value
    if type is not memoryview:
        assert sent(type, value) == value
    for exact in codec(type).exact:
        assert isinstance(exact, __builtins_type__)
    assert codec(type).encode_exact(value) == data


__builtins_type__ = type


def test_what_points_into_a_message_is_copied_out_unless_it_is_a_view() -> None:
    class Blob(msgspec.Struct):
        data: memoryview

    cases: list[tuple[Any, Any, Callable[[Any], bytes]]] = [
        (memoryview, memoryview(b"abc"), bytes),
        (Blob, Blob(memoryview(b"abc")), lambda blob: bytes(blob.data)),
        (msgspec.Raw, msgspec.Raw(b"\x05"), bytes),
    ]
    for kind, value, read in cases:
        expected = read(value)
        memory = bytearray(message(kind, value))
        out = codec(kind).decode(memoryview(memory))
        memory.extend(b"!")  # nothing points into it
        memory[:] = bytes(len(memory))
        assert read(out) == expected
        memory = bytearray(message(kind, value))
        view = codec(kind).decode_view(memoryview(memory))
        assert read(view) == expected
        with pytest.raises(BufferError):
            memory.extend(b"!")


WRONG: list[tuple[Any, Any]] = [
    (Job, Cancel(1)),
    (Job, {"id": 1, "path": "a"}),
    (Job, SpecialJob(1, "a")),
    (Job, Job),
    (Job, None),
    (Point, Job(1, "a")),
    (Run | Cancel, Job(1, "a")),
    (int, True),
    (int, "5"),
    (int, 5.0),
    (str, b"x"),
    (bool, 1),
    (float, "1.5"),
    (float, True),
    (list[int], (1, 2)),
    (tuple[int, str], [1, "a"]),
    (Pair, (1, "x")),
    (set, frozenset()),
    (dict, [1]),
    (Colour, "red"),
    (Options, Job(1, "a")),
    (dt.date, dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
    (Literal["a"], 3),
]


@pytest.mark.parametrize(("type", "value"), WRONG)
def test_a_value_of_another_class_is_refused_to_the_sender(type: Any, value: Any) -> None:
    made = codec(type)
    with pytest.raises(TypeError) as caught:
        made.encode(value)
    assert f"a message of type {made.name} is needed" in str(caught.value)
    assert value.__class__.__name__ in str(caught.value) or isinstance(value, __builtins_type__)
    assert value.__class__ not in made.exact


@pytest.mark.parametrize("value", [Shouting("a"), np.float64(1.5), np.int64(3), Thing()])
def test_what_msgspec_does_not_write_is_refused_to_the_sender(value: Any) -> None:
    for kind in (str | float, int, Any):
        with pytest.raises(TypeError):
            codec(kind).encode(value)
    with pytest.raises(TypeError):
        codec(list[str]).encode([value])


INVALID: list[tuple[Any, Any]] = [
    (Job, {"id": "x", "path": "a"}),
    (Job, {"id": 1}),
    (Job, [1, "a"]),
    (list[int], [1, "a"]),
    (list[int], {"a": 1}),
    (dict[str, Job], {"a": {"id": 1}}),
    (Annotated[int, msgspec.Meta(ge=0)], -1),
    (Run | Cancel, {"id": 1}),
    (Run | Cancel, {"type": "walk", "id": 1}),
    (Strict, {"id": 1, "more": 2}),
    (Colour, "green"),
    (Literal["a"], "b"),
    (tuple[int, str], [1, "a", 2]),
    (str, b"bytes"),
]


@pytest.mark.parametrize(("type", "value"), INVALID)
def test_what_does_not_fit_the_type_is_refused_on_receipt(type: Any, value: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        codec(type).decode(msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x92\x01", b"\x01\x01", b"\xdd\xff\xff\xff\xff", b"\xa2\xff\xff"]
)
def test_what_is_no_messagepack_is_an_error_of_msgspecs_or_of_utf8(data: bytes) -> None:
    for kind in (Any, list, str, int, Job, tuple):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            codec(kind).decode(data)


def test_a_value_that_cannot_be_messagepack_is_refused_to_the_sender() -> None:
    with pytest.raises(OverflowError):
        codec(int).encode(2**64)
    with pytest.raises(UnicodeEncodeError):
        codec(str).encode("\ud800")
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        codec(list).encode(endless)


def test_the_usual_class_has_a_way_round_the_function() -> None:
    made = codec(Job)
    assert made.exact == (Job,)
    assert made.encode_exact(Job(1, "a")) == made.encode(Job(1, "a"))
    assert not hasattr(made.encode_exact, "__code__")  # no Python function
    assert not hasattr(made.decode, "__code__")
    assert codec(Run | Cancel).exact == (Run, Cancel)
    assert codec(Box[int]).exact == (Box,)
    assert codec(Any).exact == ()
    assert codec(Any | None).exact == ()
