"""``isthmus demo --all``: every mechanism at work between real processes, a line each."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import isthmus
from isthmus import sysv
from isthmus.cli._all_links import LINKS, Fifos, Link, Mapped, Pipes, Shared
from isthmus.cli._all_turns import TURNS, take_turns
from isthmus.cli._show import say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

MESSAGES = 1000
ROUNDS = 1000
LEFT = 20
"""Semaphores of System V."""


class Line(NamedTuple):
    """What was seen of one mechanism."""

    mechanism: str
    what: str
    """What was exchanged, and whether it arrived intact."""
    intact: bool
    latency_us: float
    """Median of a message and its answer, or of one turn."""
    per_second: float
    """Messages, or turns."""


def run(options: argparse.Namespace) -> int:
    """Run all of them; 0 only if everything arrived intact."""
    lines = []
    shown: list[tuple[str, Callable[[str, str], Line]]] = [(each, _exchange) for each in LINKS]
    shown += [(each, _count) for each in TURNS]
    shown += [("pipeline", _pipeline), ("System V", _system_v)]
    for number, (mechanism, show) in enumerate(shown):
        name = f"demo-{os.getpid()}-{number}"
        try:
            line = show(mechanism, name)
        except (isthmus.IsthmusError, OSError, subprocess.SubprocessError) as error:
            line = Line(mechanism, f"{type(error).__name__}: {error}", False, 0.0, 0.0)
        lines.append(line)
        if not options.json:
            print(_text(line), flush=True)
    if options.json:
        print(json.dumps([line._asdict() for line in lines]))
    intact = sum(line.intact for line in lines)
    say(f"{intact} of {len(lines)} mechanisms work, everything arrived intact")
    return 0 if intact == len(lines) else 1


def _text(line: Line) -> str:
    mark = "ok " if line.intact else "BAD"
    figures = f"{line.latency_us:9.1f} us {line.per_second:11,.0f}/s" if line.intact else ""
    return f"{mark} {line.mechanism:18} {line.what:66} {figures}".rstrip()


def _start(module: str, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", f"isthmus.cli.{module}", *arguments], **streams)


def _exchange(mechanism: str, name: str) -> Line:
    """Messages there and back again, each compared, and timed one by one."""
    kind, runs_on = LINKS[mechanism]
    if kind is Pipes:
        there, back = isthmus.Pipe(type=bytes), isthmus.Pipe(type=bytes)
        link: Link = Pipes(name, first=True)
        streams = {"stdin": there.reader.fileno(), "stdout": back.writer.fileno()}
        peer = _start("_all_links", mechanism, name, **streams)
        link.writer, link.reader = there.as_writer(), back.as_reader()  # type: ignore[attr-defined]
        link.stack.callback(there.close)
        link.stack.callback(back.close)
    elif issubclass(kind, (Fifos, Shared, Mapped)):
        peer = _start("_all_links", mechanism, name)
        link = kind(name, first=True)
    else:
        link = kind(name, first=True)
        peer = _start("_all_links", mechanism, name)
    try:
        intact = 0
        times = []
        # The first one waits until the other process is there.
        link.send(b"\1" * link.size)
        link.recv()
        began = time.perf_counter()
        for number in range(MESSAGES):
            message = number.to_bytes(4, "little") * (link.size // 4)
            start = time.perf_counter()
            link.send(message)
            intact += link.recv() == message
            times.append(time.perf_counter() - start)
        seconds = time.perf_counter() - began
        link.send(link.last())
        ended = peer.wait(20) == 0
    finally:
        peer.kill()
        peer.wait()
        link.close()
    what = f"{intact:,} messages of {link.size} bytes and answers, {runs_on}"
    return Line(
        mechanism,
        what,
        intact == MESSAGES and ended,
        statistics.median(times) * 1e6,
        2 * MESSAGES / seconds,
    )


def _count(mechanism: str, name: str) -> Line:
    """Two processes count together; no count may be lost."""
    number = isthmus.Value(f"{name}-number", initial=0)
    peer = _start("_all_turns", mechanism, name, str(ROUNDS))
    try:
        began = take_turns(mechanism, name, True, ROUNDS)
        ended = peer.wait(30) == 0
        seconds = time.perf_counter() - began
    finally:
        peer.kill()
        peer.wait()
    counted = int(number.get())
    number.close()
    what = f"counted to {counted:,} together, {TURNS[mechanism][1]}"
    return Line(mechanism, what, ended and counted == 2 * ROUNDS, seconds / counted * 1e6, counted / seconds)


def _pipeline(mechanism: str, _name: str) -> Line:
    """Programs and a Python function in a row."""
    lines = [f"line {number}".encode() for number in range(MESSAGES)]
    began = time.perf_counter()
    out = list(isthmus.pipeline("cat", _upper, "cat", input=b"".join(line + b"\n" for line in lines)))
    seconds = time.perf_counter() - began
    intact = [bytes(line).rstrip(b"\n") for line in out] == [line.upper() for line in lines]
    what = f"{len(out):,} lines through cat, a function, cat"
    return Line(mechanism, what, intact, seconds * 1e6 / MESSAGES, MESSAGES / seconds)


def _system_v(mechanism: str, _name: str) -> Line:
    """What a program has left behind, found and removed."""
    program = f"import ctypes\nfor _ in range({LEFT}): print(ctypes.CDLL(None).semget(0, 1, 0o1600))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    left = {int(number) for number in done.stdout.split()}
    began = time.perf_counter()
    found = [each for each in sysv.semaphores() if each.id in left]
    for each in found:
        each.remove()
    seconds = time.perf_counter() - began
    intact = len(found) == LEFT and not any(each.id in left for each in sysv.semaphores())
    what = f"{len(found)} semaphores of a program that has ended, found and removed"
    return Line(mechanism, what, intact, seconds * 1e6 / LEFT, LEFT / seconds)


def _upper(lines: Any) -> Any:
    for line in lines:
        yield bytes(line).upper()
