"""`Listener`: where it listens, that nobody is kept waiting by anybody else, and several processes."""

from __future__ import annotations

import array
import gc
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from sockets import (
    MAGIC,
    Accepting,
    Certificates,
    accepting,
    address,
    certificates,
    connected,
    echo_server,
    ends,
    hello,
    kind,
    loose,
    plain,
)
from support import PATIENCE, Peer, wait_until

__all__ = ["accepting", "address", "certificates", "connected", "kind"]


# ---- addresses


def test_the_file_belongs_to_this_user_only_and_goes_with_the_listener(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with isthmus.Listener(path):
        found = path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    assert not path.exists()
    with isthmus.Listener(path, mode=0o666):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_where_somebody_listens_nobody_else_can(address: str) -> None:
    with isthmus.Listener(address) as first:
        with pytest.raises(OSError, match="listens there already") as caught:
            isthmus.Listener(first.address)
        assert caught.value.errno == 98
        assert first.address in str(caught.value)


def test_the_place_of_a_killed_listener_is_taken(tmp_path: Path, spawn: Callable[..., Peer]) -> None:
    peer = spawn(
        """
        import sys, time, isthmus
        listener = isthmus.Listener(sys.argv[1])
        print("listens", flush=True)
        time.sleep(60)
        """,
        f"unix://{tmp_path}/s",
    )
    peer.expect("listens")
    with pytest.raises(OSError, match="listens there already"):
        isthmus.Listener(tmp_path / "s")
    peer.kill()
    with echo_server(f"unix://{tmp_path}/s") as server, isthmus.Stream(server.address) as stream:
        stream.send("hello")
        assert stream.recv(PATIENCE) == "hello"


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(FileExistsError, match="no socket"):
        isthmus.Listener(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"
    with pytest.raises(FileNotFoundError):
        isthmus.Listener(tmp_path / "nowhere" / "s")


def test_a_file_that_another_has_put_there_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = isthmus.Listener(path)
    path.rename(tmp_path / "old")
    path.write_text("of another")
    listener.close()
    assert path.read_text() == "of another"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_every_interface_takes_both_protocols(accepting: Callable[..., Accepting], host: str) -> None:
    server = accepting("tcp://*:0")
    with isthmus.Stream(f"tcp://{host}:{server.listener.port}") as stream, server.one() as other:
        stream.send(host)
        assert other.recv(PATIENCE) == host
        assert other.peer.startswith("tcp://127.0.0.1:" if host == "127.0.0.1" else "tcp://")


def test_a_closed_listener_says_so_and_wakes_who_waits(address: str) -> None:
    listener = isthmus.Listener(address)
    with pytest.raises(isthmus.Empty, match=r"nobody connected in 0\.01 s"):
        listener.accept(0.01)
    ended: list[str] = []

    def wait() -> None:
        try:
            listener.accept()
        except isthmus.ClosedError:
            ended.append("closed")

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    listener.close()
    listener.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert ended == ["closed"] * 2
    assert listener.closed
    assert listener.fileno() == -1
    assert "(closed)" in repr(listener)
    assert list(listener) == []
    with pytest.raises((isthmus.Refused, FileNotFoundError)):
        isthmus.Stream(listener.address)


# ---- clients that do not behave


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x00",
        b"\x89ISTHMUT",
        os.urandom(4096),
    ],
    ids=["http", "tls", "null", "nearly", "random"],
)
def test_garbage_is_told_what_this_is_and_ended_at_once(
    accepting: Callable[..., Accepting], address: str, garbage: bytes
) -> None:
    server = accepting(address)
    with plain(server.address) as sock:
        sock.sendall(garbage)
        said = ends(sock)
        assert said == b"" or b"this is an isthmus stream" in said
    server.until(incompatible=1, accepted=0, opening=0)


def test_another_version_is_told(accepting: Callable[..., Accepting], address: str) -> None:
    server = accepting(address)
    with plain(server.address) as sock:
        sock.sendall(MAGIC + bytes([9, 1]) + bytes(118))
        assert b"version 1" in ends(sock)
    server.until(incompatible=1)


def test_a_silent_client_is_ended_and_keeps_nobody_waiting(
    accepting: Callable[..., Accepting], address: str
) -> None:
    server = accepting(address, opening_timeout=2)
    silent = [plain(server.address) for _ in range(20)]
    silent[0].sendall(hello()[:100])
    with isthmus.Stream(server.address) as stream, server.one() as other:
        stream.send("hello")
        assert other.recv(PATIENCE) == "hello"
        assert server.listener.stats().opening <= 20
        for sock in silent:
            assert b"took too long" in ends(sock)
            sock.close()
    server.until(timed_out=20, accepted=1, opening=0)


