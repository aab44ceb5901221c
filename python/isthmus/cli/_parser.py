"""The arguments of every command.

An argument's metavar says what may stand there, for `isthmus completion` too: QUEUE and NAME are names of
objects, DIR a folder, PATH a file or a folder, TYPE a type of messages, KIND a kind of objects.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

import isthmus
from isthmus.cli import _help
from isthmus.cli._arguments import amount, dimensions, number_between, seconds, size
from isthmus.cli._show import printable

USAGE = 2
DEMO_FRAMES = "demo frames"
"""A command of two words; a folder of that name is ./frames."""
SHELLS = ("bash", "zsh", "fish")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all errors of the command."""

    def error(self, message: str) -> NoReturn:
        """End the command with exit code 2."""
        self.exit(USAGE, f"isthmus: error: {printable(message)}\ntry: {self.prog} --help\n")


def parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="isthmus",
        description="Inter-process communication on Linux.",
        epilog=_help.COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"isthmus {isthmus.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_put, _get, _inspect, _ls, _rm, _clean, _doctor, _demo, _frames, _completion):
        add(commands)
    return parser


Commands = argparse._SubParsersAction  # its only name


def _command(commands: Commands[Parser], name: str, what: str, examples: str) -> argparse.ArgumentParser:
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


def _framing(command: argparse.ArgumentParser, whole: str) -> None:
    framing = command.add_mutually_exclusive_group()
    framing.add_argument("--null", action="store_true", help="messages end with a NUL instead of a line end")
    framing.add_argument("--whole", action="store_true", help=whole)
    text = 'lines of JSON for any queue: text as strings, other bytes as {"base64": …}'
    framing.add_argument("--json", action="store_true", help=text)


def _put(commands: Commands[Parser]) -> None:
    put = _command(commands, "put", "put messages from standard input into a queue", _help.PUT)
    put.add_argument("name", metavar="QUEUE", help="name of the queue; made if there is none")
    _framing(put, "all of the input is one message")
    timeout = "seconds to wait for room for a message (default: as long as it takes)"
    put.add_argument("--timeout", metavar="S", type=seconds, help=timeout)
    put.add_argument(
        "--priority",
        metavar="N",
        type=number_between(0, 15),
        default=0,
        help="priority of the messages (default: 0)",
    )
    raw = "the input is messages as the queue's type encodes them, as `get --raw` writes them"
    put.add_argument("--raw", action="store_true", help=raw)
    new = put.add_argument_group("a queue that is made", "One that exists must agree with what is given.")
    new.add_argument(
        "--type", metavar="TYPE", help="what messages are, such as str, dict, list[int] (default: bytes)"
    )
    new.add_argument(
        "--capacity", metavar="SIZE", type=size, help="bytes for messages, such as 512K (default: 8M)"
    )
    new.add_argument(
        "--priorities", metavar="N", type=number_between(1, 16), help="levels of priority (default: 1)"
    )


def _get(commands: Commands[Parser]) -> None:
    get = _command(commands, "get", "take messages from a queue and write them to standard output", _help.GET)
    get.add_argument("name", metavar="QUEUE", help="name of the queue")
    get.add_argument("-f", "--follow", action="store_true", help="wait for more until the queue ends")
    get.add_argument(
        "-n", dest="count", metavar="N", type=number_between(1, 10**8), help="end after N messages"
    )
    timeout = "seconds to wait for each message (default: 0, or with --follow as long as it takes)"
    get.add_argument("--timeout", metavar="S", type=seconds, help=timeout)
    _framing(get, "write messages with nothing between them")
    encoded = get.add_mutually_exclusive_group()
    raw = "write messages as they are encoded, whatever their type"
    encoded.add_argument("--raw", action="store_true", help=raw)
    unpickle = "of a queue of objects: unpickle the messages, which runs what is in them, and write JSON"
    encoded.add_argument("--unpickle", action="store_true", help=unpickle)


