"""How the commands speak: text that is safe to print, numbers for people, the hint about missing extras."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

EXTRA_HINT = "rich is not installed; for colours and the progress bar: pip install 'isthmus[cli]'"


class CommandError(Exception):
    """Ends the command with a message on stderr and an exit code, without a traceback."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def say(message: str) -> None:
    """Print one message about the run itself, on stderr."""
    print(f"isthmus: {printable(message)}", file=sys.stderr)


def printable(text: str) -> str:
    """Return `text` with everything escaped that could move the cursor or cannot be encoded.

    Names and command lines come from other processes.
    """
    if text.isprintable() and text.isascii():
        return text
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def size(count: float) -> str:
    """Return bytes in the unit that suits: ``999 B``, ``8.0 MiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return ``1 file``, ``2,000 files``."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def has_rich() -> bool:
    """Tell whether the extra ``cli`` is installed, without importing it."""
    return find_spec("rich") is not None


def is_terminal(stream: object) -> bool:
    """Tell whether `stream` can show colours and a moving bar."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM", "") not in ("", "dumb")
