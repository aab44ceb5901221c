"""What tests of sockets share: pairs of every kind, a server, certificates."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import isthmus
from support import PATIENCE, wait_until

_numbers = itertools.count(1)

Connected = Callable[..., tuple["isthmus.Stream[Any]", "isthmus.Stream[Any]"]]
KINDS = ["unix", "abstract", "tcp", "tcp6", "tls"]
KEY = b"0123456789abcdef0123456789abcdef"
MAGIC = b"\x89ISTHMUS"


class Certificates(NamedTuple):
    """Files in PEM: an authority, certificates signed by it, and one that signs itself."""

    authority: Path
    server: Path
    client: Path
    stranger: Path

    @property
    def listening(self) -> isthmus.Tls:
        """For a server that asks for nothing."""
        return isthmus.Tls(self.server)

    @property
    def mutual(self) -> isthmus.Tls:
        """For a server that asks for a certificate."""
        return isthmus.Tls(self.server, authority=self.authority)

    @property
    def connecting(self) -> isthmus.Tls:
        """For a client that shows its certificate."""
        return isthmus.Tls(self.client, authority=self.authority)

    @property
    def trusting(self) -> isthmus.Tls:
        """For a client that shows nothing."""
        return isthmus.Tls(authority=self.authority)


def require(tool: str) -> str:
    """The path of a program that the tests need; a clear failure where it is missing."""
    found = shutil.which(tool)
    assert found, f"the tests need {tool}: apt-get install socat netcat-openbsd openssl curl w3m iproute2"
    return found


def _openssl(*arguments: object) -> None:
    subprocess.run([require("openssl"), *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once: 127.0.0.1, ::1 and localhost."""
    folder = tmp_path_factory.mktemp("certificates")
    request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost"
    authority = folder / "authority.pem"
    key = folder / "authority.key"
    _openssl(*request, "-keyout", key, "-out", authority, "-subj", "/CN=tests")
    made = []
    for name in ("server", "client"):
        file = folder / f"{name}.pem"
        _openssl(
            *request, "-CA", authority, "-CAkey", key, "-keyout", folder / "key", "-out", file,
            "-subj", f"/CN={name}", "-addext", names, "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
        file.write_bytes(file.read_bytes() + (folder / "key").read_bytes())
        made.append(file)
    stranger = folder / "stranger.pem"
    _openssl(*request, "-keyout", folder / "key", "-out", stranger, "-subj", "/CN=stranger", "-addext", names)
    stranger.write_bytes(stranger.read_bytes() + (folder / "key").read_bytes())
    return Certificates(authority, made[0], made[1], stranger)


def loose(
    kind: str, folder: Path, certificates: Certificates, **options: Any
) -> tuple[isthmus.Stream[Any], isthmus.Stream[Any]]:
    """Two ends of a stream: who connected and who accepted. `kind` is unix, abstract, tcp, tcp6 or tls."""
    address = {
        "unix": f"unix://{folder}/{next(_numbers)}",
        "abstract": f"unix://@isthmus-test-{os.getpid()}-{next(_numbers)}",
        "tcp6": "tcp://[::1]:0",
    }.get(kind, "tcp://127.0.0.1:0")
    here = options | ({"tls": certificates.listening} if kind == "tls" else {})
    there = options | ({"tls": certificates.trusting} if kind == "tls" else {})
    with isthmus.Listener(address, **here) as listener:
        accepted: list[isthmus.Stream[Any]] = []
        server = threading.Thread(target=lambda: accepted.append(listener.accept(PATIENCE)))
        server.start()
        connected = isthmus.Stream(listener.address, timeout=PATIENCE, **there)
        server.join()
    return connected, accepted[0]


class Echo:
    """A server that sends back what comes, a thread for each client."""

    def __init__(self, listener: isthmus.Listener[Any]) -> None:
        self.listener = listener
        self.address = listener.address
        self.served = 0
        self.errors: list[Exception] = []
        self._threads: list[threading.Thread] = []
        self._server = threading.Thread(target=self._serve)
        self._server.start()

    def _serve(self) -> None:
        for stream in self.listener:
            thread = threading.Thread(target=self._echo, args=(stream,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _echo(self, stream: isthmus.Stream[Any]) -> None:
        with stream:
            try:
                for message in stream:
                    stream.send(message)
            except isthmus.IsthmusError as error:
                self.errors.append(error)
        self.served += 1

    def end(self) -> None:
        """Takes nobody any more, and waits for those inside."""
        self.listener.close()
        self._server.join(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not self._server.is_alive()


@contextlib.contextmanager
def echo_server(address: str, **options: Any) -> Iterator[Echo]:
    """An `Echo` at `address`."""
    with isthmus.Listener(address, **options) as listener:
        server = Echo(listener)
        try:
            yield server
        finally:
            server.end()


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
