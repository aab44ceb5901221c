"""Running the command `isthmus` as people and scripts do: a process of its own, on a pipe or a terminal."""

import os
import pty
import subprocess
import sys

from support import PATIENCE

COMMAND = [sys.executable, "-m", "isthmus"]


def isthmus_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end without a terminal; a warning of its own would be an error."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )


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
