"""Running the command `isthmus` as people and scripts do: a process of its own, on a pipe or a terminal."""

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, NamedTuple

import isthmus
from support import PATIENCE, wait_until

COMMAND = [sys.executable, "-m", "isthmus"]


def isthmus_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end without a terminal; a warning of its own would be an error.

    How far a demo is it says every ten seconds, on a slow machine: that is left out of the errors.
    """
    done = subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    done.stderr = without_progress(done.stderr)
    return done


def without_progress(errors: str) -> str:
    """What a demo has said, without the lines that say how far it is."""
    return re.sub(r"^(?:queues|alone|frames):.*/s.*\n", "", errors, flags=re.MULTILINE)


class Done(NamedTuple):
    """How a command ended that was given bytes."""

    returncode: int
    stdout: bytes
    stderr: str


def piped(data: bytes, *arguments: str) -> Done:
    """Runs the command to its end with these bytes as its input."""
    with running(*arguments) as process:
        out, errors = process.communicate(data, timeout=PATIENCE * 2)
    return Done(process.returncode, out, errors.decode())


@contextlib.contextmanager
def running(*arguments: str, stdout: int | IO[bytes] = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """The command with its input (and output) in our hands; killed in the end if it still runs."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def errors_of(process: subprocess.Popen[bytes], code: int) -> str:
    """Waits for the end of a command that was started, insists on its exit code, returns what it said."""
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    assert process.wait(PATIENCE) == code, errors
    assert "Traceback" not in errors
    return errors


def wait_for_waiting(name: str, what: str, count: int = 1) -> None:
    """Waits until so many threads of other processes wait `"to_put"` or `"to_get"`."""

    def waiting() -> bool:
        attached = isthmus.inspect(name).attached
        others = [one for one in attached if one.pid != os.getpid()]
        return count == sum(one.waiting_to_put if what == "to_put" else one.waiting_to_get for one in others)

    wait_until(waiting, f"{count} to wait {what} at {name}")


def on_terminal(*arguments: str, columns: int = 120, **environment: str) -> tuple[int, str]:
    """Runs the command on a terminal of its own; returns its exit code and everything it showed."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            break
        shown += part
    os.close(master)
    return process.wait(PATIENCE), shown.decode()


def assert_error(done: subprocess.CompletedProcess[str], code: int, text: str) -> None:
    """The command ended with `code` and says why, in words."""
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert done.stderr.startswith("isthmus: error: ")
    assert "Traceback" not in done.stderr
