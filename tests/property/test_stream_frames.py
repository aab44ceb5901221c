"""What comes over a stream may be anything: it means what the protocol says, in pieces of whatever size.

What a stream makes of bytes is held against `meaning`, written from the description in `_protocol` alone.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import io
import itertools
import os
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import isthmus
from isthmus import aio
from sockets import KEY, hello
from support import PATIENCE

EXAMPLES = int(os.environ.get("ISTHMUS_TEST_EXAMPLES", "200"))
many = settings(max_examples=EXAMPLES)

LIMIT = 30_000
LONG, FILE, DESCRIPTORS, END = 0xFFFF_FFFE, 0xFFFF_FFFD, 0xFFFF_FFFC, 0xFFFF_FFFF
ENDS = (isthmus.ShutDown, isthmus.PeerDied, isthmus.TooLarge, isthmus.CorruptError)

Items = list[tuple[str, Any]]
Call = tuple[Any, ...]
Reading = Generator[Call, Any, tuple[Items, type[Exception]]]


def meaning(wire: bytes) -> tuple[Items, type[Exception]]:
    """Messages and files in `wire`, behind which the connection is cut, and how the stream ends."""
    items: Items = []
    at = 0

    def number(size: int) -> int:
        nonlocal at
        raw = wire[at : at + size]
        at += size
        if len(raw) < size:
            raise EOFError
        return int.from_bytes(raw, "little")

    try:
        while True:
            word = size = number(4)
            if word == END:
                return items, isthmus.ShutDown
            if word in {LONG, FILE}:
                size = number(8)
            elif word == DESCRIPTORS:
                number(4)
                return items, isthmus.CorruptError  # none came
            elif word >= 0xFFFF_FFF0:
                return items, isthmus.CorruptError
            data = wire[at : at + size]
            if word == FILE:
                items.append(("file", data))
            elif size > LIMIT:
                return items, isthmus.TooLarge
            if len(data) < size:
                raise EOFError
            if word != FILE:
                items.append(("message", data))
            at += size
    except EOFError:
        return items, isthmus.PeerDied


# ---- bytes


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _long(word: int) -> Callable[[bytes], bytes]:
    return lambda data: word.to_bytes(4, "little") + len(data).to_bytes(8, "little") + data


def _claim(size: int) -> bytes:
    return LONG.to_bytes(4, "little") + size.to_bytes(8, "little")


bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([0, 255, 16_383, 16_384, 16_385, LIMIT - 1, LIMIT]).map(lambda size: b"m" * size),
)
frames = st.one_of(
    bodies.map(_frame),
    bodies.map(_frame),
    bodies.map(_long(LONG)),
    bodies.map(_long(FILE)),
    st.lists(st.integers(0, 300), max_size=5).map(msgspec.msgpack.encode).map(_frame),
)
words = st.one_of(
    st.integers(0xFFFF_FFF0, 0xFFFF_FFFF),
    st.sampled_from([LIMIT, LIMIT + 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFEF]),
    st.integers(0, 300),
).map(lambda word: word.to_bytes(4, "little"))
claims = st.sampled_from([LIMIT + 1, 0xFFFF_FFFF, 0xFFFF_FFFE, 1 << 32, (1 << 64) - 1]).map(_claim)


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """Frames, mostly valid ones, and what may become of them."""
    parts = st.one_of(frames, frames, frames, words, claims, st.binary(max_size=20))
    wire = bytearray(b"".join(draw(st.lists(parts, max_size=6))))
    if draw(st.booleans()):
        wire += END.to_bytes(4, "little")
    for _ in range(draw(st.integers(0, 3)) if wire else 0):
        at = draw(st.integers(0, len(wire) - 1)) if wire else 0
        change = draw(st.sampled_from(["put", "insert", "remove", "cut"]))
        if change == "put":
            wire[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif change == "insert":
            wire[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif change == "remove":
            del wire[at : at + draw(st.integers(1, 4))]
        else:
            del wire[at:]
    return bytes(wire)


@st.composite
def in_pieces(draw: st.DrawFn) -> list[bytes]:
    """A wire, cut into pieces of any size."""
    wire = draw(wires())
    near = st.integers(0, min(100, len(wire)))
    cuts = sorted(draw(st.lists(st.one_of(near, st.integers(0, len(wire))), max_size=30)))
    return [wire[a:b] for a, b in itertools.pairwise([0, *cuts, len(wire)])]


calls = st.lists(
    st.sampled_from(["recv", "many", "into", "with descriptors", "poll"]), min_size=1, max_size=4
)


# ---- reading them


def reading(sock: socket.socket, pieces: list[bytes], eager: bool, how: list[str]) -> Reading:
    """Sends the pieces and asks for the calls that read them, tried after each piece or only at the end."""
    items: Items = []
    ways = itertools.cycle(how)
    file = io.BytesIO()
    timeouts: list[float] = []
    for piece in pieces:
        sock.sendall(piece)
        timeouts += [0] * eager
    for timeout in [*timeouts, PATIENCE]:
        if timeout:
            sock.shutdown(socket.SHUT_WR)
        try:
            while True:
                yield from _one(items, file, next(ways), timeout)
        except isthmus.Empty:
            assert not timeout
        except ENDS as end:
            if file.tell():
                items.append(("file", file.getvalue()))
            return items, type(end)
    raise AssertionError


def _one(items: Items, file: io.BytesIO, way: str, timeout: float) -> Generator[Call, Any, None]:
    try:
        if way == "poll":
            yield "poll", timeout
            way = "recv"
        if way == "recv":
            items.append(("message", (yield "recv", timeout)))
        elif way == "many":
            items += [("message", message) for message in (yield "recv_many", None, timeout)]
        elif way == "with descriptors":
            message, passed = yield "recv_with_descriptors", timeout
            items.append(("message", message))
            for descriptor in passed:
                os.close(descriptor)
        else:
            room = bytearray(LIMIT)
            items.append(("message", bytes(room[: (yield "recv_into", room, timeout)])))
    except isthmus.InvalidMessage as error:
        items.append(("invalid", error.data))
    except isthmus.Unsupported:  # a file comes
        size = yield "recv_file", file, timeout
        assert size == file.tell()
        items.append(("file", file.getvalue()))
        file.seek(0)
        file.truncate()


def run(reader: Reading, stream: isthmus.Stream[Any]) -> tuple[Items, type[Exception]]:
    """Makes the calls, each in this thread."""
    try:
        call = next(reader)
        while True:
            name, *arguments = call
            try:
                if name == "recv_file":
                    answer: Any = stream.recv_file(arguments[0], timeout=arguments[1])
                else:
                    answer = getattr(stream, name)(*arguments)
            except isthmus.IsthmusError as error:
                call = reader.throw(error)
            else:
                call = reader.send(answer)
    except StopIteration as done:
        result: tuple[Items, type[Exception]] = done.value
        return result


async def run_in_loop(reader: Reading, stream: aio.Stream[Any]) -> tuple[Items, type[Exception]]:
    """Awaits them."""
    try:
        call = next(reader)
        while True:
            name, *arguments = call
            try:
                if name == "recv_file":
                    answer: Any = await stream.recv_file(arguments[0], timeout=arguments[1])
                else:
                    answer = await getattr(stream, name)(*arguments)
            except isthmus.IsthmusError as error:
                call = reader.throw(error)
            else:
                call = reader.send(answer)
    except StopIteration as done:
        result: tuple[Items, type[Exception]] = done.value
        return result


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


def read(
    runner: asyncio.Runner, pieces: list[bytes], eager: bool, how: list[str], awaited: bool, **options: Any
) -> tuple[Items, type[Exception]]:
    """What a stream makes of the pieces."""
    one, other = isthmus.Stream.pair(**options)
    try:
        reader = reading(one._sock, pieces, eager, how)
        if awaited:
            items, end = runner.run(run_in_loop(reader, aio.Stream(other)))
        else:
            items, end = run(reader, other)
        for _ in range(2):  # it stays so; a file of which a part is missing stays as well
            with pytest.raises((end, isthmus.Unsupported)):
                other.recv(PATIENCE)
        assert other.poll(0)
    finally:
        one.close()
        other.close()
    return shown(items), end


def shown(items: Items) -> Items:
    """Without files of which nothing came: there is nothing to see of them."""
    return [item for item in items if item != ("file", b"")]


@many
@given(pieces=in_pieces(), eager=st.booleans(), how=calls, awaited=st.booleans())
@example(pieces=[_claim(END)], eager=False, how=["recv"], awaited=False)
def test_any_bytes_mean_what_the_protocol_says(
    runner: asyncio.Runner, pieces: list[bytes], eager: bool, how: list[str], awaited: bool
) -> None:
    found = read(runner, pieces, eager, how, awaited, type=bytes, limit=LIMIT)
    items, end = meaning(b"".join(pieces))
    assert found == (shown(items), end)


@many
@given(pieces=in_pieces(), eager=st.booleans(), how=calls, awaited=st.booleans())
def test_messages_of_another_type_are_errors_and_the_next_ones_come(
    runner: asyncio.Runner, pieces: list[bytes], eager: bool, how: list[str], awaited: bool
) -> None:
    ways = [way if way != "into" else "recv" for way in how]
    items, end = meaning(b"".join(pieces))
    for number, (what, data) in enumerate(items):
        if what == "message":
            try:
                items[number] = ("message", msgspec.msgpack.decode(data, type=list[int]))
            except msgspec.MsgspecError:
                items[number] = ("invalid", data)
    assert read(runner, pieces, eager, ways, awaited, type=list[int], limit=LIMIT) == (shown(items), end)


EVERYTHING = b"".join(
    (
        _frame(b""), _frame(b"one"), _long(LONG)(b"three"), _long(FILE)(b"in a file"), _frame(b"after it"),
        _long(FILE)(b""), _frame(b"last"), END.to_bytes(4, "little"),
    )
)  # fmt: skip


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "asyncio"])
def test_cut_at_each_byte(runner: asyncio.Runner, awaited: bool) -> None:
    """In two pieces, in three, byte for byte, and with nothing behind the cut."""
    whole = (shown(meaning(EVERYTHING)[0]), isthmus.ShutDown)
    assert len(whole[0]) == 6
    how = ["recv"]
    for at in range(len(EVERYTHING) + 1):
        one, two, three = EVERYTHING[:at], EVERYTHING[at : at + 3], EVERYTHING[at + 3 :]
        for pieces in ([one, two + three], [one, two, three]):
            assert read(runner, pieces, True, how, awaited, type=bytes, limit=LIMIT) == whole
        items, end = meaning(one)
        assert read(runner, [one], False, how, awaited, type=bytes, limit=LIMIT) == (shown(items), end)
    each = [EVERYTHING[at : at + 1] for at in range(len(EVERYTHING))]
    assert read(runner, each, True, how, awaited, type=bytes, limit=LIMIT) == whole


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@many
@given(
    pieces=in_pieces(),
    passed=st.lists(st.integers(0, 4), max_size=8),
    announced=st.booleans(),
    eager=st.booleans(),
    how=calls,
)
def test_descriptors_with_any_bytes_are_given_out_or_closed(
    pieces: list[bytes], passed: list[int], announced: bool, eager: bool, how: list[str]
) -> None:
    before = open_descriptors()  # of earlier tests some may go meanwhile
    one, other = isthmus.Stream.pair(type=bytes, limit=LIMIT, descriptors=3)
    counts = itertools.cycle([0, *passed])

    class Passing:
        """A socket that sends descriptors with some pieces."""

        shutdown = one._sock.shutdown

        @staticmethod
        def sendall(piece: bytes) -> None:
            count = next(counts)
            if announced and count:
                piece = DESCRIPTORS.to_bytes(4, "little") + count.to_bytes(4, "little") + piece
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * count))]
            if piece:
                assert one._sock.sendmsg([piece], rights if count else []) == len(piece)

    try:
        run(reading(Passing, pieces, eager, how), other)  # type: ignore[arg-type]
    finally:
        one.close()
        other.close()
    assert open_descriptors() <= before


@many
@given(
    text=st.one_of(
        st.binary(max_size=300),
        st.lists(st.sampled_from([b"\n", b"\r\n", b"x", b"\xff", b"y" * 40])).map(b"".join),
    ),
    cuts=st.lists(st.integers(0, 300), max_size=10),
    eager=st.booleans(),
    awaited=st.booleans(),
)
def test_any_bytes_are_lines(
    runner: asyncio.Runner, text: bytes, cuts: list[int], eager: bool, awaited: bool
) -> None:
    limit = 50
    wanted: Items = []
    end: type[Exception] = isthmus.ShutDown
    *lines, rest = text.split(b"\n")
    for line in [*lines, rest] if rest else lines:
        if len(line) > limit:
            end = isthmus.TooLarge
            break
        try:
            wanted.append(("message", line.removesuffix(b"\r").decode()))
        except UnicodeDecodeError:
            wanted.append(("invalid", line))
    pieces = [
        text[a:b] for a, b in itertools.pairwise([0, *sorted(min(len(text), c) for c in cuts), len(text)])
    ]
    found = read(runner, pieces, eager, ["recv", "many"], awaited, framing="lines", limit=limit)
    assert found == (wanted, end)


# ---- the opening


@many
@given(
    accepted=st.booleans(),
    key=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 260), st.binary(max_size=3)), max_size=3),
    cut=st.integers(0, 400),
    garbage=st.one_of(st.none(), st.binary(max_size=200)),
)
def test_any_opening_is_a_stream_or_a_clear_error(
    accepted: bool, key: bool, changes: list[tuple[int, bytes]], cut: int, garbage: bytes | None
) -> None:
    record = hello(role=int(not accepted), key=int(key))
    wire = bytearray(record if garbage is None else garbage)
    if key:
        wire += record[:9] + b"\x02" + bytes(118)
    for at, data in changes:
        wire[at : at + len(data)] = data
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire[:cut])
        ours.shutdown(socket.SHUT_WR)
        with contextlib.suppress(
            isthmus.IncompatibleError, isthmus.Denied, isthmus.Refused, isthmus.PeerDied
        ):
            stream = isthmus.Stream.from_socket(
                theirs, accepted=accepted, type=bytes, key=KEY if key else None, timeout=PATIENCE
            )
            assert not key
            with stream, pytest.raises((isthmus.ShutDown, *ENDS)):
                stream.recv(PATIENCE)
