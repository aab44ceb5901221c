"""`Stream`: how it begins and ends, and what its errors say."""

from __future__ import annotations

import multiprocessing.connection
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from sockets import (
    Certificates,
    Connected,
    Echo,
    address,
    certificates,
    connected,
    echo_server,
    kind,
    loose,
)
from support import PATIENCE, Peer, wait_until

__all__ = ["address", "certificates", "connected", "kind"]


# ---- ends


def test_close_says_that_it_has_finished(connected: Connected) -> None:
    one, other = connected()
    one.send("last")
    one.close()
    assert other.recv(PATIENCE) == "last"
    for _ in range(2):
        with pytest.raises(isthmus.ShutDown, match="has finished"):
            other.recv(PATIENCE)


def test_loops_written_for_multiprocessing_connection_go_on_working(connected: Connected) -> None:
    one, other = connected()
    assert not other.poll()
    assert multiprocessing.connection.wait([other], 0) == []  # type: ignore[list-item]
    messages = [{"a": [1, 2.5, None]}, "text", b"bytes", ["", {}]]
    for message in messages:
        one.send(message)
    assert multiprocessing.connection.wait([other], PATIENCE)  # type: ignore[list-item]
    one.close()
    got = []
    while True:
        try:
            if other.poll(PATIENCE):
                got.append(other.recv())
        except EOFError:
            break
    assert got == messages


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


@pytest.mark.parametrize("last", [b"\xff" * 8, b"x" * 20_000 + b"\xff" * 4], ids=["small", "large"])
def test_who_sends_learns_of_a_death_whatever_came_last(connected: Connected, last: bytes) -> None:
    """Bytes of a message that look like an end are none."""
    one, other = connected(type=bytes)
    one.send(b"first")
    assert other.recv(PATIENCE) == b"first"
    one.send(last)
    one._sock.close()

    def send() -> None:
        while True:
            other.send(b"x" * 1000, PATIENCE)

    with pytest.raises(isthmus.PeerDied):
        send()


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
