"""The web server, the chat and the file transfer in `examples/`, as users use them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sockets import Certificates, certificates, require
from support import PATIENCE, Hang, wait_until

__all__ = ["certificates"]

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 4


class Program:
    """One of the examples, running; its output is lines."""

    def __init__(self, name: str, *arguments: object, cwd: Path, key: str = KEY) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(ROOT / "examples" / name), *map(str, arguments)],
            env={**os.environ, "TRANSFER_KEY": key},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._buffer = b""

    def line(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(PATIENCE):
                    raise Hang(f"no line in {PATIENCE} s; has {self._buffer!r}")
                part = os.read(self.process.stdout.fileno(), 65536)
                assert part, f"it ended: {self._buffer!r}"
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def end(self, *, interrupt: bool = False) -> tuple[int, str]:
        if interrupt:
            self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, (self._buffer + out).decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    running: list[Program] = []

    def begin(name: str, *arguments: object, cwd: Path = tmp_path, key: str = KEY) -> Program:
        running.append(Program(name, *arguments, cwd=cwd, key=key))
        return running[-1]

    yield begin
    for program in running:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait(PATIENCE)
        for file in (program.process.stdin, program.process.stdout):
            if file is not None:
                with contextlib.suppress(BrokenPipeError):
                    file.close()


def curl(*arguments: object) -> str:
    done = subprocess.run(
        [require("curl"), "--silent", "--show-error", "--max-time", "30", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_web_server_and_curl(start: Callable[..., Program], tmp_path: Path) -> None:
    server = start("web_server.py", "tcp://127.0.0.1:0")
    url = server.line().removeprefix("open ")
    assert "This is visit 1. You are tcp://127.0.0.1:" in curl(url)
    two = curl(url, url)  # over one connection
    assert "visit 2" in two
    assert "visit 3" in two
    (tmp_path / "upload").write_bytes(b"x" * 3_000_000)
    assert curl("--data-binary", f"@{tmp_path}/upload", url) == "3000000 bytes came.\n"
    assert curl(f"{url}nothing") == "There is no /nothing here.\n"
    with urllib.request.urlopen(url) as answer:  # as a browser: keeps the connection until it is done
        assert b"visit 4" in answer.read()
    code, out = server.end(interrupt=True)
    assert code == 0
    assert out.count("GET / HTTP/1.1") == 4
    assert out.endswith("closing\n")


def browse(url: str, *options: str, home: Path) -> str:
    """What a browser shows."""
    done = subprocess.run(
        [require("w3m"), "-o", "use_proxy=0", *options, "-dump", url],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": str(home)}, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_the_web_server_and_a_browser(start: Callable[..., Program], host: str, tmp_path: Path) -> None:
    server = start("web_server.py", f"tcp://{host}:0")
    url = server.line().removeprefix("open ")
    for visit in (1, 2):
        page = browse(url, home=tmp_path)
        assert page.startswith(f"Hello from isthmus This is visit {visit}. You are tcp://{host}:")
    assert browse(f"{url}nothing", home=tmp_path) == "There is no /nothing here."


def test_the_web_server_and_a_browser_over_tls(
    start: Callable[..., Program], tmp_path: Path, certificates: Certificates
) -> None:
    server = start("web_server.py", "tcp://127.0.0.1:0", certificates.server)
    url = server.line().removeprefix("open ").replace("127.0.0.1", "localhost")
    trusted = ("-o", f"ssl_ca_file={certificates.authority}")
    assert "This is visit 1" in browse(url, *trusted, home=tmp_path)


def test_the_web_server_over_tls_and_a_unix_socket(
    start: Callable[..., Program], tmp_path: Path, certificates: Certificates
) -> None:
    server = start("web_server.py", "tcp://127.0.0.1:0", certificates.server)
    url = server.line().removeprefix("open ")
    assert url.startswith("https://")
    assert "visit 1" in curl("--cacert", certificates.authority, url)
    local = start("web_server.py", f"unix://{tmp_path}/web.sock")
    local.line()
    assert "visit 1" in curl("--unix-socket", tmp_path / "web.sock", "http://localhost/")


def test_the_chat(start: Callable[..., Program], tmp_path: Path) -> None:
    room = start("chat.py", "serve")
    assert room.line() == "the room is at unix://./chat.sock"
    anna = start("chat.py", "join", "anna")
    assert room.line() == "anna comes in"
    ben = start("chat.py", "join", "ben")
    assert room.line() == "ben comes in"
    assert anna.line() == "ben comes in"
    anna.say("hello ben")
    assert ben.line() == "anna: hello ben"
    ben.say("good day")
    assert anna.line() == "ben: good day"
    double = start("chat.py", "join", "anna")
    assert double.line() == "the room: anna is taken"
    ben.process.kill()
    assert room.line() == "ben is gone (PeerDied)"
    assert anna.line() == "ben leaves"
    code, _ = anna.end()
    assert code == 0
    assert room.line() == "anna leaves"
    assert room.end(interrupt=True)[0] == 0
    wait_until(lambda: not (tmp_path / "chat.sock").exists(), "the socket to be gone")


def test_the_file_transfer(start: Callable[..., Program], tmp_path: Path) -> None:
    folder = tmp_path / "served"
    here = tmp_path / "here"
    for each in (folder, here):
        each.mkdir()
    server = start("file_transfer.py", "serve", folder, "tcp://127.0.0.1:0")
    address = server.line().rpartition(" ")[2]
    data = os.urandom(5_000_000)
    (here / "large").write_bytes(data)
    assert start("file_transfer.py", "put", here / "large", address).end() == (0, "large: 5000000 bytes\n")
    assert (folder / "large").read_bytes() == data
    (here / "large").unlink()
    assert start("file_transfer.py", "get", "large", address, cwd=here).end() == (0, "large: 5000000 bytes\n")
    assert (here / "large").read_bytes() == data
    assert start("file_transfer.py", "get", "../here/large2", address, cwd=here).end() == (
        1, "there is no large2\n",
    )  # fmt: skip
    code, out = start("file_transfer.py", "get", "large", address, cwd=here, key="f" * 64).end()
    assert code == 1
    assert "the keys differ" in out
    assert sorted(entry.name for entry in folder.iterdir()) == ["large"]
    assert server.end(interrupt=True)[0] == 0
