"""What tests of sockets share: pairs of every kind, a server, certificates."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import isthmus
from support import PATIENCE

_numbers = itertools.count(1)


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
    assert found, f"the tests need {tool}: apt-get install socat netcat-openbsd openssl curl iproute2"
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
        "abstract": f"unix://@isthmus-test-{folder.name}-{next(_numbers)}",
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
