"""What many tests share: unrelated processes, and waiting under a watchdog.

Tests never assert a maximum time. They wait for a condition, and only a wait without any progress fails.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

PATIENCE = 30.0
"""Seconds after which a wait in a test counts as a hang; generous, for a loaded machine."""

STALL = 3.0
"""Seconds without progress that count as a hang under load (the measure the design uses)."""

HEADER = 12288
"""Bytes of an object's file before what is its own: header and attachments."""

Value = TypeVar("Value")


BLINK = 1.0
"""Seconds that count as waiting between two looks of one who waits, at most: where the machine stood still,
and whoever is waited for with it, the rest of the patience is there when it goes on."""


class Hang(AssertionError):
    """Nothing moved for longer than a test allows."""


def wait_until(condition: Callable[[], Value], what: str, *, patience: float = PATIENCE) -> Value:
    """Polls until `condition()` is true and returns its value; `what` names it when it never is."""
    waited, looked = 0.0, time.monotonic()
    pause = 0.001
    while not (value := condition()):
        if waited > patience:
            raise Hang(f"waited {patience:g} s for: {what}")
        time.sleep(pause)
        waited, looked = waited + min(time.monotonic() - looked, BLINK), time.monotonic()
        pause = min(pause * 2, 0.05)
    return value


class Watchdog:
    """Fails when a measure of progress stands still: `dog.check(messages_so_far)`, called often."""

    def __init__(self, limit: float = STALL) -> None:
        self.limit = limit
        self._last: object = None
        self._stood = 0.0
        self._looked = time.monotonic()

    def check(self, progress: object) -> None:
        """Takes note of `progress`; raises `Hang` when it has not changed for `limit` seconds."""
        now = time.monotonic()
        self._stood += min(now - self._looked, BLINK)
        self._looked = now
        if progress != self._last:
            self._last, self._stood = progress, 0.0
        elif self._stood > self.limit:
            raise Hang(f"no progress for {self._stood:.1f} s, stuck at {progress!r}")


class Peer:
    """An unrelated Python process that runs `code`; its standard streams are lines of text.

    It inherits the environment (so the test's namespace) and nothing else: no fork of this process,
    no shared objects. Use the `spawn` fixture, which ends what a test leaves running.
    """

    def __init__(self, code: str, *args: object, executable: str = sys.executable) -> None:
        self.process = subprocess.Popen(
            [executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._buffer = b""

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def line(self, patience: float = PATIENCE) -> str:
        """The next line it prints, without the line's end; the peer has to flush it."""
        assert self.process.stdout is not None
        waited = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(slept := min(BLINK, patience - waited)):
                    waited += slept
                    if waited >= patience:
                        raise Hang(
                            f"peer {self.pid} printed no line for {patience:g} s; has {self._buffer!r}"
                        )
                    continue
                part = os.read(self.process.stdout.fileno(), 65536)
                if not part:
                    self.process.wait(patience)
                    code = self.process.returncode
                    raise AssertionError(f"peer ended ({code}) before a line: {self._errors()}")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def expect(self, text: str, patience: float = PATIENCE) -> None:
        """The next line has to be `text`."""
        got = self.line(patience)
        assert got == text, f"peer {self.pid} printed {got!r}, expected {text!r}"

    def send(self, text: str = "") -> None:
        """Writes one line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and reaps it."""
        self.process.kill()
        self._reap()

    def kill_unreaped(self) -> None:
        """SIGKILL and leaves the zombie; `reap()` or the fixture takes it away."""
        self.process.kill()

    def stop(self) -> None:
        """SIGSTOP, and waits until the kernel shows it stopped."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: process_state(self.pid) == "T", f"process {self.pid} to stop")

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def interrupt(self) -> None:
        """SIGINT, as Ctrl+C sends it."""
        self.process.send_signal(signal.SIGINT)

    def finish(self, patience: float = PATIENCE) -> str:
        """Closes its input, waits for its end, insists on exit code 0, returns what it had left to print."""
        code, out, errors = self.end(patience)
        assert code == 0, f"peer {self.pid} exited with {code}:\n{out}{errors}"
        return out

    def end(self, patience: float = PATIENCE) -> tuple[int, str, str]:
        """Closes its input and waits for its end, whatever it is: exit code, output, errors."""
        try:
            out, errors = self._communicate(patience)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler then prints where every thread stands
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, errors = self.process.communicate(timeout=5)
                raise Hang(f"peer {self.pid} did not end in {patience:g} s:\n{errors.decode()}") from None
            raise
        out, self._buffer = self._buffer + out, b""
        return self.process.returncode, out.decode(), errors.decode()

    def _communicate(self, patience: float) -> tuple[bytes, bytes]:
        waited = 0.0
        while True:
            slept = min(BLINK, patience - waited)
            try:
                return self.process.communicate(timeout=slept)
            except subprocess.TimeoutExpired:
                waited += slept
                if waited >= patience:
                    raise

    def reap(self) -> None:
        """Ends it in any state and takes away what is left."""
        if self.process.poll() is None:
            self.process.kill()
        self._reap()

    def _reap(self) -> None:
        self.process.wait(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()


def process_state(pid: int) -> str:
    """The state letter of /proc (R, S, D, T, Z …), or "" when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


def run_python(code: str, *args: object, patience: float = PATIENCE) -> str:
    """Runs `code` in an unrelated process to its end, insists on exit code 0, returns its output."""
    peer = Peer(code, *args)
    try:
        return peer.finish(patience)
    finally:
        peer.reap()


def object_files(namespace: Path) -> list[str]:
    """Names of the objects in a namespace directory: every file that does not start with a dot."""
    return sorted(entry.name for entry in namespace.iterdir() if not entry.name.startswith("."))


def put_word(path: Path, offset: int, value: int, size: int = 8) -> None:
    """Writes a number into a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value.to_bytes(size, "little"))


def get_word(path: Path, offset: int, size: int = 8) -> int:
    """Reads a number from a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(size), "little")


@contextlib.contextmanager
def peers() -> Iterator[Callable[..., Peer]]:
    """Gives a function that starts a `Peer`; all of them are ended on leaving."""
    started: list[Peer] = []

    def start(code: str, *args: object, **options: str) -> Peer:
        peer = Peer(code, *args, **options)
        started.append(peer)
        return peer

    try:
        yield start
    finally:
        for peer in started:
            peer.reap()
