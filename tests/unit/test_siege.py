"""What the kill tests check is checked itself: each of their assertions fails when it should."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import isthmus
from siege import check_capacity, check_messages
from workers import HEADER, identify, message


@pytest.mark.parametrize("size", [HEADER, HEADER + 1, 64, 4096, 70_000, 300_000])
def test_a_whole_message_says_who_it_is(size: int) -> None:
    made = message(7, 123_456, size)
    assert len(made) == size
    assert identify(made) == (7, 123_456)


def damaged() -> list[bytes]:
    """The ways in which a message may be torn."""
    whole, other = message(1, 5, 10_000), message(1, 6, 10_000)
    flipped = bytearray(whole)
    flipped[9000] ^= 1
    return [
        b"",
        whole[:10],
        whole[:-1],
        whole + b"\0",
        bytes(flipped),
        whole[:5000] + other[5000:],
        whole[:HEADER] + other[HEADER:],
        whole[:4096] + bytes(10_000 - 4096),
    ]


@pytest.mark.parametrize("number", range(len(damaged())))
def test_a_torn_message_is_noticed(number: int) -> None:
    with pytest.raises(AssertionError, match="torn"):
        identify(damaged()[number])


def siege(logs: list[list[tuple[int, int]]], *, started: int = 10, done: int = 10, killed: int = 0) -> Any:
    """A siege with one producer and consumers that received this; `killed` consumers were killed."""
    producer = SimpleNamespace(
        program="produce", arguments={"number": 1}, started=started, done=done, killed=started > done
    )
    consumers = [
        SimpleNamespace(
            program="consume",
            killed=index < killed,
            journal=SimpleNamespace(
                log=lambda log=log: [number << 40 | sequence for number, sequence in log]
            ),
        )
        for index, log in enumerate(logs)
    ]
    return SimpleNamespace(workers=[producer, *consumers], dead=[], kills=killed)


ALL = [(1, sequence) for sequence in range(10)]


def test_a_siege_without_fault_passes() -> None:
    check_messages(siege([ALL]), get_batch=0, put_batch=0)
    check_messages(siege([ALL[::2], ALL[1::2]]), get_batch=0, put_batch=0)
    check_messages(siege([ALL[:4], ALL[5:]], killed=1), get_batch=0, put_batch=0)
    check_messages(siege([ALL], done=9), get_batch=0, put_batch=0)
    check_messages(siege([ALL[:9]], done=9), get_batch=0, put_batch=0)
    check_messages(siege([ALL[:3]], killed=1), get_batch=7, put_batch=0)


@pytest.mark.parametrize(
    ("logs", "more", "complaint"),
    [
        ([ALL[:5], ALL[4:]], {}, "duplicate"),
        ([[*ALL[:4], ALL[5], ALL[4], *ALL[6:]]], {}, "FIFO"),
        ([[*ALL, (1, 10)]], {}, "out of nothing"),
        ([ALL[:9]], {}, "1 messages lost"),
        ([ALL[:8]], {"killed": 1}, "2 messages lost"),
        ([ALL[:8]], {"done": 9}, "1 messages lost"),
    ],
)
def test_a_fault_is_noticed(logs: list[list[tuple[int, int]]], more: dict[str, int], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_messages(siege(logs, **more), get_batch=0, put_batch=0)


@pytest.mark.parametrize("size", [0, 64, 5000])
def test_capacity_that_is_not_given_back_is_noticed(size: int) -> None:
    with isthmus.Queue(type=bytes, capacity=1 << 20) as handle:
        check_capacity(handle)
        handle.put(bytes(size))
        with pytest.raises(AssertionError):
            check_capacity(handle)
        while not handle.empty():
            handle.get()
