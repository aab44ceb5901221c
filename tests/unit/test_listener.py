"""`Listener`: who is let in and who is not, and that nobody is kept waiting by anybody else."""

from __future__ import annotations

import array
import hmac
import os
import resource
import secrets
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from sockets import Certificates, certificates, echo_server, loose, require
from support import PATIENCE, Peer, run_python, wait_until

__all__ = ["certificates"]

KEY = b"0123456789abcdef0123456789abcdef"
MAGIC = b"\x89ISTHMUS"


class Accepting:
    """A listener whose streams are taken in the background."""

    def __init__(self, address: str, **options: Any) -> None:
        self.listener = isthmus.Listener(address, **options)
        self.address = self.listener.address
        self.streams: list[isthmus.Stream[Any]] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        for stream in self.listener:
            self.streams.append(stream)

    def one(self) -> isthmus.Stream[Any]:
        """The next stream that came in."""
        wait_until(lambda: self.streams, "a client")
        return self.streams.pop(0)

    def until(self, **counts: int) -> None:
        """Waits until `stats()` says so."""
        wait_until(
            lambda: all(getattr(self.listener.stats(), name) == count for name, count in counts.items()),
            f"{counts}, not {self.listener.stats()}",
        )

    def end(self) -> None:
        """Ends all of it."""
        self.listener.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        for stream in self.streams:
            stream.close()


@pytest.fixture
def accepting() -> Iterator[Callable[..., Accepting]]:
    made: list[Accepting] = []

    def start(address: str, **options: Any) -> Accepting:
        made.append(Accepting(address, **options))
        return made[-1]

    yield start
    for each in made:
        each.end()


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix://{tmp_path}/s" if request.param == "unix" else "tcp://127.0.0.1:0"


def plain(address: str) -> socket.socket:
    """A socket of Python's own, connected to a listener."""
    if address.startswith("unix://"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address.removeprefix("unix://"))
        return sock
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)))


def ends(sock: socket.socket) -> bytes:
    """Everything that comes until the other side ends the connection."""
    sock.settimeout(PATIENCE)
    got = b""
    try:
        while part := sock.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got


def hello(
    role: int = 0, key: int = 0, fingerprint: int = 0, limit: int = 1000, nonce: bytes = b"n" * 32
) -> bytes:
    """The record, built here from the description alone."""
    head = MAGIC + bytes([1, 1, role, key]) + (0).to_bytes(4, "little") + fingerprint.to_bytes(8, "little")
    return head + limit.to_bytes(8, "little") + b"bytes".ljust(56, b"\0") + bytes(8) + nonce


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


# ---- types and users


def test_another_type_is_refused_and_both_are_told(accepting: Callable[..., Accepting], address: str) -> None:
    server = accepting(address, type=dict[str, int])
    with pytest.raises(isthmus.IncompatibleError, match=r"refused: messages here have type dict\[str, int\]"):
        isthmus.Stream(server.address, type=list[int])
    server.until(incompatible=1, accepted=0)
    with isthmus.Stream(server.address, type=dict[str, int]) as stream, server.one() as other:
        stream.send({"a": 1})
        assert other.recv(PATIENCE) == {"a": 1}


