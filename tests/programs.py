"""C programs for the other end: compiled when a test first asks for them, and spoken to by lines of text."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from support import Peer


def compiled(source: str, *libraries: str) -> Path:
    """The program of this C source, made with `cc`; made once for all tests of a run."""
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"isthmus-test-programs-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    program = folder / name
    if not program.exists():
        part = folder / f"{name}.{os.getpid()}"
        libs = [f"-l{library}" for library in libraries]
        subprocess.run(
            ["cc", "-std=gnu11", "-O1", "-Wall", "-Werror", "-x", "c", "-", "-o", str(part), *libs],
            input=source,
            text=True,
            check=True,
        )
        part.rename(program)
    return program


class Program(Peer):
    """A program that is no Python, with everything that a `Peer` can do."""

    def __init__(self, path: Path | str, *args: object) -> None:
        self.process = subprocess.Popen(
            [str(path), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._buffer = b""
