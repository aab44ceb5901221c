"""`Listener`: who is let in, by user, type, key and certificate, and who is not."""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from sockets import (
    KEY,
    MAGIC,
    Accepting,
    Certificates,
    accepting,
    address,
    certificates,
    connected,
    ends,
    hello,
    kind,
    plain,
    require,
)
from support import PATIENCE, Peer, run_python

__all__ = ["accepting", "address", "certificates", "connected", "kind"]


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
    server = accepting(address, key=KEY, type=bytes, opening_timeout=1.5)
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
