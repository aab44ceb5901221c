"""`Stream`: messages, limits and waiting, over Unix sockets, TCP and TLS alike."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

import pytest

import isthmus
from sockets import Connected, certificates, connected, kind
from support import PATIENCE

__all__ = ["certificates", "connected", "kind"]


@dataclass
class Job:
    title: str
    pages: int


# ---- messages


def send_all(stream: isthmus.Stream[Any], messages: list[Any], timeout: float | None) -> None:
    for message in messages:
        stream.send(message, timeout)


@pytest.mark.parametrize(
    "message",
    [
        0,
        None,
        "text",
        b"",
        b"\0" * 5,
        {"a": [1, 2.5, None]},
        "ß" * 5000,
        b"x" * 16384,
        b"y" * 16385,
        b"z" * 300_000,
    ],
    ids=lambda message: f"{type(message).__name__}{len(repr(message))}",
)
def test_a_message_comes_as_it_was_sent(connected: Connected, message: Any) -> None:
    one, other = connected()
    for here, there, value in ((one, other, message), (other, one, [message, message])):
        sender = threading.Thread(target=here.send, args=(value,))
        sender.start()
        assert there.recv(PATIENCE) == value
        sender.join()


def test_large_and_small_messages_in_any_order(connected: Connected) -> None:
    one, other = connected(type=bytes)
    sizes = [
        0,
        70_000,
        1,
        65_536,
        3,
        65_532,
        65_533,
        200_000,
        200_000,
        16_384,
        16_380,
        16_381,
        5_000_000,
        2,
    ] * 2
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]
    sender = threading.Thread(target=send_all, args=(one, messages, None))
    sender.start()
    assert [other.recv(PATIENCE) for _ in messages] == messages
    sender.join()


def test_large_and_small_messages_with_a_timeout_on_both_sides(connected: Connected) -> None:
    one, other = connected(type=bytes)
    sizes = [70_000, 1, 65_536, 3, 2_000_000, 2_000_000, 16_381, 2]
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]
    sender = threading.Thread(target=send_all, args=(one, messages, PATIENCE))
    sender.start()
    for message in messages:
        assert other.recv(PATIENCE) == message
    sender.join()


def test_a_large_message_comes_by_and_by_to_who_only_tries(connected: Connected) -> None:
    one, other = connected(type=bytes)
    messages = [os.urandom(3 << 20), b"small", os.urandom(3 << 20)]
    sender = threading.Thread(target=send_all, args=(one, messages, None))
    sender.start()
    room = bytearray(3 << 20)
    for message in messages:
        tried = 0
        got = None
        while got is None:
            tried += 1
            try:
                # What one of them has begun the other ends.
                got = other.recv(0) if tried % 2 else bytes(room[: other.recv_into(room, 0)])
            except isthmus.Empty:
                other.poll(0.001)
        assert got == message
    sender.join()


def test_large_and_small_messages_waited_for_in_every_way(connected: Connected) -> None:
    one, other = connected(type=bytes)
    messages = [
        bytes([number % 251]) * (number * 7919 % 300 if number % 5 else 100_000) for number in range(300)
    ]
    sender = threading.Thread(target=one.send_many, args=(messages,))
    sender.start()
    for number, message in enumerate(messages):
        assert other.recv(None if number % 2 else PATIENCE) == message
    sender.join()


def test_many_small_messages_in_order(connected: Connected) -> None:
    one, other = connected()
    assert one.send_many(range(20_000)) == 20_000
    got: list[int] = []
    while len(got) < 20_000:
        got += other.recv_many(timeout=PATIENCE)
    assert got == list(range(20_000))


def test_recv_many_takes_at_most_so_many(connected: Connected) -> None:
    one, other = connected()
    one.send_many(range(5))
    got: list[int] = []
    while len(got) < 5:
        some = other.recv_many(2, PATIENCE)
        assert 1 <= len(some) <= 2
        got += some
    with pytest.raises(ValueError, match="most is 0"):
        other.recv_many(0)


def test_what_is_not_flushed_waits_for_the_next_call(connected: Connected) -> None:
    one, other = connected()
    one.send(1, flush=False)
    one.send(2, flush=False)
    with pytest.raises(isthmus.Empty):
        other.recv(0.05)
    one.flush()
    assert [other.recv(PATIENCE), other.recv(PATIENCE)] == [1, 2]
    one.send(3, flush=False)
    one.send(4)
    assert [other.recv(PATIENCE), other.recv(PATIENCE)] == [3, 4]
    one.send(5, flush=False)
    with pytest.raises(isthmus.Empty):
        one.recv(0)
    assert other.recv(PATIENCE) == 5
    one.send(6, flush=False)
    one.close()
    assert other.recv(PATIENCE) == 6


def test_not_flushed_messages_go_when_enough_have_come_together(connected: Connected) -> None:
    one, other = connected(type=bytes)
    for _ in range(100):
        one.send(b"x" * 1000, flush=False)
    assert other.recv(PATIENCE) == b"x" * 1000


def test_typed_messages_are_validated_on_receipt(connected: Connected) -> None:
    one, other = connected(type=Job)
    one.send(Job("thesis", 4))
    assert other.recv(PATIENCE) == Job("thesis", 4)
    with pytest.raises(TypeError):
        one.send("no job")
    assert other.type is Job


def test_arrays_and_codecs_of_ones_own_are_messages_too(connected: Connected) -> None:
    import numpy as np

    one, other = connected(type=np.ndarray)
    array = np.arange(100_000, dtype=np.float32).reshape(100, 1000)
    sender = threading.Thread(target=one.send, args=(array,))
    sender.start()
    got = other.recv(PATIENCE)
    sender.join()
    assert (got == array).all()
    assert got.flags.writeable


def test_buffers_of_every_kind_go_as_bytes(connected: Connected) -> None:
    one, other = connected(type=bytes)
    one.send(bytearray(b"abc"))
    one.send(memoryview(b"abcdef")[::1][2:4])
    one.send(memoryview(bytearray(40_000)).cast("d"))
    assert [other.recv(PATIENCE) for _ in range(2)] == [b"abc", b"cd"]
    assert other.recv(PATIENCE) == bytes(40_000)
    with pytest.raises(TypeError):
        one.send("text")
    with pytest.raises((BufferError, TypeError)):
        one.send(memoryview(b"abcdef")[::2])
    one.send(b"still fine")
    assert other.recv(PATIENCE) == b"still fine"


def test_a_message_that_is_not_of_the_type_is_an_error_and_the_next_one_comes(connected: Connected) -> None:
    one, other = connected(type=Job)
    one.send(Job("fine", 1))
    with one._sending:
        one._transmit(b"\x03\0\0\0abc", None, None)
    one.send(Job("fine", 3))
    assert other.recv(PATIENCE).pages == 1
    with pytest.raises(isthmus.InvalidMessage) as caught:
        other.recv(PATIENCE)
    assert (caught.value.number, caught.value.data) == (1, b"abc")
    assert other.recv(PATIENCE).pages == 3


def test_poll_says_whether_recv_would_wait(connected: Connected) -> None:
    one, other = connected()
    assert not other.poll()
    assert not other.poll(0.01)
    one.send_many([1, 2])
    assert other.poll(PATIENCE)
    assert other.recv() == 1
    assert other.recv(PATIENCE) == 2
    one.close()
    assert other.poll(PATIENCE)
    with pytest.raises(isthmus.ShutDown):
        other.recv()
    assert other.poll(0)


def test_recv_into_a_buffer(connected: Connected) -> None:
    one, other = connected(type=bytes)
    room = bytearray(300_000)
    for size in (5, 100_000, 300_000, 300_000, 0, 7, 250_000):
        message = os.urandom(size)
        sender = threading.Thread(target=one.send, args=(message,))
        sender.start()
        assert other.recv_into(room, PATIENCE) == size
        assert bytes(room[:size]) == message
        sender.join()


def test_recv_into_without_a_timeout_and_with_one_that_is_over(connected: Connected) -> None:
    one, other = connected(type=bytes)
    room = bytearray(1 << 20)
    with pytest.raises(isthmus.Empty):
        other.recv_into(room, 0.01)
    for _ in range(3):
        sender = threading.Thread(target=one.send, args=(b"k" * (1 << 20),))
        sender.start()
        assert other.recv_into(room) == 1 << 20
        assert room == b"k" * (1 << 20)
        sender.join()


def test_recv_into_a_buffer_that_is_too_small_keeps_the_message(connected: Connected) -> None:
    one, other = connected(type=bytes)
    for size in (10, 200_000, 200_000):
        sender = threading.Thread(target=one.send, args=(b"m" * size,))
        sender.start()
        with pytest.raises(isthmus.TooLarge, match=f"sent {size} bytes"):
            other.recv_into(bytearray(9), PATIENCE)
        assert other.recv(PATIENCE) == b"m" * size
        sender.join()
    with pytest.raises(TypeError, match="written"):
        other.recv_into(b"abc")


# ---- limits


def test_a_message_beyond_the_others_limit_is_not_sent(connected: Connected) -> None:
    one, other = connected(type=bytes, limit=1000)
    assert one.peer_limit == 1000
    with pytest.raises(isthmus.TooLarge, match="1001 bytes") as caught:
        one.send(b"x" * 1001)
    assert (caught.value.size, caught.value.limit) == (1001, 1000)
    with pytest.raises(isthmus.TooLarge):
        one.send(b"x" * 100_000)
    with pytest.raises(isthmus.TooLarge):
        one.send_many([b"fine", b"x" * 1001])
    one.send(b"x" * 1000)
    assert other.recv(PATIENCE) == b"fine"
    assert other.recv(PATIENCE) == b"x" * 1000


@pytest.mark.parametrize("size", [1001, 70_000, 0xFFFF_FFEF])
def test_a_frame_over_the_limit_ends_the_stream_before_memory_is_spent(
    connected: Connected, size: int
) -> None:
    one, other = connected(type=bytes, limit=1000)
    one.send(b"before")
    with one._sending:
        one._transmit(size.to_bytes(4, "little") + b"x" * 100, None, None)
    assert other.recv(PATIENCE) == b"before"
    for _ in range(2):
        with pytest.raises(isthmus.TooLarge) as caught:
            other.recv(PATIENCE)
        assert (caught.value.size, caught.value.limit) == (size, 1000)


@pytest.mark.parametrize("word", [b"\xf0\xff\xff\xff", b"\xfb\xff\xff\xff", b"\xfc\xff\xff\xff\x01\0\0\0"])
def test_a_word_that_no_stream_sends_ends_the_stream(connected: Connected, word: bytes) -> None:
    one, other = connected(type=bytes)
    with one._sending:
        one._transmit(word + b"garbage", None, None)
    for _ in range(2):
        with pytest.raises(isthmus.CorruptError, match="no stream sends"):
            other.recv(PATIENCE)


def test_a_long_message_has_a_longer_header(connected: Connected) -> None:
    one, other = connected(type=bytes)
    with one._sending:
        one._transmit(b"\xfe\xff\xff\xff" + (5).to_bytes(8, "little") + b"hello", None, None)
    assert other.recv(PATIENCE) == b"hello"
    with one._sending:
        one._transmit(b"\xfe\xff\xff\xff" + (1 << 40).to_bytes(8, "little"), None, None)
    with pytest.raises(isthmus.TooLarge) as caught:
        other.recv(PATIENCE)
    assert caught.value.size == 1 << 40


@pytest.mark.parametrize("step", [1, 3, 7])
def test_frames_may_come_in_pieces_of_any_size(connected: Connected, step: int) -> None:
    one, other = connected(type=bytes)
    messages = [b"", b"a", b"bc" * 40, b"d" * 300]
    wire = b"".join(len(message).to_bytes(4, "little") + message for message in messages)
    wire += b"\xff\xff\xff\xff"
    got: list[bytes] = []
    for at in range(0, len(wire), step):
        one._channel.send(wire[at : at + step])
        while other.poll(0.0005) and len(got) < len(messages):
            got.append(other.recv(0))
    while len(got) < len(messages):
        got.append(other.recv(PATIENCE))
    assert got == messages
    with pytest.raises(isthmus.ShutDown):
        other.recv(PATIENCE)


# ---- waiting


def test_timeouts(connected: Connected) -> None:
    one, other = connected(type=bytes)
    for timeout in (0, 0.02):
        with pytest.raises(isthmus.Empty, match=r"nothing came in 0") as caught:
            other.recv(timeout)
        assert isinstance(caught.value, TimeoutError)
    with pytest.raises(ValueError, match="timeout is -1"):
        other.recv(-1)
    with pytest.raises(ValueError, match="timeout is -1"):
        one.send(b"", -1)


def test_full_when_the_other_side_does_not_take_and_everything_comes_once_it_does(
    connected: Connected,
) -> None:
    one, other = connected(type=bytes)
    sent = 0

    def fill() -> None:
        nonlocal sent
        while True:
            one.send(sent.to_bytes(4, "little") * 500, 0)
            sent += 1

    with pytest.raises(isthmus.Full, match="took nothing"):
        fill()
    assert sent > 10
    taker = threading.Thread(target=one.flush, args=(PATIENCE,))
    got = [other.recv(PATIENCE)]
    taker.start()
    got += [other.recv(PATIENCE) for _ in range(sent - 1)]
    taker.join()
    assert got == [number.to_bytes(4, "little") * 500 for number in range(sent)]
    with pytest.raises(isthmus.Empty):
        other.recv(0.02)


def test_a_message_of_which_a_part_went_out_in_time_is_sent(connected: Connected) -> None:
    one, other = connected(type=bytes)
    message = os.urandom(30_000_000)
    one.send(message, 0.05)  # much more than any socket holds: returns with the rest kept
    with pytest.raises(isthmus.Full):
        one.send(b"next", 0)
    got: list[bytes] = []
    taker = threading.Thread(target=lambda: got.extend(other.recv(PATIENCE) for _ in range(2)))
    taker.start()
    one.send(b"next", PATIENCE)
    taker.join()
    assert got == [message, b"next"]


def test_both_sides_may_owe_each_other_and_receive(connected: Connected) -> None:
    one, other = connected(type=bytes)
    for end in (one, other):
        end.send(b"r" * 20_000_000, 0.05)

    def take(end: isthmus.Stream[Any]) -> None:
        end.recv(PATIENCE)
        end.flush(PATIENCE)

    threads = [threading.Thread(target=take, args=(end,)) for end in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_send_many_says_how_many_went_out_in_time(connected: Connected) -> None:
    one, other = connected(type=bytes)
    with pytest.raises(isthmus.Full) as caught:
        one.send_many((b"m" * 1000 for _ in range(100_000)), 0.5)
    sent = caught.value.sent
    assert sent > 0
    flusher = threading.Thread(target=one.finish, args=(PATIENCE,))
    flusher.start()
    assert sum(1 for _ in other) == sent
    flusher.join()