def test_of_too_many_openings_the_oldest_ends(accepting: Callable[..., Accepting], address: str) -> None:
    server = accepting(address, most_opening=10)
    silent = [plain(server.address) for _ in range(15)]
    with isthmus.Stream(server.address) as stream, server.one():
        stream.send("came in")
    # Five were too many, and perhaps one more while the last one was let in.
    wait_until(lambda: server.listener.stats().timed_out >= 5, "the oldest to end")
    assert 9 <= server.listener.stats().opening <= 10
    for sock in silent[:5]:
        assert b"took too long" in ends(sock)
    for sock in silent:
        sock.close()
    server.until(opening=0)


def test_one_that_sends_too_much_or_garbage_later_harms_no_other(
    accepting: Callable[..., Accepting], address: str
) -> None:
    server = accepting(address, type=bytes, limit=1000)
    good = isthmus.Stream(server.address, type=bytes)
    kept = server.one()
    for bad, error in (
        ((1001).to_bytes(4, "little"), isthmus.TooLarge),
        (b"\xf5\xff\xff\xff", isthmus.CorruptError),
        (b"\x05\0\0\0ab", isthmus.PeerDied),
    ):
        with plain(server.address) as sock:
            sock.sendall(hello())
            assert len(sock.recv(128, socket.MSG_WAITALL)) == 128
            with server.one() as stream:
                sock.sendall(bad)
                sock.shutdown(socket.SHUT_WR)
                with pytest.raises(error):
                    stream.recv(PATIENCE)
                good.send(b"still here")
                assert kept.recv(PATIENCE) == b"still here"
    good.close()
    kept.close()


def test_fuzzed_frames_end_clearly_or_are_messages(
    accepting: Callable[..., Accepting], tmp_path: Path
) -> None:
    import random

    server = accepting(f"unix://{tmp_path}/s", type=bytes, limit=5000)
    chance = random.Random(20261121)
    for _ in range(150):
        with plain(server.address) as sock:
            sock.sendall(hello())
            sock.recv(128, socket.MSG_WAITALL)
            frames = [chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(5))]
            wire = bytearray(b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames))
            for _ in range(chance.randrange(4)):
                if wire:
                    wire[chance.randrange(len(wire))] = chance.choice(
                        [0, 1, 0x7F, 0xFF, chance.randrange(256)]
                    )
            sock.sendall(wire)
        with server.one() as stream:
            size = 0
            while True:
                try:
                    size += 4 + len(stream.recv(PATIENCE))
                except (isthmus.TooLarge, isthmus.CorruptError, isthmus.PeerDied, isthmus.ShutDown):
                    break
                except isthmus.Unsupported:  # a file was announced
                    break
            assert size <= len(wire)


def test_no_descriptor_left_is_survived(tmp_path: Path, spawn: Callable[..., Peer]) -> None:
    peer = spawn(
        """
        import resource, sys, threading, isthmus
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        listener = isthmus.Listener(sys.argv[1])
        print("listens", flush=True)
        streams = []
        def accept():
            for stream in listener:
                streams.append(stream)
        threading.Thread(target=accept, daemon=True).start()
        for line in sys.stdin:
            if line == "free\\n":
                while streams:
                    streams.pop().close()
            print(listener.stats().accepted, listener.stats().no_descriptors, flush=True)
        """,
        f"unix://{tmp_path}/s",
    )
    peer.expect("listens")
    inside: list[isthmus.Stream[Any]] = []

    def fill() -> None:
        while True:
            inside.append(isthmus.Stream(tmp_path / "s", timeout=PATIENCE))

    with pytest.raises(isthmus.Refused, match="no descriptor left, try again later"):
        fill()
    assert 30 < len(inside) < 64
    for _ in range(10):
        with pytest.raises(isthmus.Refused):
            isthmus.Stream(tmp_path / "s", timeout=PATIENCE)
    for stream in inside:
        stream.send("still served")
    peer.send("free")
    assert peer.line().split()[0] == str(len(inside))
    with isthmus.Stream(tmp_path / "s", timeout=PATIENCE, retry=True) as stream:
        stream.send("back again")
    for stream in inside:
        stream.close()


