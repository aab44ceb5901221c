"""`Stream`: messages, ends and errors, over Unix sockets, TCP and TLS alike."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import isthmus
from sockets import Certificates, Echo, certificates, echo_server, loose
from support import PATIENCE, Peer, wait_until

__all__ = ["certificates"]

KINDS = ["unix", "abstract", "tcp", "tcp6", "tls"]
Connected = Callable[..., tuple["isthmus.Stream[Any]", "isthmus.Stream[Any]"]]


@dataclass
class Job:
    title: str
    pages: int


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connected(kind: str, tmp_path: Path, certificates: Certificates) -> Iterator[Connected]:
    """Makes two ends of a stream of this kind, through a listener."""
    made: list[Any] = []

    def connect(**options: Any) -> tuple[isthmus.Stream[Any], isthmus.Stream[Any]]:
        ends = loose(kind, tmp_path, certificates, **options)
        made.extend(ends)
        return ends[0], ends[1]

    yield connect
    for end in made:
        end.close()


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
        one.send_many((b"m" * 1000 for _ in range(100_000)), 0.2)
    sent = caught.value.sent
    assert sent > 0
    flusher = threading.Thread(target=one.finish, args=(PATIENCE,))
    flusher.start()
    assert sum(1 for _ in other) == sent
    flusher.join()


# ---- ends


def test_close_says_that_it_has_finished(connected: Connected) -> None:
    one, other = connected()
    one.send("last")
    one.close()
    assert other.recv(PATIENCE) == "last"
    for _ in range(2):
        with pytest.raises(isthmus.ShutDown, match="has finished"):
            other.recv(PATIENCE)


def test_iteration_ends_when_the_other_side_finishes(connected: Connected) -> None:
    one, other = connected()
    one.send_many("abc")
    one.finish()
    assert list(other) == ["a", "b", "c"]


def test_half_close_answers_still_come(connected: Connected) -> None:
    one, other = connected()
    one.send("question")
    one.finish()
    one.finish()
    with pytest.raises(isthmus.ClosedError, match="finished by this side"):
        one.send("more")
    with pytest.raises(isthmus.ClosedError):
        one.send(b"x" * 100_000)
    assert list(other) == ["question"]
    other.send("answer")
    other.close()
    assert list(one) == ["answer"]


def test_sending_to_who_has_closed_is_shut_down_not_death(connected: Connected) -> None:
    one, other = connected()
    other.send("goodbye")
    other.close()

    def go_on() -> None:
        for _ in range(1000):
            one.send(b"x" * 1000)
            time.sleep(0.001)

    with pytest.raises((isthmus.ShutDown, isthmus.PeerDied)) as caught:
        go_on()
    if not one._tls:
        assert type(caught.value) is isthmus.ShutDown, caught.value
    with pytest.raises(type(caught.value)):
        one.send("again")
    assert one.recv(PATIENCE) == "goodbye"


def test_an_end_without_a_word_is_a_death(connected: Connected) -> None:
    one, other = connected()
    one.send("before")
    one._sock.close()
    assert other.recv(PATIENCE) == "before"
    for _ in range(2):
        with pytest.raises(isthmus.PeerDied):
            other.recv(PATIENCE)


def test_an_end_in_the_middle_of_a_message_says_so(connected: Connected) -> None:
    one, other = connected(type=bytes)
    one._channel.send(b"\x10\0\0\0abc")
    one._sock.shutdown(socket.SHUT_WR)
    with pytest.raises(isthmus.PeerDied, match="middle of a message" if not one._tls else "reset"):
        other.recv(PATIENCE)


def test_a_closed_stream_says_so_everywhere(connected: Connected) -> None:
    one, _ = connected(type=bytes)
    one.close()
    one.close()
    assert one.closed
    assert one.fileno() == -1
    assert "(closed)" in repr(one)
    for call in (
        lambda: one.send(b""),
        lambda: one.send(b"x" * 100_000),
        lambda: one.send(b"", 0),
        lambda: one.send(b"", flush=False),
        lambda: one.send_many([b""]),
        one.recv,
        lambda: one.recv(0),
        lambda: one.recv_many(timeout=0),
        lambda: one.recv_into(bytearray(1)),
        lambda: one.poll(0),
    ):
        with pytest.raises(isthmus.ClosedError, match="closed"):
            call()


def test_close_in_one_thread_ends_the_waits_of_others(connected: Connected) -> None:
    one, _other = connected(type=bytes)
    ended: list[str] = []

    def wait(call: Callable[[], object]) -> None:
        try:
            call()
        except isthmus.ClosedError:
            ended.append("closed")

    def fill() -> None:
        while True:
            one.send(b"x" * 100_000)

    calls = [one.recv, lambda: one.recv(PATIENCE), fill]
    threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    one.close(0.1)
    for thread in threads:
        thread.join(PATIENCE)
    assert ended == ["closed"] * 3


def test_threads_share_a_stream(connected: Connected) -> None:
    one, other = connected(type=bytes)
    got: list[bytes] = []
    lock = threading.Lock()

    def take() -> None:
        for message in other:
            with lock:
                got.append(message)

    def give(number: int) -> None:
        for turn in range(300):
            one.send(bytes([number]) * (turn * 37 % 20_000))

    takers = [threading.Thread(target=take) for _ in range(3)]
    givers = [threading.Thread(target=give, args=(number,)) for number in range(3)]
    for thread in takers + givers:
        thread.start()
    for thread in givers:
        thread.join(PATIENCE)
    one.finish(PATIENCE)
    for thread in takers:
        thread.join(PATIENCE)
    expected = [bytes([number]) * (turn * 37 % 20_000) for number in range(3) for turn in range(300)]
    assert sorted(got) == sorted(expected)


# ---- processes


def test_a_killed_peer_is_a_death_with_its_pid(tmp_path: Path, spawn: Callable[..., Peer]) -> None:
    path = tmp_path / "s"
    with isthmus.Listener(path) as listener:
        peer = spawn(
            """
            import sys, time, isthmus
            s = isthmus.Stream(sys.argv[1])
            s.send("hello")
            print("sent", flush=True)
            time.sleep(60)
            """,
            f"unix://{path}",
        )
        with listener.accept(PATIENCE) as stream:
            peer.expect("sent")
            assert stream.credentials == (peer.pid, os.geteuid(), os.getegid())
            peer.kill()
            assert stream.recv(PATIENCE) == "hello"
            with pytest.raises(isthmus.PeerDied, match=str(peer.pid)) as caught:
                stream.recv(PATIENCE)
            assert caught.value.pid == peer.pid


def test_a_stopped_peer_is_alive(tmp_path: Path, spawn: Callable[..., Peer]) -> None:
    path = tmp_path / "s"
    with isthmus.Listener(path) as listener:
        peer = spawn(
            """
            import sys, isthmus
            s = isthmus.Stream(sys.argv[1])
            for message in s:
                s.send(message)
            """,
            f"unix://{path}",
        )
        with listener.accept(PATIENCE) as stream:
            peer.stop()
            stream.send("are you there?")
            with pytest.raises(isthmus.Empty):
                stream.recv(0.2)
            peer.resume()
            assert stream.recv(PATIENCE) == "are you there?"
        peer.finish()


def test_a_forked_child_uses_the_stream_and_ends_only_its_own(tmp_path: Path) -> None:
    one, other = isthmus.Stream.pair()
    with one, other:
        pid = os.fork()
        if pid == 0:
            other.send("from the child")
            other.close()
            os._exit(0)
        assert one.recv(PATIENCE) == "from the child"
        os.waitpid(pid, 0)
        other.send("from the parent")
        assert one.recv(PATIENCE) == "from the parent"


def test_a_stream_handed_to_a_child_is_given_back_without_an_end() -> None:
    one, other = isthmus.Stream.pair()
    with one:
        pid = os.fork()
        if pid == 0:
            one.close(finish=False)
            message = other.recv()
            other.send([message, message])
            other.finish()
            os._exit(0)
        other.close(finish=False)
        one.send("x")
        assert one.recv(PATIENCE) == ["x", "x"]
        assert list(one) == []
        os.waitpid(pid, 0)


def test_reconnect_after_the_server_was_killed(tmp_path: Path, spawn: Callable[..., Peer]) -> None:
    server = """
        import sys, isthmus
        with isthmus.Listener(sys.argv[1]) as listener:
            print("listens", flush=True)
            for stream in listener:
                for message in stream:
                    stream.send(message)
        """
    path = tmp_path / "s"
    first = spawn(server, f"unix://{path}")
    first.expect("listens")
    with isthmus.Stream(path) as stream:
        stream.send(1)
        assert stream.recv(PATIENCE) == 1
        first.kill()
        with pytest.raises(isthmus.PeerDied):
            stream.recv(PATIENCE)
        second = spawn(server, f"unix://{path}")
        stream.reconnect(PATIENCE, backoff=isthmus.Backoff(0.01))
        stream.send(2)
        assert stream.recv(PATIENCE) == 2
        assert stream.credentials is not None
        assert stream.credentials.pid == second.pid


def test_reconnect_gives_up_when_its_time_is_over(tmp_path: Path, certificates: Certificates) -> None:
    stream, server = loose("unix", tmp_path, certificates)
    server.close()
    with stream:
        with pytest.raises(isthmus.Timeout, match="no such socket"):
            stream.reconnect(0.1)
        with pytest.raises(isthmus.ClosedError):
            stream.send(1)
    one, other = isthmus.Stream.pair()
    with one, other, pytest.raises(isthmus.Unsupported, match="accepted"):
        other.reconnect()


def test_backoff_grows_and_varies() -> None:
    pauses = isthmus.Backoff(1, factor=2, most=5, jitter=0).pauses()
    assert [next(pauses) for _ in range(5)] == [1, 2, 4, 5, 5]
    pauses = isthmus.Backoff(1, factor=2, most=1000, jitter=0.5).pauses()
    for number in range(10):
        assert 2**number / 2 <= next(pauses) <= 2**number
    for wrong in ({"first": 0}, {"factor": 0.5}, {"first": 2, "most": 1}, {"jitter": 2}):
        with pytest.raises(ValueError, match="Backoff"):
            isthmus.Backoff(**wrong)


# ---- connecting


def test_refused_missing_unreachable_and_timed_out_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"unix:///.*nobody: there is no such socket"):
        isthmus.Stream(tmp_path / "nobody")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    with pytest.raises(isthmus.Refused, match=r"unix:///.*dead: connection refused"):
        isthmus.Stream(tmp_path / "dead")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(isthmus.Refused, match=rf"tcp://127\.0\.0\.1:{port}: connection refused") as caught:
        isthmus.Stream(f"tcp://127.0.0.1:{port}")
    assert isinstance(caught.value, ConnectionRefusedError)
    with pytest.raises(isthmus.Unreachable, match=r"no\.such\.host\.invalid"):
        isthmus.Stream("tcp://no.such.host.invalid:5000")
    # Connects, but nobody accepts, so nobody answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(isthmus.Timeout, match=r"tcp://127\.0\.0\.1:\d+: not done in 0\.1 s"):
            isthmus.Stream(f"tcp://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)


def test_retry_waits_for_a_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    found: list[isthmus.Stream[Any]] = []
    client = threading.Thread(
        target=lambda: found.append(isthmus.Stream(path, retry=isthmus.Backoff(0.01), timeout=PATIENCE))
    )
    client.start()
    time.sleep(0.05)
    with isthmus.Listener(path) as listener, listener.accept(PATIENCE) as stream:
        client.join()
        found[0].send(1)
        assert stream.recv(PATIENCE) == 1
        found[0].close()
    with pytest.raises(isthmus.Timeout, match="the last attempt"):
        isthmus.Stream(path, retry=True, timeout=0.1)


@pytest.mark.parametrize(
    "text",
    [
        "", "nothing", "http://x:1", "unix://", "unix://relative", "unix://@", "tcp://host", "tcp://host:x", "tcp://:1",
        "tcp://::1:5", "tcp://[::1:5", "tcp://h:65536", "tcp://a/b:1", "unix:///" + "x" * 107, "udp://h:1",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|path|port|host|brackets") as caught:
        isthmus.Stream(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"framing": "frames"}, ValueError),
        ({"framing": "raw", "type": bytes}, ValueError),
        ({"framing": "lines", "key": b"k" * 32}, ValueError),
        ({"limit": 0}, ValueError),
        ({"key": b"short"}, ValueError),
        ({"users": ["nobody-of-this-name"]}, ValueError),
        ({"users": "root"}, TypeError),
        ({"descriptors": 254}, ValueError),
        ({"keepalive": 0}, ValueError),
        ({"tls": True}, isthmus.Unsupported),
        ({"tls": "cert.pem"}, TypeError),
        ({"type": 3}, TypeError),
    ],
    ids=str,
)
def test_wrong_options_are_refused_before_anything_happens(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        isthmus.Stream(tmp_path / "nobody", **options)


def test_of_tcp_only() -> None:
    with pytest.raises(isthmus.Unsupported, match="Unix sockets only"):
        isthmus.Stream("tcp://127.0.0.1:1", descriptors=1)
    with pytest.raises(isthmus.Unsupported, match="pickle"):
        isthmus.Stream("tcp://127.0.0.1:1", type=object)


def test_what_a_stream_says_of_itself(connected: Connected, kind: str) -> None:
    one, other = connected()
    scheme = "tcp://" if kind in {"tcp", "tcp6", "tls"} else "unix://"
    assert one.address.startswith(scheme)
    assert other.address.startswith(scheme)
    if scheme == "unix://":
        assert one.credentials == other.credentials == (os.getpid(), os.geteuid(), os.getegid())
        assert f"process {os.getpid()}" in other.peer
    else:
        assert one.credentials is None
        assert other.peer.startswith(scheme)
        host, port = one._sock.getsockname()[:2]
        assert other.peer == f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    assert (one.certificate is not None) == (kind == "tls")
    assert repr(one).startswith("<isthmus.Stream Any ")
    assert one.framing == "messages"
    assert one.limit == 64 << 20
    with one:
        assert one.fileno() >= 0
        assert not one.closed
    assert one.closed


def test_an_echo_of_everything_through_a_server_in_another_thread(tmp_path: Path) -> None:
    with echo_server(f"unix://{tmp_path}/s") as server:
        assert isinstance(server, Echo)
        with isthmus.Stream(server.address) as stream:
            for number in range(1000):
                stream.send(number)
                assert stream.recv(PATIENCE) == number
        wait_until(lambda: server.served == 1, "the server to see the end")
