"""Contenders that are programs of their own: the C controls, and a command timed from outside."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from benches.compare import controls
from benches.compare.roles import clock
from benches.compare.team import TeamError

from .base import Contender, Sample, Setting


class Control(Contender):
    """A C program of controls/, compiled in place."""

    def __init__(self, name: str, title: str, *arguments: int) -> None:
        super().__init__("-".join(map(str, ("c", name, *arguments))), title, "control")
        self.name, self.arguments = name, arguments
        self.process: subprocess.Popen[str] | None = None

    def absent(self) -> str | None:
        return controls.why_not()

    def start(self, setting: Setting) -> None:
        command = [controls.build(self.name), *map(str, (*setting.cpus, *self.arguments))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.slice(0.02)

    def slice(self, seconds: float) -> Sample:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{max(1, round(seconds * 1000))}\n")
            self.process.stdin.flush()
            count, middle, p99 = self.process.stdout.readline().split()
        except (OSError, ValueError):
            raise TeamError(f"control {self.name} ended") from None
        return Sample(float(middle), float(p99), float(middle), int(count))

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()


class Command(Contender):
    """A whole process: started, run to its end, timed from outside."""

    def __init__(
        self, key: str, title: str, peer: str, arguments: list[str], check: Callable[[], str | None]
    ) -> None:
        super().__init__(key, title, peer)
        self.arguments, self.check = arguments, check

    def absent(self) -> str | None:
        return self.check()

    def start(self, setting: Setting) -> None:
        self.slice(0)  # fill the page cache, write the .pyc files

    def slice(self, seconds: float) -> Sample:
        start = clock()
        subprocess.run(self.arguments, check=True, stdin=subprocess.DEVNULL)
        return Sample(float(clock() - start), count=1)

    def stop(self) -> None:
        pass
