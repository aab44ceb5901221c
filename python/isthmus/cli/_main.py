"""The command line: arguments, exit codes, and errors as one line instead of a traceback.

Only what parsing needs is imported here; each command's module is imported when that command runs.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import isthmus
from isthmus.cli._show import CommandError, printable, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DONE = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130

_DEMO_FRAMES = "demo frames"
"""A command of two words; a folder of that name is ./frames."""

_EXAMPLES = """\
examples:
  isthmus demo                  count the words of Python's standard library with queues
  isthmus demo --kill 5         the same while workers are killed
  isthmus demo frames           pass on video frames between processes without copying them
  isthmus ls                    what is in the namespace, how full, and who is attached
  isthmus clean                 remove what killed processes left behind
  isthmus COMMAND --help        more on one command

exit codes: 0 done; 1 failed; 2 wrong arguments; 130 interrupted
"""

_DEMO = """\
examples:
  isthmus demo                            the running Python's standard library
  isthmus demo ~/notes --workers 4        every text file below a folder
  isthmus demo --capacity 256K --json     small queues, numbers for a program
  isthmus demo --kill 10                  ten workers are killed on the way, and nothing is lost

One reader process, several workers and one collector, joined by two queues, count the words of every text
file below PATH. The same files are then counted in one process, and both counts are compared. The exit code
is 0 only if they agree. Files that are not text or cannot be read are skipped, and the result says how many.
"""

_FRAMES = """\
examples:
  isthmus demo frames                              300 frames of 1920x1080, as fast as it goes
  isthmus demo frames --seconds 10 --rate 30       as a camera would send them
  isthmus demo frames --size 640x480 --json        small frames, numbers for a program

A camera process fills RGB frames where a detector process reads them, in the memory of a queue. The detector
finds a moving square, and computes a picture where the viewer reads it, in the memory of a second queue. The
viewer, this command, compares each picture with what the camera had drawn. The exit code is 0 only if every
frame came, in order and intact. Needs NumPy: pip install 'isthmus[demo]'
"""

_LS = """\
examples:
  isthmus ls
  isthmus ls --json | jq '.[] | select(.depth > 0) | .name'
  isthmus ls --namespace /dev/shm/isthmus-1000
  isthmus ls --kernel           the kernel's queues, semaphores and memory, of all programs

--kernel shows POSIX message queues (where /dev/mqueue is mounted), semaphores and shared memory, and those of
System V, with the processes that use them as far as this user may see it.
"""

_CLEAN = """\
examples:
  isthmus clean --dry-run       only say what would go
  isthmus clean

Objects that a living process uses and persistent ones stay.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout:  # None when it was closed before we began
            sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed again, it must not cost us our exit code
        say("interrupted")
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
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    if list(arguments[:2]) == ["demo", "frames"]:
        arguments = [_DEMO_FRAMES, *arguments[2:]]
    options = _parser().parse_args(arguments)
    if (
        not options.command.startswith("demo")
        and options.namespace is not None
        and not Path(options.namespace).exists()
    ):
        # Opening it would make it, and hide a typing error behind an empty table.
        raise CommandError(f"there is no namespace {options.namespace!r}", USAGE)
    match options.command:
        case "demo":
            from isthmus.cli._demo import run
        case "demo frames":
            from isthmus.cli._frames import run
        case "ls" if options.kernel:
            from isthmus.cli._ls_kernel import run
        case "ls":
            from isthmus.cli._ls import run
        case _:
            from isthmus.cli._clean import run
    return run(options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"isthmus: error: {printable(message)}\ntry: {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="isthmus",
        description="Inter-process communication on Linux.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"isthmus {isthmus.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = _command(commands, "demo", "count words with several processes, and check the result", _DEMO)
    library = "a folder or a file (default: the running Python's standard library)"
    demo.add_argument("path", metavar="PATH", nargs="?", help=library)
    workers = "number of worker processes (default: one a CPU, 2 to 8)"
    demo.add_argument("--workers", metavar="N", type=_number(1, 256), help=workers)
    capacity = "size of each queue, such as 512K or 8M (default: 8M)"
    demo.add_argument("--capacity", metavar="SIZE", type=_size, help=capacity)
    kill = "kill that many workers by SIGKILL on the way; the count has to stay exact (default: 0)"
    demo.add_argument("--kill", metavar="N", type=_number(0, 100_000), default=0, help=kill)
    demo.add_argument("--json", action="store_true", help="print the result as one JSON object")

    frames = _command(
        commands,
        _DEMO_FRAMES,
        "pass on video frames between processes without a copy, and check them",
        _FRAMES,
    )
    number = "stop after so many frames (default: 300, or no limit with --seconds)"
    frames.add_argument("--frames", metavar="N", type=_number(1, 10**8), default=0, help=number)
    seconds = "stop after so many seconds"
    frames.add_argument("--seconds", metavar="S", type=_amount, default=0.0, help=seconds)
    dimensions = "width and height of a frame in pixels (default: 1920x1080)"
    frames.add_argument("--size", metavar="WxH", type=_dimensions, default=(1920, 1080), help=dimensions)
    rate = "frames a second (default: as many as go through)"
    frames.add_argument("--rate", metavar="R", type=_amount, default=0.0, help=rate)
    frames.add_argument("--json", action="store_true", help="print the result as one JSON object")

    ls = _command(commands, "ls", "show the objects of the namespace", _LS)
    ls.add_argument("--json", action="store_true", help="print a JSON array, one object each")
    ls.add_argument("--kernel", action="store_true", help="show what the kernel has, whoever made it")

    clean = _command(commands, "clean", "remove objects that nobody uses any more", _CLEAN)
    clean.add_argument("--dry-run", action="store_true", help="remove nothing, say what would be removed")
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, what: str, examples: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    namespace = "the namespace's directory (default: $ISTHMUS_NAMESPACE, else one per user)"
    command.add_argument("--namespace", metavar="DIR", help=namespace)
    return command


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return number


def _amount(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 such as 10 or 0.5")
    return float(text)


def _dimensions(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})[x×]([0-9]{1,5})", text.strip(), re.ASCII)
    if not match or not all(32 <= int(side) <= 16384 for side in match.groups()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size from 32x32 to 16384x16384 such as 1920x1080"
        )
    return int(match[1]), int(match[2])


def _size(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,17})\s*([kmgt]?)(?:i?b)?", text.strip(), re.ASCII | re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512K, 8M or 1G")
    return int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")
