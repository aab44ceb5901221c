"""Names, sizes and numbers of all kinds: taken, or refused by a text that names them and the limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from queues import drain
from support import object_files

Make = Callable[..., Any]

MAKERS = [
    pytest.param(make, id=f"{kind.__name__}.{make.__name__}")
    for kind in (isthmus.Queue, isthmus.Mutex, isthmus.Value, isthmus.Semaphore)
    for make in (kind, kind.create, kind.open)
]

LONGEST = 200
"""Bytes of the longest name; leaves room for suffixes below the 255 of file systems."""

# ------------------------------------------------------------------------------------------------------ names

BAD_NAMES = {
    "": "empty",
    ".": "dot",
    "..": "dot",
    ".registry": "dot",
    ".bell-0123456789abcdef": "dot",
    "a/b": "slash",
    "/": "slash",
    "../escape": "dot",
    "a/../../escape": "slash",
    "new\nline": "control",
    "tab\t": "control",
    "nul\0byte": "control",
    "\x7f": "control",
    "\x85": "control",
    "x" * (LONGEST + 1): "201 bytes",
    "x" * 255: "255 bytes",
    "x" * 256: "256 bytes",
    "x" * 100_000: "100000 bytes",
    "ü" * 101: "202 bytes",
    "\U0001f5dc" * 51: "204 bytes",
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name[:20]))
def test_a_bad_name_is_refused_and_the_reason_is_said(namespace: Path, make: Make, name: str) -> None:
    before = sorted(path.name for path in namespace.parent.iterdir() if "escape" in path.name)
    with pytest.raises(ValueError, match=BAD_NAMES[name]) as caught:
        make(name)
    assert "name" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert object_files(namespace) == []
    assert before == sorted(path.name for path in namespace.parent.iterdir() if "escape" in path.name)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["\udcff", "a\ud800b", "\udc80" * 10])
def test_a_name_with_halves_of_characters_is_refused(namespace: Path, make: Make, name: str) -> None:
    """They stand for bytes that are no text; a file could have such a name, and nobody could type it."""
    with pytest.raises(ValueError, match="surrogates"):
        make(name)
    assert object_files(namespace) == []


GOOD_NAMES = [
    "x" * LONGEST,
    "ü" * (LONGEST // 2),
    "-",
    "--help",
    "$(id)",
    "'",
    '"',
    "*",
    "%s%n",
    "a:b",
    "a b ",
]
GOOD_NAMES += ["\u202egnp.exe", "null", "CON", "{0}", "\\", "…", "a.", "~root", "\u00a0"]


@pytest.mark.parametrize("name", GOOD_NAMES, ids=lambda name: ascii(name[:20]))
def test_a_strange_name_is_the_name_of_a_file_and_nothing_else(namespace: Path, name: str) -> None:
    kinds: list[Any] = [isthmus.Queue, isthmus.Mutex, isthmus.Value]
    for kind in kinds:
        handle, other = kind(name), kind.open(name)
        assert handle.name == other.name == name
        assert object_files(namespace) == [name]
        assert [entry.name for entry in isthmus.objects()] == [name]
        assert isthmus.inspect(name).name == name
        assert repr(handle)
        handle.close()
        other.close()
        assert object_files(namespace) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "name", [0, 1 << 200, True, 1.5, b"bytes", b"a://b", Path("path"), ["list"], object()]
)
def test_a_name_that_is_no_text_is_a_type_error(namespace: Path, make: Make, name: object) -> None:
    with pytest.raises(TypeError, match="str"):
        make(name)
    assert object_files(namespace) == []


# ---------------------------------------------------------------------------------------- sizes and numbers

HUGE = [1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 127, 1 << 200, 1 << 20_000]
NEGATIVE = [-1, -(1 << 31), -(1 << 63), -(1 << 63) - 1, -(1 << 64), -(1 << 200), -(1 << 20_000)]
NO_INTEGER = [1.0, 0.5, math.nan, math.inf, "5", b"5", [5], 5j, object()]


def with_size(**options: Any) -> None:
    """Makes a queue and uses it."""
    with isthmus.Queue(type=bytes, **options) as handle:
        handle.put(b"x")
        assert handle.get() == b"x"


@pytest.fixture
def used() -> Iterator[isthmus.Queue[bytes]]:
    """A queue of two levels with a message in it."""
    with isthmus.Queue(type=bytes, capacity=64 << 10, priorities=2) as handle:
        handle.put(b"first")
        yield handle
        drain(handle)


def calls(handle: isthmus.Queue[bytes]) -> dict[str, Callable[[Any], object]]:
    """Everything that takes a number that is an integer."""
    return {
        "capacity": lambda number: with_size(capacity=number),
        "priorities": lambda number: with_size(priorities=number),
        "max_deliveries": lambda number: with_size(max_deliveries=number),
        "priority": lambda number: handle.put(b"x", priority=number),
        "priority ": lambda number: handle.put_many([b"x"], priority=number),
        "priority  ": lambda number: handle.reserve(5, priority=number),
        "limit": lambda number: handle.get_many(number, timeout=0),
        "size": lambda number: handle.reserve(number, timeout=0).cancel(),
    }


@pytest.mark.parametrize("name", calls(None))  # type: ignore[arg-type]
@pytest.mark.parametrize("number", NEGATIVE, ids=lambda number: f"-2^{number.bit_length()}")
def test_a_negative_number_is_refused_by_name(used: isthmus.Queue[bytes], name: str, number: int) -> None:
    with pytest.raises(ValueError, match=name.strip()) as caught:
        calls(used)[name](number)
    text = str(caught.value)
    assert str(number) in text if number >= -(1 << 62) else "-2**63 or less" in text
    assert len(text) < 300
    assert used.get(0) == b"first"


@pytest.mark.parametrize(
    "name", ["capacity", "priorities", "max_deliveries", "priority", "priority ", "size"]
)
@pytest.mark.parametrize("number", HUGE, ids=lambda number: f"2^{number.bit_length()}")
def test_a_huge_number_is_refused_with_the_limit(used: isthmus.Queue[bytes], name: str, number: int) -> None:
    limits = {
        "capacity": 1 << 38,
        "priorities": 16,
        "max_deliveries": (1 << 24) - 1,
        "size": used.message_max,
    }
    with pytest.raises((ValueError, isthmus.TooLarge)) as caught:
        calls(used)[name](number)
    assert str(limits.get(name, 1)) in str(caught.value)
    assert len(str(caught.value)) < 300
    assert used.get(0) == b"first"


@pytest.mark.parametrize("number", HUGE, ids=lambda number: f"2^{number.bit_length()}")
def test_as_many_as_there_are_is_a_limit_like_any_other(used: isthmus.Queue[bytes], number: int) -> None:
    assert used.get_many(number, timeout=0) == [b"first"]


@pytest.mark.parametrize("name", calls(None))  # type: ignore[arg-type]
@pytest.mark.parametrize("number", NO_INTEGER, ids=repr)
def test_what_is_no_integer_is_a_type_error(used: isthmus.Queue[bytes], name: str, number: object) -> None:
    with pytest.raises(TypeError):
        calls(used)[name](number)
    assert used.get(0) == b"first"


@pytest.mark.parametrize("name", ["capacity", "priorities", "max_deliveries", "limit"])
def test_zero_is_no_size(used: isthmus.Queue[bytes], name: str) -> None:
    for zero in (0, False):
        with pytest.raises(ValueError, match=f"{name} is 0.*1"):
            calls(used)[name](zero)


def test_a_message_of_no_bytes_is_a_message(used: isthmus.Queue[bytes]) -> None:
    used.get()
    used.put(b"")
    used.reserve(0).put()
    assert used.get_many(5) == [b"", b""]


@pytest.mark.parametrize("length", [*NEGATIVE, *HUGE, 101], ids=lambda number: f"2^{number.bit_length()}")
def test_a_reservation_is_shortened_and_never_lengthened(used: isthmus.Queue[bytes], length: int) -> None:
    reserved = used.reserve(100)
    with pytest.raises(ValueError, match=r"length is .*100 bytes"):
        reserved.shorten(length)
    reserved.put()
    assert [len(message) for message in used.get_many(5)] == [5, 100]


TIMEOUTS: list[Callable[[isthmus.Queue[bytes], Any], object]] = [
    lambda q, timeout: q.put(b"x", timeout),
    lambda q, timeout: q.put_many([b"x"], timeout),
    lambda q, timeout: q.get(timeout),
    lambda q, timeout: q.get_many(1, timeout),
    lambda q, timeout: q.get_view(timeout),
    lambda q, timeout: q.lease(timeout).ack(),
    lambda q, timeout: q.reserve(10, timeout=timeout).cancel(),
    lambda q, timeout: q.wait_readable(timeout),
    lambda q, timeout: q.wait_writable(timeout),
]


@pytest.mark.parametrize("call", TIMEOUTS)
def test_timeouts_are_seconds_from_nought_to_for_ever(
    used: isthmus.Queue[bytes], call: Callable[[isthmus.Queue[bytes], Any], object]
) -> None:
    for good in (0, 0.0, -0.0, 5e-324, 1e308, math.inf, 1 << 63, 1 << 200, True, None):
        drain(used)
        used.put(b"there")
        call(used, good)
    for bad in (-1, -5e-324, -math.inf, math.nan, -(1 << 200)):
        with pytest.raises(ValueError, match="timeout is"):
            call(used, bad)
    for wrong in ("5", b"5", [], 5j, object()):
        with pytest.raises(TypeError):
            call(used, wrong)
    with pytest.raises((OverflowError, ValueError)):
        call(used, 1 << 20_000)
    drain(used)
