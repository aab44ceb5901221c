"""The C controls, compiled with the machine's own compiler when first used."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "gcc"))


def why_not() -> str | None:
    return None if compiler() else "no C compiler (set CC)"


@functools.cache
def directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="isthmus-controls-")


@functools.cache
def build(name: str) -> str:
    """The path of the compiled control."""
    program = Path(directory().name, name)
    gcc = compiler()
    assert gcc is not None
    subprocess.run([gcc, "-O2", "-Wall", "-Wextra", "-o", program, SOURCES / f"{name}.c"], check=True)
    return str(program)


def compiler_version() -> str | None:
    gcc = compiler()
    if gcc is None:
        return None
    return subprocess.run([gcc, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[
        0
    ]
