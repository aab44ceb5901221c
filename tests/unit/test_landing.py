"""`_core.Landing` and `_core.Patience`: what streams receive large messages with."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from isthmus._core import Landing, Patience


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_a_message_is_given_out_when_it_is_complete() -> None:
    landing = Landing(6, b"ab")
    with pytest.raises(ValueError, match="not complete"):
        landing.take()
    assert landing.add(b"cde")
    assert (landing.size, landing.missing) == (6, 1)
    with pytest.raises(ValueError, match="more bytes"):
        landing.add(b"fg")
    assert not landing.add(b"")
    assert landing.add(b"f")
    assert landing.take() == b"abcdef"


def test_what_is_given_out_is_not_written_any_more(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    one.send(b"later")
    landing = Landing(3, b"abc")
    message = landing.take()
    with pytest.raises(ValueError, match="more bytes"):
        landing.add(b"x")
    assert landing.fill(other.fileno(), None)
    assert message == b"abc"
    assert other.recv(10) == b"later"


@pytest.mark.parametrize("patient", [False, True])
def test_a_socket_fills_it_and_keeps_what_follows(
    ends: tuple[socket.socket, socket.socket], patient: bool
) -> None:
    one, other = ends
    patience = Patience() if patient else None
    message = os.urandom(50_000)
    landing = Landing(len(message), message[:7])
    with pytest.raises(BlockingIOError):
        landing.fill(other.fileno(), patience)
    one.sendall(message[7:30_000])
    with pytest.raises(BlockingIOError):
        landing.fill(other.fileno(), patience)
    assert landing.missing == 20_000
    one.sendall(message[30_000:] + b"next")
    assert landing.fill(other.fileno(), patience)
    assert landing.take() == message
    assert other.recv(10) == b"next"


def test_the_end_and_errors_leave_what_came(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    landing = Landing(10, b"")
    one.send(b"abc")
    one.close()
    assert not landing.fill(other.fileno(), None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        landing.fill(-1, None)
    assert landing.missing == 7


def test_a_size_that_no_memory_has_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        Landing(1 << 63, b"")
    with pytest.raises(ValueError, match="more bytes"):
        Landing(2, b"abc")


def test_patience_sees_what_is_there_and_gives_up_where_nothing_comes(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    one, other = ends
    patience = Patience()
    assert not any(patience.look(other.fileno()) for _ in range(300))
    one.send(b"x")
    assert any(patience.look(other.fileno()) for _ in range(300))
    assert Patience().look(other.fileno())
