"""The demo's child processes: started, watched, and ended in every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

MODULE = "isthmus.cli._demo_worker"


class Child:
    """One process of the demo."""

    def __init__(self, module: str, title: str, arguments: Sequence[str]) -> None:
        self.title = title
        # A file, not a pipe: nobody reads while it runs, and it must never block.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self.process = subprocess.Popen(
            # -P: the directory the user happens to be in must not shadow the standard library.
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=_environment(),
            # Ctrl+C goes to the foreground group: the collector alone, which then ends its children.
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self.process.pid

    def failure(self) -> str | None:
        """Say how it failed, None while it runs or when it ended well."""
        code = self.process.poll()
        if not code:
            return None
        if code < 0:
            return f"{self.title} (pid {self.pid}) was killed by {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{self.title} (pid {self.pid}) ended with exit code {code}: {last}"

    def running(self) -> bool:
        """Tell whether it still runs."""
        return self.process.poll() is None

    def close(self) -> None:
        """Let go of what belongs to the child; it must have ended."""
        self._errors.close()


class Children:
    """All of them. Leaving the `with` block ends every one, politely first."""

    def __init__(self, module: str | None = None) -> None:
        self.all: list[Child] = []
        self._module = module

    def __enter__(self) -> Self:
        return self

    def start(self, title: str, arguments: Sequence[str]) -> None:
        """Start one more."""
        self.all.append(Child(self._module or MODULE, title, arguments))

    def kill(self, pid: int) -> bool:
        """Kill a child and forget it; False, and nothing is forgotten, if it ended by itself before."""
        child = next(child for child in self.all if child.pid == pid)
        child.process.kill()
        if child.process.wait() != -signal.SIGKILL:
            return False
        self.all.remove(child)
        child.close()
        return True

    def failure(self) -> str | None:
        """Say how the first that failed did."""
        return next((text for child in self.all if (text := child.failure())), None)

    def running(self) -> bool:
        """Tell whether any still runs."""
        return any(child.running() for child in self.all)

    def wait(self, seconds: float) -> bool:
        """Wait for all to end; False if some still run."""
        end = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def __exit__(self, *_: object) -> None:
        if not self.wait(1.0):
            for how in (signal.SIGTERM, signal.SIGKILL):
                for child in self.all:
                    if child.running():
                        child.process.send_signal(how)
                if self.wait(1.0):
                    break
        for child in self.all:
            child.close()


def _environment() -> dict[str, str]:
    """Return the environment in which the children find the same package as this process."""
    root = str(Path(__file__).parents[2])
    environment = dict(os.environ)
    if not sys.flags.safe_path and sys.path and (Path(sys.path[0] or ".").resolve() == Path(root)):
        others = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{others}" if others else root
    return environment
