"""The command line: which command runs, exit codes, and errors as one line instead of a traceback.

Only what parsing needs is imported here; each command's module is imported when that command runs.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import isthmus
from isthmus.cli._parser import DEMO_FRAMES, USAGE, parser
from isthmus.cli._show import CommandError, say

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE = 0
FAILED = 1
INTERRUPTED = 130

_MODULES = {DEMO_FRAMES: "_frames"}
"""Commands whose module has another name than `_command`."""
_MAKES_NAMESPACES = ("demo", DEMO_FRAMES, "put", "completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no text of ours is worth a traceback
    try:
        code = _run(given)
        if sys.stdout:  # None when it was closed before we began
            sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed again, it must not cost us our exit code
        if given[:1] == ["demo"]:
            say("interrupted")
        _forget_output()
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()  # whoever read it has seen enough
        return DONE
    except CommandError as error:
        say(f"error: {error}")
        return error.code
    except (isthmus.IsthmusError, OSError) as error:
        say(f"error: {error}")
        _forget_output()
        return FAILED
    return code


def _forget_output() -> None:
    """Send what could not be written into nothing: the interpreter would try again and complain."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    if list(arguments[:2]) == ["demo", "frames"]:
        arguments = [DEMO_FRAMES, *arguments[2:]]
    options = parser().parse_args(arguments)
    if (
        options.command not in _MAKES_NAMESPACES
        and options.namespace is not None
        and not Path(options.namespace).exists()
    ):
        # Opening it would make it, and hide a typing error behind an empty table.
        raise CommandError(f"there is no namespace {options.namespace!r}", USAGE)
    module = _MODULES.get(options.command, f"_{options.command}")
    if options.command == "ls" and options.kernel:
        module = "_ls_kernel"
    if options.command == "demo" and options.all:
        module = "_all"
    code: int = import_module(f"isthmus.cli.{module}").run(options)
    return code
