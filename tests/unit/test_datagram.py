"""`Datagram`: over UDP and Unix sockets, one message at a time."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import isthmus
from sockets import require
from support import PATIENCE, run_python, wait_until


@dataclass
class Job:
    title: str
    pages: int


@pytest.fixture(params=["unix", "abstract", "udp", "udp6"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "unix": f"unix://{tmp_path}/d",
        "abstract": f"unix://@isthmus-test-{tmp_path.name}-{os.getpid()}",
        "udp": "udp://127.0.0.1:0",
        "udp6": "udp://[::1]:0",
    }[str(request.param)]


@pytest.fixture
def receiver(place: str) -> Iterator[Callable[..., isthmus.Datagram[Any]]]:
    made: list[isthmus.Datagram[Any]] = []

    def make(**options: Any) -> isthmus.Datagram[Any]:
        made.append(isthmus.Datagram(at=place, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def to(receiver: isthmus.Datagram[Any], **options: Any) -> isthmus.Datagram[Any]:
    assert receiver.address is not None
    return isthmus.Datagram(receiver.address, **options)


def test_each_message_is_one(receiver: Callable[..., isthmus.Datagram[Any]]) -> None:
    here = receiver()
    with to(here) as there:
        for message in (b"one", b"", b"three" * 1000, bytearray(b"four")):
            there.send(message)
        assert [here.recv(PATIENCE) for _ in range(4)] == [b"one", b"", b"three" * 1000, b"four"]
        assert there.peer == here.address
        assert here.stats().received == 4
        assert here.type is bytes


def test_answers_go_to_the_sender(tmp_path: Path) -> None:
    for at, own in (
        ("udp://127.0.0.1:0", "udp://127.0.0.1:0"),
        (f"unix://{tmp_path}/a", f"unix://{tmp_path}/b"),
    ):
        with isthmus.Datagram(at=at) as here:
            assert here.address is not None
            with isthmus.Datagram(here.address, at=own) as there:
                there.send(b"question")
                received = here.recv_from(PATIENCE)
                assert received.message == b"question"
                assert received.sender == there.address
                here.send(b"answer", received.sender)
                assert there.recv(PATIENCE) == b"answer"


def test_a_unix_socket_without_a_path_has_no_address_to_answer_to(tmp_path: Path) -> None:
    with isthmus.Datagram(at=tmp_path / "d") as here, isthmus.Datagram(tmp_path / "d") as there:
        there.send(b"x")
        assert here.recv_from(PATIENCE) == (b"x", None, None, 0)
        assert there.address is None


def test_only_the_peer_is_heard() -> None:
    with isthmus.Datagram(at="udp://127.0.0.1:0") as peer:
        assert peer.address is not None
        with isthmus.Datagram(peer.address) as here, isthmus.Datagram(at="udp://127.0.0.1:0") as stranger:
            here.send(b"x")
            own = peer.recv_from(PATIENCE).sender
            stranger.send(b"from a stranger", own)
            peer.send(b"from the peer", own)
            assert here.recv(PATIENCE) == b"from the peer"
            with pytest.raises(isthmus.Empty):
                here.recv(0.02)


def test_typed_messages(receiver: Callable[..., isthmus.Datagram[Any]]) -> None:
    here = receiver(type=Job)
    with to(here, type=Job) as there, to(here) as wrong:
        there.send(Job("thesis", 3))
        assert here.recv(PATIENCE) == Job("thesis", 3)
        wrong.send(b"nonsense")
        there.send(Job("next", 1))
        with pytest.raises(isthmus.InvalidMessage) as caught:
            here.recv(PATIENCE)
        assert caught.value.data == b"nonsense"
        assert here.recv(PATIENCE) == Job("next", 1)
        assert here.stats().invalid == 1


def test_what_is_too_large_is_an_error_and_not_cut_off(
    receiver: Callable[..., isthmus.Datagram[Any]],
) -> None:
    here = receiver(limit=100)
    with to(here) as there:
        there.send(b"x" * 100)
        there.send(b"y" * 101)
        there.send(b"z")
        assert here.recv(PATIENCE) == b"x" * 100
        with pytest.raises(isthmus.TooLarge, match="101 bytes; limit=100") as caught:
            here.recv(PATIENCE)
        assert (caught.value.size, caught.value.limit) == (101, 100)
        assert here.recv(PATIENCE) == b"z"
        assert here.stats().too_large == 1
        with pytest.raises(isthmus.TooLarge, match="fit into no datagram"):
            there.send(b"x" * 10_000_000)


def test_the_largest_udp_datagram() -> None:
    with isthmus.Datagram(at="udp://127.0.0.1:0") as here, to(here) as there:
        there.send(b"x" * 65507)
        assert here.recv(PATIENCE) == b"x" * 65507
        with pytest.raises(isthmus.TooLarge, match="at most 65507"):
            there.send(b"x" * 65508)


def test_timeouts_and_closing(receiver: Callable[..., isthmus.Datagram[Any]]) -> None:
    here = receiver()
    for timeout in (0, 0.02):
        with pytest.raises(isthmus.Empty, match="nothing came in"):
            here.recv(timeout)
    ended: list[str] = []

    def wait() -> None:
        try:
            here.recv()
        except isthmus.ClosedError:
            ended.append("closed")

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    here.close()
    here.close()
    waiting.join(PATIENCE)
    assert ended == ["closed"]
    assert list(here) == []
    assert here.fileno() == -1
    assert "(closed)" in repr(here)
    with pytest.raises(isthmus.ClosedError):
        here.send(b"x", "udp://127.0.0.1:1")


def test_a_unix_receiver_that_is_behind_makes_senders_wait(tmp_path: Path) -> None:
    with isthmus.Datagram(at=tmp_path / "d") as here:
        with isthmus.Datagram(tmp_path / "d") as there, isthmus.Datagram(at=tmp_path / "e") as loose:

            def fill() -> int:
                for number in range(100_000):
                    try:
                        there.send(b"%d" % number, timeout=0.01)
                    except isthmus.Full:
                        return number
                raise AssertionError

            sent = fill()
            with pytest.raises(isthmus.Full):
                loose.send(b"x", f"unix://{tmp_path}/d", 0.02)
            last = threading.Thread(target=there.send, args=(b"last",))
            other = threading.Thread(target=loose.send, args=(b"last", f"unix://{tmp_path}/d"))
            last.start()
            other.start()
            got = [here.recv(PATIENCE) for _ in range(sent + 2)]
            last.join(PATIENCE)
            other.join(PATIENCE)
            assert got[:sent] == [b"%d" % number for number in range(sent)]
            assert got[sent:] == [b"last", b"last"]


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such socket"):
        isthmus.Datagram(tmp_path / "nobody")
    with isthmus.Datagram(at="udp://127.0.0.1:0") as gone:
        address = gone.address
    assert address is not None
    with isthmus.Datagram(address) as there:
        there.send(b"x")
        with pytest.raises(isthmus.Refused, match=r"127\.0\.0\.1"):
            there.recv(PATIENCE)
    here = isthmus.Datagram(at=tmp_path / "d")
    with isthmus.Datagram(tmp_path / "d") as there:
        here.close()
        with pytest.raises(isthmus.Refused):
            there.send(b"x")


def test_a_name_in_use_and_one_left_by_the_dead(place: str) -> None:
    with isthmus.Datagram(at=place) as first:
        with pytest.raises(OSError, match="already") as caught:
            isthmus.Datagram(at=first.address)
        assert caught.value.errno == 98
    if place.startswith("unix:///"):
        path = Path(place.removeprefix("unix://"))
        assert not path.exists()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
            dead.bind(str(path))
        with isthmus.Datagram(at=place) as here, to(here) as there:
            there.send(b"x")
            assert here.recv(PATIENCE) == b"x"


# ---- numbers


def test_numbers_say_what_is_lost_late_and_double(receiver: Callable[..., isthmus.Datagram[Any]]) -> None:
    here = receiver(numbered=True, limit=100)
    caught: list[bytes] = []
    with isthmus.Datagram(at="udp://127.0.0.1:0", limit=1000) as tap:
        with to(tap, numbered=True) as there:
            for number in range(10):
                there.send(b"%d" % number)
            caught += [tap.recv(PATIENCE) for _ in range(10)]
    with to(here) as replay:
        for number in (0, 1, 3, 2, 3, 9, 6, 9):
            replay.send(caught[number])
        got = [here.recv_from(PATIENCE) for _ in range(6)]
        with pytest.raises(isthmus.Empty):
            here.recv(0.02)
        assert [(received.number, received.missed) for received in got] == [
            (0, 0), (1, 0), (3, 1), (2, 0), (9, 5), (6, 0),
        ]  # fmt: skip
        assert [received.message for received in got] == [b"%d" % (received.number or 0) for received in got]
        stats = here.stats()
        assert (stats.received, stats.missing, stats.late, stats.duplicate) == (6, 4, 2, 2)
        replay.send(b"without a number")
        with pytest.raises(isthmus.InvalidMessage, match="no number"):
            here.recv(PATIENCE)
        with to(here, numbered=True, type=int) as other:
            other.send(5)
        with pytest.raises(isthmus.InvalidMessage, match="another type"):
            here.recv(PATIENCE)


def test_loss_in_a_full_buffer_is_seen() -> None:
    with isthmus.Datagram(at="udp://127.0.0.1:0", numbered=True) as here, to(here, numbered=True) as there:
        here._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(200):
            there.send(b"x" * 500)
        there.send(b"x" * 500)
        got = 0
        while isthmus.select(here, timeout=0.05):
            here.recv(0)
            got += 1
        assert 0 < got < 201
        here._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        there.send(b"last")
        assert here.recv(PATIENCE) == b"last"
        assert here.stats().missing == 202 - got - 1


# ---- groups


def test_multicast_reaches_all_who_joined() -> None:
    group, at, interface = "239.1.2.3", "udp://0.0.0.0:0", "lo"
    with isthmus.Datagram(at=at, share=True) as one:
        assert one.address is not None
        port = one.address.rpartition(":")[2]
        with isthmus.Datagram(at=one.address, share=True) as two, isthmus.Datagram(at=at) as sender:
            for member in (one, two):
                member.join(group, interface)
            sender.multicast(hops=1, interface=interface)
            target = f"udp://{group}:{port}"
            sender.send(b"to all", target)
            assert one.recv(PATIENCE) == b"to all"
            assert two.recv(PATIENCE) == b"to all"
            two.leave(group, interface)
            sender.send(b"to one", target)
            assert one.recv(PATIENCE) == b"to one"
            assert isthmus.select(two, timeout=0) == []
            with pytest.raises(OSError, match=group):
                two.leave(group, interface)
            sender.multicast(loop=False, interface=interface)


def test_broadcast_only_when_asked() -> None:
    with isthmus.Datagram(at="udp://0.0.0.0:0") as here:
        assert here.address is not None
        target = f"udp://127.255.255.255:{here.address.rpartition(':')[2]}"
        with (
            isthmus.Datagram(at="udp://127.0.0.1:0") as shy,
            pytest.raises(isthmus.Denied, match="broadcast=True"),
        ):
            shy.send(b"x", target)
        with isthmus.Datagram(at="udp://127.0.0.1:0", broadcast=True) as sender:
            sender.send(b"to all", target)
            assert here.recv(PATIENCE) == b"to all"


# ---- users


@pytest.mark.root
def test_pickle_of_another_user_is_not_given_out() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be another user")
    name = f"unix://@isthmus-test-d{os.getpid()}"
    with isthmus.Datagram(at=name, type=object) as here:
        run_python(
            """
            import os, sys, isthmus
            with isthmus.Datagram(sys.argv[1], type=object) as there:
                there.send({1, 2})
                os.setgid(65534)
                os.setuid(65534)
                there.send("evil")
            """,
            name,
        )
        assert here.recv(PATIENCE) == {1, 2}
        with pytest.raises(isthmus.Empty):
            here.recv(0.05)
        assert here.stats().denied == 1


def test_users_who_are_not_listed_are_not_heard(tmp_path: Path) -> None:
    other = 65534 if os.geteuid() != 65534 else 1
    with (
        isthmus.Datagram(at=tmp_path / "d", users=[other]) as here,
        isthmus.Datagram(tmp_path / "d") as there,
    ):
        there.send(b"x")
        with pytest.raises(isthmus.Empty):
            here.recv(0)
        assert here.stats().denied == 1
    with isthmus.Datagram(at=tmp_path / "d", users=[os.geteuid()]) as here, to(here) as there:
        there.send(b"x")
        assert here.recv(PATIENCE) == b"x"


def test_pickle_over_udp_is_refused() -> None:
    with pytest.raises(isthmus.Unsupported, match="pickle"):
        isthmus.Datagram(at="udp://127.0.0.1:0", type=object)


# ---- others


def test_socat_and_pythons_socket_over_udp() -> None:
    with isthmus.Datagram(at="udp://127.0.0.1:0") as here:
        assert here.address is not None
        host, _, port = here.address.removeprefix("udp://").rpartition(":")
        subprocess.run(
            [require("socat"), "-u", "-", f"UDP4-SENDTO:{host}:{port}"], input=b"socat", check=True
        )
        assert here.recv(PATIENCE) == b"socat"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.sendto(b"socket", (host, int(port)))
            received = here.recv_from(PATIENCE)
            here.send(b"isthmus", received.sender)
            assert (received.message, sock.recv(100)) == (b"socket", b"isthmus")


def test_pythons_socket_over_unix(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "s"))
        with isthmus.Datagram(tmp_path / "s", at=tmp_path / "d") as here:
            here.send(b"isthmus")
            message, sender = sock.recvfrom(100)
            sock.sendto(b"socket", sender)
            assert (message, here.recv(PATIENCE)) == (b"isthmus", b"socket")


def test_it_can_be_waited_for(receiver: Callable[..., isthmus.Datagram[Any]]) -> None:
    here = receiver()
    with to(here) as there:
        assert isthmus.select(here, timeout=0) == []
        there.send(b"x")
        assert isthmus.select(here, timeout=PATIENCE) == [here]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ValueError),
        ({"at": "tcp://127.0.0.1:0"}, ValueError),
        ({"to": "unix:///a", "at": "udp://127.0.0.1:0"}, ValueError),
        ({"at": "unix:///a", "share": True}, isthmus.Unsupported),
        ({"at": "unix:///a", "broadcast": True}, isthmus.Unsupported),
        ({"at": "udp://127.0.0.1:0", "limit": 0}, ValueError),
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        isthmus.Datagram(**arguments)


def test_wrong_calls(tmp_path: Path) -> None:
    with isthmus.Datagram(at=tmp_path / "d") as here:
        with pytest.raises(ValueError, match="to whom"):
            here.send(b"x")
        with pytest.raises(isthmus.Unsupported, match="multicast"):
            here.join("239.1.2.3")
        with pytest.raises(ValueError, match="something else"):
            here.send(b"x", "udp://127.0.0.1:1")
        wait_until(lambda: not here.closed, "an open socket")
    with isthmus.Datagram(at="udp://127.0.0.1:0") as here:
        with pytest.raises(ValueError, match="IPv6"):
            here.send(b"x", "udp://[::1]:1")
        with pytest.raises(ValueError, match="hops=256"):
            here.multicast(hops=256)