def test_pickle_for_this_user_only(accepting: Callable[..., Accepting], tmp_path: Path) -> None:
    server = accepting(f"unix://{tmp_path}/s", type=object)
    with isthmus.Stream(server.address, type=object) as stream, server.one() as other:
        stream.send({1, 2, (3, 4)})
        assert other.recv(PATIENCE) == {1, 2, (3, 4)}
    with pytest.raises(isthmus.Unsupported, match="pickle"):
        isthmus.Listener("tcp://127.0.0.1:0", type=object)


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "wanted"), [({}, "Denied"), ({"users": [65534]}, ""), ({"users": "any"}, "")]
)
def test_other_users_come_in_only_when_they_are_listed(
    accepting: Callable[..., Accepting], tmp_path: Path, options: dict[str, Any], wanted: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be another user")
    server = accepting(f"unix://@isthmus-test-{secrets.token_hex(8)}", **options)
    out = run_python(
        """
        import os, sys, isthmus
        isthmus.Listener
        for kind in (None, object):  # imports all that this user may not read
            one, other = isthmus.Stream.pair(type=kind)
            with one, other:
                one.send("x")
                other.recv()
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            with isthmus.Stream(sys.argv[1]) as stream:
                stream.send("in")
        except isthmus.IsthmusError as error:
            print(type(error).__name__, error)
        """,
        server.address,
    )
    if wanted:
        assert out.startswith("Denied")
        assert "refused: your user is not allowed here" in out
        server.until(denied=1, accepted=0)
    else:
        assert out == ""
        with server.one() as stream:
            assert stream.recv(PATIENCE) == "in"


@pytest.mark.root
def test_who_listens_in_the_place_of_another_is_not_trusted(
    tmp_path: Path, spawn: Callable[..., Peer]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be another user")
    name = f"unix://@isthmus-test-{secrets.token_hex(8)}"
    spawn(
        """
        import os, sys, isthmus
        isthmus.Listener
        for kind in (None, object):  # imports all that this user may not read
            one, other = isthmus.Stream.pair(type=kind)
            with one, other:
                one.send("x")
                other.recv()
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with isthmus.Listener(sys.argv[1], users="any") as listener:
            print("listens", flush=True)
            for stream in listener:
                pass
        """,
        name,
    ).expect("listens")
    with pytest.raises(isthmus.Denied, match="of user 65534; allowed here: 0"):
        isthmus.Stream(name)


@pytest.mark.root
def test_pickle_of_another_user_is_denied_whoever_is_listed(
    accepting: Callable[..., Accepting],
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be another user")
    server = accepting(f"unix://@isthmus-test-{secrets.token_hex(8)}", type=object, users="any")
    out = run_python(
        """
        import os, sys, isthmus
        isthmus.Listener
        for kind in (None, object):  # imports all that this user may not read
            one, other = isthmus.Stream.pair(type=kind)
            with one, other:
                one.send("x")
                other.recv()
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            isthmus.Stream(sys.argv[1], type=object, users="any")
        except isthmus.Denied as error:
            print(error)
        """,
        server.address,
    )
    assert "pickle" in out
    server.until(denied=1, accepted=0)


# ---- a shared key


def test_both_sides_prove_the_key(accepting: Callable[..., Accepting], address: str) -> None:
    server = accepting(address, key=KEY)
    with isthmus.Stream(server.address, key=KEY.decode()) as stream, server.one() as other:
        stream.send("secret")
        assert other.recv(PATIENCE) == "secret"
    with pytest.raises(isthmus.Denied, match="refused: the keys differ"):
        isthmus.Stream(server.address, key=KEY[::-1])
    with pytest.raises(isthmus.Denied, match="refused: a shared key is needed here"):
        isthmus.Stream(server.address)
    server.until(denied=2, accepted=1)
    open_to_all = accepting("tcp://127.0.0.1:0")
    with pytest.raises(isthmus.Denied, match="refused: no shared key is used here"):
        isthmus.Stream(open_to_all.address, key=KEY)


def test_an_old_proof_proves_nothing(accepting: Callable[..., Accepting], address: str) -> None:
    """Somebody has recorded a client, and plays the record."""
    server = accepting(address, key=KEY, type=bytes)

    def prove(mine: bytes, theirs: bytes) -> bytes:
        digest = hmac.digest(KEY, b"isthmus stream 1, proof of who connected" + mine + theirs, "sha256")
        return MAGIC + bytes([1, 2]) + bytes(86) + digest

    mine = hello(key=1)
    with plain(server.address) as sock:
        sock.sendall(mine)
        theirs = sock.recv(128, socket.MSG_WAITALL)
        old = prove(mine, theirs)
        sock.sendall(old)
        answer = sock.recv(128, socket.MSG_WAITALL)
        assert answer[:10] == MAGIC + b"\x01\x02"
        wanted = hmac.digest(KEY, b"isthmus stream 1, proof of who accepted" + mine + theirs, "sha256")
        assert answer[96:] == wanted
        server.one().close()
    with plain(server.address) as sock:
        sock.sendall(mine)
        sock.recv(128, socket.MSG_WAITALL)
        sock.sendall(old)
        assert b"the keys differ" in ends(sock)
    server.until(denied=1, accepted=1)


def test_a_proof_sent_back_proves_nothing() -> None:
    """A server without the key answers with what the client itself has shown."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reflect() -> None:
            sock, _ = listening.accept()
            with sock:
                theirs = sock.recv(128, socket.MSG_WAITALL)
                sock.sendall(theirs[:10] + b"\x01" + theirs[11:])
                sock.sendall(sock.recv(128, socket.MSG_WAITALL))
                ends(sock)

        mirror = threading.Thread(target=reflect)
        mirror.start()
        with pytest.raises(isthmus.Denied, match="does not have the shared key"):
            isthmus.Stream(f"tcp://127.0.0.1:{listening.getsockname()[1]}", key=KEY)
        mirror.join()


def test_who_does_not_prove_first_gets_nothing_to_guess_with(
    accepting: Callable[..., Accepting], address: str
) -> None:
    server = accepting(address, key=KEY, type=bytes, opening_timeout=0.2)
    with plain(server.address) as sock:
        sock.sendall(hello(key=1))
        got = ends(sock)
    assert len(got) == 256
    assert got[9] == 1
    assert b"took too long" in got[128:]


# ---- TLS


def test_tls_checks_the_server(accepting: Callable[..., Accepting], certificates: Certificates) -> None:
    server = accepting("tcp://127.0.0.1:0", tls=certificates.listening)
    with pytest.raises(isthmus.Denied, match="certificate"):
        isthmus.Stream(server.address, tls=True)
    with pytest.raises(isthmus.Denied, match="certificate"):
        isthmus.Stream(server.address, tls=isthmus.Tls(authority=certificates.authority, server_name="other"))
    named = isthmus.Tls(authority=certificates.authority, server_name="localhost")
    with isthmus.Stream(server.address, tls=named) as stream, server.one() as other:
        stream.send(b"x" * 300_000)
        assert other.recv(PATIENCE) == b"x" * 300_000


def test_mutual_tls_checks_the_client(
    accepting: Callable[..., Accepting], certificates: Certificates
) -> None:
    server = accepting("tcp://127.0.0.1:0", tls=certificates.mutual)
    with isthmus.Stream(server.address, tls=certificates.connecting) as stream, server.one() as other:
        stream.send("hello")
        assert other.recv(PATIENCE) == "hello"
        assert other.certificate is not None
        assert other.certificate["subject"] == ((("commonName", "client"),),)
    for wrong in (
        certificates.trusting,
        isthmus.Tls(certificates.stranger, authority=certificates.authority),
    ):
        with pytest.raises((isthmus.Denied, isthmus.Refused)):
            isthmus.Stream(server.address, tls=wrong)
    server.until(denied=2, accepted=1)


def test_tls_and_no_tls_do_not_understand_each_other(
    accepting: Callable[..., Accepting], certificates: Certificates
) -> None:
    secure = accepting("tcp://127.0.0.1:0", tls=certificates.listening)
    with pytest.raises((isthmus.IncompatibleError, isthmus.Refused)):
        isthmus.Stream(secure.address, timeout=PATIENCE)
    insecure = accepting("tcp://127.0.0.1:0")
    with pytest.raises((isthmus.IncompatibleError, isthmus.Refused)):
        isthmus.Stream(insecure.address, tls=certificates.trusting, timeout=PATIENCE)
    for server in (secure, insecure):
        server.until(incompatible=1, accepted=0)


def test_key_and_tls_together(accepting: Callable[..., Accepting], certificates: Certificates) -> None:
    server = accepting("tcp://127.0.0.1:0", tls=certificates.listening, key=KEY)
    with isthmus.Stream(server.address, tls=certificates.trusting, key=KEY) as stream, server.one() as other:
        stream.send(1)
        assert other.recv(PATIENCE) == 1
    with pytest.raises(isthmus.Denied, match="keys differ"):
        isthmus.Stream(server.address, tls=certificates.trusting, key=KEY[::-1])


def test_openssl_as_a_client(accepting: Callable[..., Accepting], certificates: Certificates) -> None:
    server = accepting("tcp://127.0.0.1:0", tls=certificates.mutual, framing="lines")
    client = subprocess.Popen(
        [
            require("openssl"), "s_client", "-quiet", "-no_ign_eof", "-verify_return_error",
            "-CAfile", certificates.authority,
            "-cert", certificates.client, "-connect", server.address.removeprefix("tcp://"),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with client, server.one() as stream:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("hello\n")
        client.stdin.flush()
        assert stream.recv(PATIENCE) == "hello"
        stream.send("good day")
        assert client.stdout.readline() == "good day\n"
        client.stdin.close()
        with pytest.raises((isthmus.ShutDown, isthmus.PeerDied)):
            stream.recv(PATIENCE)
        client.kill()


def test_openssl_as_a_server(certificates: Certificates, spawn: Callable[..., Peer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            require("openssl"), "s_server", "-quiet", "-rev", "-accept", f"127.0.0.1:{port}",
            "-cert", certificates.server, "-key", certificates.server,
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with isthmus.Stream(
            f"tcp://127.0.0.1:{port}",
            tls=certificates.trusting,
            framing="lines",
            retry=True,
            timeout=PATIENCE,
        ) as stream:
            stream.send("was it a rat I saw")
            assert stream.recv(PATIENCE) == "was I tar a ti saw"
    finally:
        server.kill()
        server.wait()


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
    server = accepting(address, opening_timeout=0.5)
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