def test_an_accept_storm(accepting: Callable[..., Accepting], address: str) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(600, (soft - 200) // 2)
    server = accepting(address)
    clients: list[isthmus.Stream[Any]] = []

    def storm() -> None:
        for _ in range(count // 4):
            clients.append(isthmus.Stream(server.address, timeout=PATIENCE))  # noqa: PERF401

    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    server.until(accepted=count // 4 * 4)
    for number, client in enumerate(clients):
        client.send(number)
    assert sorted(stream.recv(PATIENCE) for stream in server.streams) == list(range(len(clients)))
    for client in clients:
        client.close()


# ---- descriptors


def test_descriptors_come_with_their_message(accepting: Callable[..., Accepting], tmp_path: Path) -> None:
    server = accepting(f"unix://{tmp_path}/s", descriptors=3)
    with isthmus.Stream(server.address, descriptors=2) as stream, server.one() as other:
        file = (tmp_path / "file").open("w+b")
        with file:
            stream.send("before")
            stream.send({"name": "file"}, descriptors=[file])
            stream.send("between")
            stream.send("three", descriptors=[0, 1, file.fileno()])
        assert other.recv(PATIENCE) == "before"
        message, found = other.recv_with_descriptors(PATIENCE)
        assert message == {"name": "file"}
        (descriptor,) = found
        assert os.get_inheritable(descriptor) is False
        os.write(descriptor, b"written by the receiver")
        os.close(descriptor)
        assert (tmp_path / "file").read_bytes() == b"written by the receiver"
        assert other.recv_with_descriptors(PATIENCE) == ("between", [])
        message, found = other.recv_with_descriptors(PATIENCE)
        assert (message, len(found)) == ("three", 3)
        for descriptor in found:
            os.close(descriptor)
        with pytest.raises(isthmus.Unsupported, match="takes 2 descriptors"):
            other.send("too many", descriptors=[0, 1, 2])
        with pytest.raises(isthmus.Unsupported, match="takes 3 descriptors"):
            stream.send("too many", descriptors=[0, 1, 2, 0])
        large = b"x" * 1_000_000
        sender = threading.Thread(target=lambda: stream.send(large, descriptors=[0]))
        sender.start()
        message, found = other.recv_with_descriptors(PATIENCE)
        sender.join()
        assert message == large
        os.close(found[0])


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_that_nobody_takes_are_closed(
    accepting: Callable[..., Accepting], tmp_path: Path
) -> None:
    server = accepting(f"unix://{tmp_path}/s", descriptors=2)
    with isthmus.Stream(server.address, descriptors=2) as stream, server.one() as other:
        gc.collect()  # what earlier tests have left
        before = open_descriptors()
        for number in range(5):
            stream.send(number, descriptors=[0, 1])
            assert other.recv(PATIENCE) == number
        assert open_descriptors() == before
        for number in range(3):
            stream.send(number, descriptors=[0, 1])
        assert other.poll(PATIENCE)
        other.close()
        stream.close()
    wait_until(lambda: open_descriptors() == before - 2, "all descriptors to be closed")


def test_more_descriptors_than_agreed_end_the_stream_and_stay_closed(
    accepting: Callable[..., Accepting], tmp_path: Path
) -> None:
    server = accepting(f"unix://{tmp_path}/s", type=bytes, descriptors=2)
    for count in (1, 5):
        with plain(server.address) as sock:
            sock.sendall(hello())
            sock.recv(128, socket.MSG_WAITALL)
            with server.one() as stream:
                gc.collect()  # what earlier tests have left
                before = open_descriptors()
                rights = array.array("i", [0] * count).tobytes()
                for _ in range(3):
                    sock.sendmsg([b"\x01\0\0\0x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                with pytest.raises(isthmus.TooLarge, match="descriptors"):
                    list(stream)
                assert open_descriptors() == before


def test_descriptors_that_were_not_asked_for_never_arrive(
    accepting: Callable[..., Accepting], tmp_path: Path
) -> None:
    server = accepting(f"unix://{tmp_path}/s", type=bytes)
    with plain(server.address) as sock:
        sock.sendall(hello())
        sock.recv(128, socket.MSG_WAITALL)
        with server.one() as stream:
            gc.collect()  # what earlier tests have left
            before = open_descriptors()
            rights = array.array("i", [0] * 5).tobytes()
            sock.sendmsg([b"\x01\0\0\0x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            assert stream.recv(PATIENCE) == b"x"
            assert open_descriptors() == before


# ---- several processes


def test_workers_share_a_port(spawn: Callable[..., Peer]) -> None:
    worker = """
        import os, sys, isthmus
        with isthmus.Listener(sys.argv[1], reuse_port=True) as listener:
            print(listener.address, flush=True)
            for stream in listener:
                with stream:
                    stream.send(os.getpid())
        """
    first = spawn(worker, "tcp://127.0.0.1:0")
    address = first.line()
    second = spawn(worker, address)
    assert second.line() == address
    seen: set[int] = set()
    for _ in range(200):
        with isthmus.Stream(address) as stream:
            seen.add(stream.recv(PATIENCE))
        if len(seen) == 2:
            break
    assert seen == {first.pid, second.pid}
    first.kill()
    with isthmus.Stream(address) as stream:
        assert stream.recv(PATIENCE) == second.pid


def test_forked_workers_share_a_listener(address: str) -> None:
    with isthmus.Listener(address) as listener:
        pids = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                try:
                    for _ in range(5):
                        with listener.accept(PATIENCE) as stream:
                            stream.send(os.getpid())
                    listener.close()
                finally:
                    os._exit(0)
            pids.append(pid)
        seen = []
        for _ in range(10):
            with isthmus.Stream(listener.address) as stream:
                seen.append(stream.recv(PATIENCE))
        assert sorted(seen) == sorted(pids * 5)
        for pid in pids:
            os.waitpid(pid, 0)
        if address.startswith("unix"):
            assert Path(address.removeprefix("unix://")).exists()


def test_sockets_that_systemd_opened(tmp_path: Path) -> None:
    """As `systemd-socket-activate` does it: descriptors from 3 on, and three variables."""
    code = """
        import os, sys
        if "LISTEN_FDS" not in os.environ:
            os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:jobs"}
            os.execv(sys.executable, [sys.executable, "-W", "error", "-c", sys.argv[1]])
        """
    inner = """
import isthmus
for which in (2, "mail"):
    try:
        isthmus.Listener.inherited(which)
    except LookupError as error:
        print(error)
with isthmus.Listener.inherited("jobs") as listener:
    print(listener.address, flush=True)
    with listener.accept() as stream:
        stream.send("inherited")
"""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        for sock, name in ((one, "web"), (two, "jobs")):
            sock.bind(str(tmp_path / name))
            sock.listen()

        def place() -> None:
            high = [os.dup2(sock.fileno(), 100 + number) for number, sock in enumerate((one, two))]
            for number, descriptor in enumerate(high):
                os.dup2(descriptor, 3 + number)

        child = subprocess.Popen(
            [sys.executable, "-c", "\n".join(line[8:] for line in code.splitlines()), inner],
            stdout=subprocess.PIPE, preexec_fn=place, close_fds=False, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "inherited socket 2 of 2 does not exist; they count from 0\n"
        assert "no inherited socket is called 'mail'" in child.stdout.readline()
        assert child.stdout.readline() == f"unix://{tmp_path}/jobs\n"
        with isthmus.Stream(tmp_path / "jobs") as stream:
            assert stream.recv(PATIENCE) == "inherited"
        child.stdout.close()
        assert child.wait(PATIENCE) == 0
    assert (tmp_path / "jobs").exists()


def test_nothing_inherited_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    with pytest.raises(LookupError, match="LISTEN_PID"):
        isthmus.Listener.inherited()
    with socket.socket() as sock, pytest.raises(ValueError, match="does not listen"):
        isthmus.Listener.from_socket(sock)


def test_streams_of_sockets_that_others_connected(certificates: Certificates) -> None:
    one, two = socket.socketpair()
    made: list[isthmus.Stream[Any]] = []
    other = threading.Thread(
        target=lambda: made.append(isthmus.Stream.from_socket(two, accepted=True, type=int))
    )
    other.start()
    with isthmus.Stream.from_socket(one, accepted=False, type=int) as stream:
        other.join(PATIENCE)
        with made[0]:
            stream.send(5)
            assert made[0].recv(PATIENCE) == 5


def test_a_listener_can_be_waited_for(accepting: Callable[..., Accepting], tmp_path: Path) -> None:
    with isthmus.Listener(tmp_path / "s", framing="raw") as listener:
        assert isthmus.select(listener, timeout=0) == []
        with plain(listener.address) as sock:
            assert isthmus.select(listener, timeout=PATIENCE) == [listener]
            with listener.accept(0) as stream:
                sock.sendall(b"x")
                assert isthmus.select(stream, timeout=PATIENCE) == [stream]


def test_wrong_options(tmp_path: Path, certificates: Certificates) -> None:
    for options, error in (
        ({"reuse_port": True}, isthmus.Unsupported),
        ({"opening_timeout": -1}, ValueError),
        ({"most_opening": 0}, ValueError),
        ({"tls": certificates.listening}, isthmus.Unsupported),
    ):
        with pytest.raises(error):
            isthmus.Listener(tmp_path / "s", **options)
        assert not (tmp_path / "s").exists()
    with pytest.raises(ValueError, match="certificate"):
        isthmus.Listener("tcp://127.0.0.1:0", tls=certificates.trusting)
    with pytest.raises(ValueError, match="private key"):
        isthmus.Tls(key="x.pem")
    assert "server.pem" in repr(certificates.listening)


def test_a_hung_server_is_told_from_a_missing_one(tmp_path: Path, certificates: Certificates) -> None:
    with isthmus.Listener(tmp_path / "s"):  # nobody calls accept
        with pytest.raises(isthmus.Timeout, match=r"not done in 0\.05 s"):
            isthmus.Stream(tmp_path / "s", timeout=0.05)
    one, other = loose("unix", tmp_path, certificates)
    with one, other, pytest.raises(isthmus.Empty):
        one.recv(0.01)