def _inspect(commands: Commands[Parser]) -> None:
    inspect = _command(
        commands, "inspect", "show all there is to see of an object, taking nothing", _help.INSPECT
    )
    inspect.add_argument("name", metavar="NAME", help="name of the object")
    messages = "how many of the next messages to show (default: 10)"
    inspect.add_argument("--messages", metavar="N", type=number_between(0, 10**6), default=10, help=messages)
    bytes_ = "read at most so many bytes of each message (default: 4096)"
    inspect.add_argument("--bytes", metavar="N", type=number_between(0, 10**8), default=4096, help=bytes_)
    inspect.add_argument("--json", action="store_true", help="print one JSON object")


def _ls(commands: Commands[Parser]) -> None:
    ls = _command(commands, "ls", "show the objects of the namespace", _help.LS)
    shown = ls.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print a JSON array, one object each")
    shown.add_argument("--names", action="store_true", help="print names only, one a line")
    ls.add_argument("--kernel", action="store_true", help="show what the kernel has, whoever made it")
    ls.add_argument("--kind", metavar="KIND", help="only objects of this kind, such as queue or mutex")


def _rm(commands: Commands[Parser]) -> None:
    rm = _command(commands, "rm", "remove objects, persistent ones too", _help.RM)
    rm.add_argument("names", metavar="NAME", nargs="+", help="name of an object")
    force = "remove the name even where processes use the object; they keep what they have"
    rm.add_argument("-f", "--force", action="store_true", help=force)


def _clean(commands: Commands[Parser]) -> None:
    clean = _command(commands, "clean", "remove objects that nobody uses any more", _help.CLEAN)
    clean.add_argument("--dry-run", action="store_true", help="remove nothing, say what would be removed")


def _doctor(commands: Commands[Parser]) -> None:
    what = "find deadlocks, waits for stopped processes and poisoned locks"
    doctor = _command(commands, "doctor", what, _help.DOCTOR)
    doctor.add_argument("--json", action="store_true", help="print a line of JSON for each finding")
    limit = "seconds that others may wait for a lock before its holder is named (default: 10)"
    doctor.add_argument("--hold-limit", metavar="S", type=seconds, default=10.0, help=limit)


def _completion(commands: Commands[Parser]) -> None:
    what = "print what makes your shell complete commands, options and names"
    completion = _command(commands, "completion", what, _help.COMPLETION)
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def _demo(commands: Commands[Parser]) -> None:
    demo = _command(commands, "demo", "count words with several processes, and check the result", _help.DEMO)
    library = "a folder or a file (default: the running Python's standard library)"
    demo.add_argument("path", metavar="PATH", nargs="?", help=library)
    workers = "number of worker processes (default: one a CPU, 2 to 8)"
    demo.add_argument("--workers", metavar="N", type=number_between(1, 256), help=workers)
    capacity = "size of each queue, such as 512K or 8M (default: 8M)"
    demo.add_argument("--capacity", metavar="SIZE", type=size, help=capacity)
    kill = "kill that many workers by SIGKILL on the way; the count has to stay exact (default: 0)"
    demo.add_argument("--kill", metavar="N", type=number_between(0, 100_000), default=0, help=kill)
    every = "instead of counting words, show every mechanism at work, a line each"
    demo.add_argument("--all", action="store_true", help=every)
    demo.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _frames(commands: Commands[Parser]) -> None:
    what = "pass on video frames between processes without a copy, and check them"
    frames = _command(commands, DEMO_FRAMES, what, _help.FRAMES)
    number = "stop after so many frames (default: 300, or no limit with --seconds)"
    frames.add_argument("--frames", metavar="N", type=number_between(1, 10**8), default=0, help=number)
    time = "stop after so many seconds"
    frames.add_argument("--seconds", metavar="S", type=amount, default=0.0, help=time)
    sides = "width and height of a frame in pixels (default: 1920x1080)"
    frames.add_argument("--size", metavar="WxH", type=dimensions, default=(1920, 1080), help=sides)
    rate = "frames a second (default: as many as go through)"
    frames.add_argument("--rate", metavar="R", type=amount, default=0.0, help=rate)
    frames.add_argument("--json", action="store_true", help="print the result as one JSON object")
